#include "runtime/tokenizer/oniguruma_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"

namespace kvasir {
namespace {

// Members of a class: Oniguruma's \s and \w. Compared with it over all code points; what is left
// are letters newer than PCRE2's Unicode tables.
constexpr absl::string_view kBlanks = R"(\t-\r\x{85}\p{Z})";
constexpr absl::string_view kWordCharacters = R"(\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc})";

// Whether \p{name} is a script. PCRE2 since 10.40 then takes in the characters used with it, too
// (ideographic commas for Han); \p{sc:name} only those that belong to it. Older ones have no sc:
// and no such reading.
bool IsScript(absl::string_view name) {
  const std::string pattern = absl::StrCat("\\p{sc:", name, "}");
  int error = 0;
  PCRE2_SIZE error_offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                   PCRE2_UTF, &error, &error_offset, nullptr);
  pcre2_code_free(code);
  return code != nullptr;
}

class Translator {
 public:
  explicit Translator(absl::string_view pattern) : pattern_(pattern) {}

  absl::StatusOr<std::string> Run() {
    while (at_ < pattern_.size()) {
      if (pattern_[at_] == '\\' && at_ + 1 < pattern_.size()) {
        KVASIR_RETURN_IF_ERROR(Escape());
      } else if (in_class_) {
        KVASIR_RETURN_IF_ERROR(InClass());
      } else {
        if (pattern_[at_] == '[') BeginClass();
        CopyOne();
      }
    }
    return std::move(translated_);
  }

 private:
  absl::Status Refuse(absl::string_view what) const {
    return absl::UnimplementedError(
        absl::StrCat("pattern \"", absl::CHexEscape(pattern_.substr(0, 120)), "\" has ", what,
                     " at byte ", at_, ", which is not supported; rewrite it without"));
  }

  void CopyOne() { translated_ += pattern_[at_++]; }

  absl::Status Escape() {
    switch (pattern_[at_ + 1]) {
      case 'h':
      case 'H':
        return Refuse("\\h (hexadecimal digits in Oniguruma, blanks in PCRE2)");
      case 'Q':
        return Refuse("\\Q quoting");
      case 's':
        absl::StrAppend(&translated_, in_class_ ? "" : "[", kBlanks, in_class_ ? "" : "]");
        break;
      case 'S':
        // In a class the complement cannot be written out; what PCRE2's lacks is this one
        // character.
        absl::StrAppend(&translated_,
                        in_class_ ? "\\S\\x{180E}" : absl::StrCat("[^", kBlanks, "]"));
        break;
      case 'w':
        absl::StrAppend(&translated_, in_class_ ? "" : "[", kWordCharacters, in_class_ ? "" : "]");
        break;
      case 'W':
        if (in_class_) return Refuse("\\W in a class");
        absl::StrAppend(&translated_, "[^", kWordCharacters, "]");
        break;
      case 'p':
      case 'P':
        if (Property()) return absl::OkStatus();
        [[fallthrough]];
      default:
        absl::StrAppend(&translated_, pattern_.substr(at_, 2));
    }
    at_ += 2;
    return absl::OkStatus();
  }

  // \p{Script}, \P{Script}, \p{^Script}. False: another property, which both read alike.
  bool Property() {
    const size_t close = pattern_.find('}', at_);
    if (close == absl::string_view::npos || pattern_.substr(at_ + 2, 1) != "{") return false;
    absl::string_view name = pattern_.substr(at_ + 3, close - at_ - 3);
    const bool negated = (pattern_[at_ + 1] == 'P') != absl::ConsumePrefix(&name, "^");
    if (!IsScript(name)) return false;
    absl::StrAppend(&translated_, negated ? "\\P{sc:" : "\\p{sc:", name, "}");
    at_ = close + 1;
    return true;
  }

  // A ] in first place is a literal; copies up to it, leaving the last character to the caller.
  void BeginClass() {
    in_class_ = true;
    const absl::string_view rest = pattern_.substr(at_ + 1);
    for (const absl::string_view first : {absl::string_view("^]"), absl::string_view("]")}) {
      if (rest.substr(0, first.size()) != first) continue;
      for (size_t i = 0; i < first.size(); ++i) CopyOne();  // "[" or "[^"
      return;
    }
  }

  absl::Status InClass() {
    const char c = pattern_[at_];
    if (c == '&' && pattern_.substr(at_, 2) == "&&") return Refuse("the class intersection &&");
    if (c == '[') {
      if (pattern_.substr(at_, 2) != "[:") return Refuse("a class inside a class");
      const size_t close = pattern_.find(":]", at_ + 2);
      if (close == absl::string_view::npos) return Refuse("an unfinished [: class");
      while (at_ < close + 2) CopyOne();
      return absl::OkStatus();
    }
    in_class_ = c != ']';
    CopyOne();
    return absl::OkStatus();
  }

  const absl::string_view pattern_;
  size_t at_ = 0;
  bool in_class_ = false;
  std::string translated_;
};

}  // namespace

absl::StatusOr<std::string> TranslateOnigurumaPattern(absl::string_view pattern) {
  return Translator(pattern).Run();
}

}  // namespace kvasir
