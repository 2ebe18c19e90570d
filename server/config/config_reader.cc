#include "server/config/config_reader.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <sstream>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "base/regular_file.h"
#include "base/spelling.h"

namespace kvasir {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

// Faults beyond these are more likely one fault seen many times.
constexpr size_t kMaxFaults = 20;
// Of a wrong value or key, at most this many bytes are repeated in a message.
constexpr size_t kShownBytes = 64;

std::string Shown(absl::string_view value) {
  std::string shown = absl::CHexEscape(value.substr(0, kShownBytes));
  return absl::StrCat("'", shown, value.size() > kShownBytes ? "..." : "", "'");
}

const char* KindName(const YAML::Node& node) {
  switch (node.Type()) {
    case YAML::NodeType::Map:
      return "a mapping";
    case YAML::NodeType::Sequence:
      return "a list";
    case YAML::NodeType::Scalar:
      return "a single value";
    default:
      return "nothing";
  }
}

// yaml-cpp tags a quoted scalar "!" and a plain one "?".
bool IsQuoted(const YAML::Node& node) { return node.Tag() == "!"; }

class Walker {
 public:
  Walker(absl::string_view file_name, ConfigOrigins* origins)
      : file_name_(file_name), origins_(*origins) {}

  void Root(const YAML::Node& node, Message* message) { Fill(node, 1, "", message); }

  void Fault(int line, absl::string_view what) {
    if (faults_.size() < kMaxFaults)
      faults_.push_back(absl::StrCat(file_name_, ":", line, ": ", what));
  }

  absl::Status status() const {
    if (faults_.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrJoin(faults_, "\n"));
  }

 private:
  void Remember(const std::string& path, int line) {
    origins_[path] = absl::StrCat(file_name_, ":", line);
  }

  // Mapping -> message. `line` stands in for nodes without one (nulls).
  void Fill(const YAML::Node& node, int line, const std::string& path, Message* message) {
    // "server:" with every child commented out is an empty mapping.
    if (node.IsNull()) return;
    const Descriptor& descriptor = *message->GetDescriptor();
    if (!node.IsMap()) {
      Fault(line, absl::StrCat(path.empty() ? "the file" : path,
                               " must be a mapping of keys to values, but is ", KindName(node),
                               "; known keys: ", KeysOf(descriptor)));
      return;
    }
    std::map<std::string, int> seen;  // key -> line
    for (const auto& entry : node) {
      const int key_line = entry.first.Mark().line + 1;
      if (!entry.first.IsScalar()) {
        Fault(key_line, absl::StrCat("a key must be a word, but is ", KindName(entry.first)));
        continue;
      }
      const std::string& key = entry.first.Scalar();
      const std::string field_path = path.empty() ? key : absl::StrCat(path, ".", key);
      const FieldDescriptor* field = descriptor.FindFieldByName(key);
      if (field == nullptr) {
        Fault(key_line, UnknownKey(key, path, descriptor));
        continue;
      }
      const auto [first, is_new] = seen.emplace(key, key_line);
      if (!is_new) {
        Fault(key_line, absl::StrCat(field_path, " is given twice, first in line ", first->second,
                                     "; remove one"));
        continue;
      }
      Remember(field_path, key_line);
      if (field->is_repeated()) {
        FillList(entry.second, key_line, field_path, *field, message);
      } else if (field->type() == FieldDescriptor::TYPE_MESSAGE) {
        Fill(entry.second, key_line, field_path,
             message->GetReflection()->MutableMessage(message, field));
      } else {
        SetScalar(entry.second, key_line, field_path, *field, message);
      }
    }
  }

  void FillList(const YAML::Node& node, int line, const std::string& path,
                const FieldDescriptor& field, Message* message) {
    if (node.IsNull()) return;
    if (!node.IsSequence()) {
      Fault(line, absl::StrCat(path, " must be a list (\"- ",
                               field.message_type() == nullptr
                                   ? "..."
                                   : absl::StrCat(field.message_type()->field(0)->name(), ": ..."),
                               "\"), but is ", KindName(node)));
      return;
    }
    int index = 0;
    for (const auto& element : node) {
      const int element_line = element.IsNull() ? line : element.Mark().line + 1;
      const std::string element_path = absl::StrCat(path, "[", index++, "]");
      Remember(element_path, element_line);
      if (field.cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
        AddText(element, element_line, element_path, field, message);
        continue;
      }
      Fill(element, element_line, element_path,
           message->GetReflection()->AddMessage(message, &field));
    }
  }

  // The lists that do not hold messages hold text.
  void AddText(const YAML::Node& node, int line, const std::string& path,
               const FieldDescriptor& field, Message* message) {
    if (!node.IsScalar()) {
      Fault(line, absl::StrCat(path, " must be a single value, but is ", KindName(node)));
      return;
    }
    message->GetReflection()->AddString(message, &field, node.Scalar());
  }

  void SetScalar(const YAML::Node& node, int line, const std::string& path,
                 const FieldDescriptor& field, Message* message) {
    if (node.IsNull()) {
      Fault(line,
            absl::StrCat(path, " has no value; give one, or remove the key to take the default"));
      return;
    }
    if (!node.IsScalar()) {
      Fault(line, absl::StrCat(path, " must be a single value, but is ", KindName(node)));
      return;
    }
    const std::string& text = node.Scalar();
    const Reflection& reflection = *message->GetReflection();
    const auto wrong = [&](absl::string_view wanted) {
      Fault(line, absl::StrCat(path, " must be ", wanted, ", but is ", Shown(text),
                               IsQuoted(node) ? " in quotes" : ""));
    };
    switch (field.cpp_type()) {
      case FieldDescriptor::CPPTYPE_BOOL:
        if (IsQuoted(node) || (text != "true" && text != "false")) return wrong("true or false");
        return reflection.SetBool(message, &field, text == "true");
      case FieldDescriptor::CPPTYPE_INT32:
      case FieldDescriptor::CPPTYPE_INT64: {
        int64_t value = 0;
        if (IsByteSizeField(field)) {
          const absl::StatusOr<int64_t> size = ParseByteSize(text);
          if (!size.ok()) return Fault(line, absl::StrCat(path, ": ", size.status().message()));
          value = *size;
        } else if (IsQuoted(node) || !absl::SimpleAtoi(text, &value)) {
          return wrong("a whole number");
        }
        if (field.cpp_type() == FieldDescriptor::CPPTYPE_INT64) {
          return reflection.SetInt64(message, &field, value);
        }
        if (value < std::numeric_limits<int32_t>::min() ||
            value > std::numeric_limits<int32_t>::max()) {
          return wrong("a whole number between -2147483648 and 2147483647");
        }
        return reflection.SetInt32(message, &field, static_cast<int32_t>(value));
      }
      case FieldDescriptor::CPPTYPE_DOUBLE: {
        double value = 0;
        if (IsDurationField(field)) {
          const absl::StatusOr<double> seconds = ParseSeconds(text);
          if (!seconds.ok())
            return Fault(line, absl::StrCat(path, ": ", seconds.status().message()));
          return reflection.SetDouble(message, &field, *seconds);
        }
        if (IsQuoted(node) || !absl::SimpleAtod(text, &value) || !std::isfinite(value)) {
          return wrong("a finite number");
        }
        return reflection.SetDouble(message, &field, value);
      }
      case FieldDescriptor::CPPTYPE_STRING:
        // protobuf strings are UTF-8; yaml-cpp decodes the file as UTF-8 and replaces what is not.
        return reflection.SetString(message, &field, text);
      default:
        return Fault(line,
                     absl::StrCat(path, " has a type that the configuration reader does not know"));
    }
  }

  static std::vector<std::string> KeyList(const Descriptor& descriptor) {
    std::vector<std::string> keys;
    for (int i = 0; i < descriptor.field_count(); ++i) keys.push_back(descriptor.field(i)->name());
    return keys;
  }

  static std::string KeysOf(const Descriptor& descriptor) {
    return absl::StrJoin(KeyList(descriptor), ", ");
  }

  static std::string UnknownKey(const std::string& key, const std::string& path,
                                const Descriptor& descriptor) {
    const std::string where = path.empty() ? "at the top level" : absl::StrCat("in ", path);
    const std::string suggestion = DidYouMean(key, KeyList(descriptor));
    return absl::StrCat(
        "unknown key ", Shown(key), " ", where,
        suggestion.empty() ? absl::StrCat("; known keys: ", KeysOf(descriptor)) : suggestion);
  }

  const std::string file_name_;
  ConfigOrigins& origins_;
  std::vector<std::string> faults_;
};

// Counts the documents of a file, up to two. YAML::Load would ignore what follows the first one,
// and YAML::LoadAll of yaml-cpp 0.7 never ends on text like ",m": it makes empty documents without
// reading on.
class DocumentCounter : public YAML::EventHandler {
 public:
  // Throws YAML::Exception like YAML::Load.
  explicit DocumentCounter(absl::string_view text) {
    std::istringstream stream{std::string(text)};
    YAML::Parser parser(stream);
    while (count_ < 2 && parser.HandleNextDocument(*this)) {
    }
  }

  int count() const { return count_; }
  int second_line() const { return second_line_; }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++count_ == 2) second_line_ = mark.line + 1;
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t,
                const std::string&) override {}
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                  YAML::EmitterStyle::value) override {}
  void OnMapEnd() override {}

 private:
  int count_ = 0;
  int second_line_ = 0;
};

// A document into `message`, which is empty.
absl::Status Parse(absl::string_view text, absl::string_view file_name, Message* message,
                   ConfigOrigins* origins) {
  if (text.size() > kMaxConfigBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        file_name, " has ", text.size(), " bytes; a configuration may have ", kMaxConfigBytes));
  }
  Walker walker(file_name, origins);
  try {
    DocumentCounter documents(text);
    if (documents.count() > 1) {
      walker.Fault(documents.second_line(),
                   "something follows the end of the document that this file should be; remove it, "
                   "and any '---'");
    } else if (documents.count() == 1) {
      walker.Root(YAML::Load(std::string(text)), message);
    }
  } catch (const YAML::Exception& error) {
    // A null mark (line -1) belongs to errors that yaml-cpp cannot place.
    walker.Fault(std::max(error.mark.line + 1, 1), absl::StrCat("not valid YAML: ", error.msg));
  }
  return walker.status();
}

}  // namespace

absl::StatusOr<ConfigSource> ParseConfig(absl::string_view text, absl::string_view file_name) {
  ConfigSource source;
  if (absl::Status status = Parse(text, file_name, &source.message, &source.origins);
      !status.ok()) {
    return status;
  }
  return source;
}

absl::StatusOr<ModelSource> ParseModelOptions(absl::string_view text) {
  ModelSource source;
  if (absl::Status status = Parse(text, "options", &source.message, &source.origins);
      !status.ok()) {
    return status;
  }
  return source;
}

absl::StatusOr<ConfigSource> ReadConfigFile(const std::string& path) {
  absl::StatusOr<std::string> text = ReadRegularFile(path, kMaxConfigBytes);
  if (!text.ok()) {
    return absl::Status(text.status().code() == absl::StatusCode::kNotFound
                            ? absl::StatusCode::kNotFound
                            : absl::StatusCode::kInvalidArgument,
                        absl::StrCat("configuration file: ", text.status().message()));
  }
  return ParseConfig(*text, path);
}

absl::StatusOr<int64_t> ParseByteSize(absl::string_view text) {
  struct Unit {
    const char* suffix;
    int64_t bytes;
  };
  // "B" last: it ends all of them.
  static constexpr Unit kUnits[] = {{"Ki", int64_t{1} << 10},
                                    {"Mi", int64_t{1} << 20},
                                    {"Gi", int64_t{1} << 30},
                                    {"Ti", int64_t{1} << 40},
                                    {"KiB", int64_t{1} << 10},
                                    {"MiB", int64_t{1} << 20},
                                    {"GiB", int64_t{1} << 30},
                                    {"TiB", int64_t{1} << 40},
                                    {"kB", 1'000},
                                    {"MB", 1'000'000},
                                    {"GB", 1'000'000'000},
                                    {"TB", 1'000'000'000'000},
                                    {"B", 1}};
  const auto fault = [&](absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat(
        Shown(text), " ", what,
        "; write bytes, or a number with Ki, Mi, Gi or Ti (powers of 1024, also KiB ...) or "
        "kB, MB, GB or TB (of 1000), as in '4GiB'"));
  };
  absl::string_view digits = absl::StripAsciiWhitespace(text);
  int64_t unit = 1;
  for (const Unit& candidate : kUnits) {
    if (absl::EndsWith(digits, candidate.suffix)) {
      unit = candidate.bytes;
      digits = absl::StripTrailingAsciiWhitespace(
          digits.substr(0, digits.size() - std::strlen(candidate.suffix)));
      break;
    }
  }
  // "8G" is 8e9 to some programs and 2^33 to others; "4gib" and "500m" are no better.
  if (!digits.empty() && absl::ascii_isdigit(digits[0]) && absl::ascii_isalpha(digits.back())) {
    return fault("is not a size (unknown unit)");
  }
  // Digits and at most one point: SimpleAtod alone would take "inf", "1e9" and signs.
  if (digits.empty() || !absl::ascii_isdigit(digits[0]) ||
      digits.find_first_not_of("0123456789.") != absl::string_view::npos) {
    return fault(absl::StartsWith(digits, "-") ? "is negative" : "is not a size");
  }
  int64_t whole = 0;
  if (absl::SimpleAtoi(digits, &whole)) {
    if (whole > std::numeric_limits<int64_t>::max() / unit) return fault("is too large");
    return whole * unit;
  }
  double value = 0;
  if (!absl::SimpleAtod(digits, &value)) return fault("is not a size");
  const double bytes = value * static_cast<double>(unit);
  if (bytes >= 0x1p63) return fault("is too large");
  return static_cast<int64_t>(bytes);
}

absl::StatusOr<double> ParseSeconds(absl::string_view text) {
  struct Unit {
    const char* suffix;
    double seconds;
  };
  // "s" behind "ms": it ends both.
  static constexpr Unit kUnits[] = {{"ms", 1e-3}, {"s", 1}, {"m", 60}, {"h", 3600}, {"d", 86400}};
  absl::string_view digits = absl::StripAsciiWhitespace(text);
  double unit = 1;
  for (const Unit& candidate : kUnits) {
    if (!absl::ConsumeSuffix(&digits, candidate.suffix)) continue;
    unit = candidate.seconds;
    digits = absl::StripTrailingAsciiWhitespace(digits);
    break;
  }
  double value = 0;
  // SimpleAtod alone would take "inf", "nan" and blanks.
  if (digits.empty() || digits.find_first_not_of("0123456789.eE+-") != absl::string_view::npos ||
      !absl::SimpleAtod(digits, &value) || !std::isfinite(value * unit)) {
    return absl::InvalidArgumentError(
        absl::StrCat(Shown(text),
                     " is not a time; write a finite number of seconds, or a number with "
                     "ms, s, m (minutes), h or d, as in '30s'"));
  }
  // 500 / 1000 is the nearest double to a half second; 500 * 0.001 need not be.
  return unit < 1 ? value / 1000 : value * unit;
}

std::string FormatByteSize(int64_t bytes) {
  static constexpr const char* kSuffixes[] = {"", "KiB", "MiB", "GiB", "TiB"};
  int power = 0;
  while (power < 4 && bytes != 0 && bytes % 1024 == 0) {
    bytes /= 1024;
    ++power;
  }
  return absl::StrCat(bytes, kSuffixes[power]);
}

bool IsByteSizeField(const FieldDescriptor& field) {
  return (field.cpp_type() == FieldDescriptor::CPPTYPE_INT64 ||
          field.cpp_type() == FieldDescriptor::CPPTYPE_INT32) &&
         absl::EndsWith(field.name(), "_bytes");
}

bool IsDurationField(const FieldDescriptor& field) {
  return field.cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE &&
         absl::EndsWith(field.name(), "_seconds");
}

}  // namespace kvasir
