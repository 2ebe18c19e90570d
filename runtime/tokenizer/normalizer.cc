#include "runtime/tokenizer/normalizer.h"

#include <utf8proc.h>

#include <cstdlib>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"
#include "runtime/tokenizer/json_access.h"
#include "runtime/tokenizer/regex.h"
#include "runtime/tokenizer/utf8.h"

namespace kvasir {
namespace {

using nlohmann::json;

absl::Status CheckSize(size_t size_bytes) {
  if (size_bytes <= kMaxNormalizedBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the tokenizer's normalizer makes the text longer than ", kMaxNormalizedBytes,
                   " bytes; send a shorter text"));
}

class UnicodeForm : public Normalizer {
 public:
  explicit UnicodeForm(int options) : options_(options | UTF8PROC_STABLE) {}

  // Every form leaves ASCII alone, and nothing combines across the front of an ASCII character. So
  // only the runs of other characters are mapped, each with the ASCII character before it, which
  // may take an accent.
  absl::Status Apply(std::string* text) const override {
    absl::string_view rest = *text;
    size_t ascii_bytes = AsciiPrefixBytes(rest);
    if (ascii_bytes == rest.size()) return absl::OkStatus();
    std::string mapped;
    mapped.reserve(text->size() + text->size() / 8);
    while (ascii_bytes < rest.size()) {
      const size_t run_begin = ascii_bytes > 0 ? ascii_bytes - 1 : 0;
      size_t run_end = ascii_bytes;
      while (run_end < rest.size() && static_cast<uint8_t>(rest[run_end]) >= 0x80) ++run_end;
      mapped.append(rest.data(), run_begin);
      KVASIR_RETURN_IF_ERROR(AppendMapped(rest.substr(run_begin, run_end - run_begin), &mapped));
      KVASIR_RETURN_IF_ERROR(CheckSize(mapped.size()));
      rest.remove_prefix(run_end);
      ascii_bytes = AsciiPrefixBytes(rest);
    }
    mapped.append(rest.data(), rest.size());
    *text = std::move(mapped);
    return CheckSize(text->size());
  }

 private:
  absl::Status AppendMapped(absl::string_view run, std::string* out) const {
    utf8proc_uint8_t* mapped = nullptr;
    const utf8proc_ssize_t length =
        utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(run.data()),
                     static_cast<utf8proc_ssize_t>(run.size()), &mapped,
                     static_cast<utf8proc_option_t>(options_));
    if (length < 0) {
      return absl::ResourceExhaustedError(absl::StrCat("Unicode normalisation of ", run.size(),
                                                       " bytes failed: ", utf8proc_errmsg(length),
                                                       ". Retry later or send a shorter text"));
    }
    out->append(reinterpret_cast<const char*>(mapped), static_cast<size_t>(length));
    std::free(mapped);
    return absl::OkStatus();
  }

  const int options_;
};

class Lowercase : public Normalizer {
 public:
  absl::Status Apply(std::string* text) const override {
    std::string lower;
    lower.reserve(text->size());
    for (size_t offset = 0; offset < text->size();) {
      const CodePoint c = CodePointAt(*text, offset);
      offset += c.length_bytes;
      if (c.value == 0x130) {  // İ, the one character whose lower case is two
        lower += "i\u0307";
      } else {
        AppendUtf8(static_cast<uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c.value))),
                   &lower);
      }
    }
    *text = std::move(lower);
    return absl::OkStatus();
  }
};

// Drops combining marks; files put an NFD before it.
class StripAccents : public Normalizer {
 public:
  absl::Status Apply(std::string* text) const override {
    std::string bare;
    bare.reserve(text->size());
    for (size_t offset = 0; offset < text->size();) {
      const CodePoint c = CodePointAt(*text, offset);
      if (utf8proc_category(static_cast<utf8proc_int32_t>(c.value)) != UTF8PROC_CATEGORY_MN) {
        bare.append(*text, offset, c.length_bytes);
      }
      offset += c.length_bytes;
    }
    *text = std::move(bare);
    return absl::OkStatus();
  }
};

class StripWhitespace : public Normalizer {
 public:
  StripWhitespace(bool left, bool right) : left_(left), right_(right) {}

  absl::Status Apply(std::string* text) const override {
    size_t begin = 0, end = text->size();
    while (left_ && begin < end) {
      const CodePoint c = CodePointAt(*text, begin);
      if (!IsWhitespace(c.value)) break;
      begin += c.length_bytes;
    }
    while (right_ && begin < end) {
      const size_t last = PreviousCodePoint(*text, end);
      if (!IsWhitespace(CodePointAt(*text, last).value)) break;
      end = last;
    }
    *text = text->substr(begin, end - begin);
    return absl::OkStatus();
  }

 private:
  const bool left_, right_;
};

class Prepend : public Normalizer {
 public:
  explicit Prepend(std::string prefix) : prefix_(std::move(prefix)) {}

  absl::Status Apply(std::string* text) const override {
    if (!text->empty()) text->insert(0, prefix_);
    return CheckSize(text->size());
  }

 private:
  const std::string prefix_;
};

class Replace : public Normalizer {
 public:
  Replace(Regex pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}

  absl::Status Apply(std::string* text) const override {
    std::string replaced;
    size_t copied = 0;
    Regex::Scanner matches(pattern_);
    matches.Start(*text);
    while (matches.Next()) {
      replaced.append(*text, copied, matches.begin() - copied);
      replaced += content_;
      copied = matches.end();
      KVASIR_RETURN_IF_ERROR(CheckSize(replaced.size()));
    }
    KVASIR_RETURN_IF_ERROR(matches.status());
    if (copied == 0) return absl::OkStatus();  // no match: matches are not empty
    replaced.append(*text, copied, std::string::npos);
    *text = std::move(replaced);
    return CheckSize(text->size());
  }

 private:
  const Regex pattern_;
  const std::string content_;
};

class Sequence : public Normalizer {
 public:
  explicit Sequence(std::vector<std::unique_ptr<Normalizer>> steps) : steps_(std::move(steps)) {}

  absl::Status Apply(std::string* text) const override {
    for (const auto& step : steps_) KVASIR_RETURN_IF_ERROR(step->Apply(text));
    return absl::OkStatus();
  }

 private:
  const std::vector<std::unique_ptr<Normalizer>> steps_;
};

absl::StatusOr<std::unique_ptr<Normalizer>> Parse(const json& value, int depth) {
  if (depth > kMaxComponentDepth) {
    return absl::InvalidArgumentError(
        absl::StrCat("normalizers nest deeper than the limit of ", kMaxComponentDepth));
  }
  KVASIR_ASSIGN_OR_RETURN(const std::string type, GetString(value, "type", "normalizer"));
  if (type == "NFC") return std::make_unique<UnicodeForm>(UTF8PROC_COMPOSE);
  if (type == "NFD") return std::make_unique<UnicodeForm>(UTF8PROC_DECOMPOSE);
  if (type == "NFKC") return std::make_unique<UnicodeForm>(UTF8PROC_COMPOSE | UTF8PROC_COMPAT);
  if (type == "NFKD") return std::make_unique<UnicodeForm>(UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT);
  if (type == "Lowercase") return std::make_unique<Lowercase>();
  if (type == "StripAccents") return std::make_unique<StripAccents>();
  if (type == "Strip") {
    KVASIR_ASSIGN_OR_RETURN(const bool left, GetBoolOr(value, "strip_left", "normalizer", true));
    KVASIR_ASSIGN_OR_RETURN(const bool right, GetBoolOr(value, "strip_right", "normalizer", true));
    return std::make_unique<StripWhitespace>(left, right);
  }
  if (type == "Prepend") {
    KVASIR_ASSIGN_OR_RETURN(std::string prefix, GetString(value, "prepend", "normalizer"));
    return std::make_unique<Prepend>(std::move(prefix));
  }
  if (type == "Replace") {
    KVASIR_ASSIGN_OR_RETURN(Regex pattern, Regex::FromJson(value, "normalizer"));
    KVASIR_ASSIGN_OR_RETURN(std::string content, GetString(value, "content", "normalizer"));
    return std::make_unique<Replace>(std::move(pattern), std::move(content));
  }
  if (type == "Sequence") {
    KVASIR_ASSIGN_OR_RETURN(const json* list, GetArray(value, "normalizers", "normalizer"));
    std::vector<std::unique_ptr<Normalizer>> steps;
    for (const json& item : *list) {
      KVASIR_ASSIGN_OR_RETURN(steps.emplace_back(), Parse(item, depth + 1));
    }
    return std::make_unique<Sequence>(std::move(steps));
  }
  return absl::UnimplementedError(
      absl::StrCat("normalizer type \"", absl::CHexEscape(type),
                   "\" is not supported (NFC, NFD, NFKC, NFKD, Lowercase, StripAccents, Strip, "
                   "Prepend, Replace and "
                   "Sequence are)"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Normalizer>> ParseNormalizer(const json& value) {
  if (value.is_null()) return nullptr;
  return Parse(value, 0);
}

}  // namespace kvasir
