#include "server/config/config_reader.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <sstream>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/regular_file.h"
#include "base/spelling.h"
#include "server/config/scalar.h"

namespace kvasir {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

// Faults beyond these are more likely one fault seen many times.
constexpr size_t kMaxFaults = 20;
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
        FillValue(entry.second, key_line, field_path, *field, message);
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

  void FillValue(const YAML::Node& node, int line, const std::string& path,
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
    const absl::Status status = SetScalar(field, node.Scalar(), IsQuoted(node), message);
    if (!status.ok()) Fault(line, absl::StrCat(path, status.message()));
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
        "unknown key ", ShownValue(key), " ", where,
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

}  // namespace kvasir
