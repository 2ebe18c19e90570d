#include "runtime/tokenizer/pre_tokenizer.h"

#include <utf8proc.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"
#include "runtime/tokenizer/byte_level.h"
#include "runtime/tokenizer/json_access.h"
#include "runtime/tokenizer/regex.h"
#include "runtime/tokenizer/utf8.h"

namespace kvasir {
namespace {

using nlohmann::json;

// What ByteLevel splits at when its use_regex is on: GPT-2's pattern.
constexpr char kGpt2Pattern[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// Whitespace: runs of word characters (joiners count here), runs of other visible ones.
constexpr char kWordsPattern[] = R"([\w\x{200C}\x{200D}]+|[^\w\s\x{200C}\x{200D}]+)";

// Replaces every piece by its split at the matches of `pattern`. Each piece is matched for itself,
// so that no lookahead sees the next one.
absl::Status SplitByPattern(const Regex& pattern, SplitBehavior behavior, bool invert,
                            PreTokens* tokens) {
  std::vector<TextSpan> pieces, matches;
  Regex::Scanner scanner(pattern);
  for (const TextSpan piece : tokens->pieces) {
    matches.clear();
    scanner.Start(tokens->Piece(piece));
    while (scanner.Next()) {
      matches.push_back({piece.begin + static_cast<uint32_t>(scanner.begin()),
                         piece.begin + static_cast<uint32_t>(scanner.end())});
    }
    KVASIR_RETURN_IF_ERROR(scanner.status());
    SplitAtMatches(piece, matches, behavior, invert, &pieces);
  }
  tokens->pieces = std::move(pieces);
  return absl::OkStatus();
}

// The same for single characters that satisfy `is_separator(code point)`.
template <typename Predicate>
void SplitByCharacter(Predicate is_separator, SplitBehavior behavior, PreTokens* tokens) {
  std::vector<TextSpan> pieces, matches;
  for (const TextSpan piece : tokens->pieces) {
    matches.clear();
    for (uint32_t offset = piece.begin; offset < piece.end;) {
      const CodePoint c = CodePointAt(tokens->text, offset);
      if (is_separator(c.value)) matches.push_back({offset, offset + c.length_bytes});
      offset += c.length_bytes;
    }
    SplitAtMatches(piece, matches, behavior, /*invert=*/false, &pieces);
  }
  tokens->pieces = std::move(pieces);
}

// Writes every piece anew with rewrite(piece's text, index, &new text).
template <typename Rewrite>
void RewritePieces(Rewrite rewrite, PreTokens* tokens) {
  std::string text;
  text.reserve(tokens->text.size() + tokens->text.size() / 4);
  for (size_t i = 0; i < tokens->pieces.size(); ++i) {
    const uint32_t begin = static_cast<uint32_t>(text.size());
    rewrite(tokens->Piece(tokens->pieces[i]), i, &text);
    tokens->pieces[i] = {begin, static_cast<uint32_t>(text.size())};
  }
  tokens->text = std::move(text);
}

utf8proc_category_t CategoryOf(uint32_t code_point) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(code_point));
}

bool IsNumeric(uint32_t c) {
  if (c < 0x80) return c >= '0' && c <= '9';
  const utf8proc_category_t category = CategoryOf(c);
  return category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO;  // Nd, Nl, No
}

bool IsPunctuation(uint32_t c) {
  if (c < 0x80) {  // ASCII symbols such as $ and + count, as in the reference tokenizer
    return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
           (c >= '{' && c <= '~');
  }
  const utf8proc_category_t category = CategoryOf(c);
  return category >= UTF8PROC_CATEGORY_PC &&
         category <= UTF8PROC_CATEGORY_PO;  // Pc Pd Ps Pe Pi Pf Po
}

class ByteLevel : public PreTokenizer {
 public:
  // `pattern` absent: an earlier Split has done the cutting.
  ByteLevel(bool add_prefix_space, std::unique_ptr<const Regex> pattern)
      : add_prefix_space_(add_prefix_space), pattern_(std::move(pattern)) {}

  absl::Status Apply(bool, PreTokens* tokens) const override {
    if (add_prefix_space_) {
      RewritePieces(
          [](absl::string_view piece, size_t, std::string* out) {
            if (piece[0] != ' ') out->push_back(' ');
            out->append(piece.data(), piece.size());
          },
          tokens);
    }
    if (pattern_ != nullptr) {
      KVASIR_RETURN_IF_ERROR(
          SplitByPattern(*pattern_, SplitBehavior::kIsolated, /*invert=*/false, tokens));
    }
    RewritePieces(
        [](absl::string_view piece, size_t, std::string* out) { AppendByteLevel(piece, out); },
        tokens);
    return absl::OkStatus();
  }

 private:
  const bool add_prefix_space_;
  const std::unique_ptr<const Regex> pattern_;
};

class Split : public PreTokenizer {
 public:
  Split(Regex pattern, SplitBehavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}

  absl::Status Apply(bool, PreTokens* tokens) const override {
    return SplitByPattern(pattern_, behavior_, invert_, tokens);
  }

 private:
  const Regex pattern_;
  const SplitBehavior behavior_;
  const bool invert_;
};

class Digits : public PreTokenizer {
 public:
  explicit Digits(bool individual) : individual_(individual) {}

  absl::Status Apply(bool, PreTokens* tokens) const override {
    SplitByCharacter(IsNumeric, individual_ ? SplitBehavior::kIsolated : SplitBehavior::kContiguous,
                     tokens);
    return absl::OkStatus();
  }

 private:
  const bool individual_;
};

class Punctuation : public PreTokenizer {
 public:
  explicit Punctuation(SplitBehavior behavior) : behavior_(behavior) {}

  absl::Status Apply(bool, PreTokens* tokens) const override {
    SplitByCharacter(IsPunctuation, behavior_, tokens);
    return absl::OkStatus();
  }

 private:
  const SplitBehavior behavior_;
};

class WhitespaceSplit : public PreTokenizer {
 public:
  absl::Status Apply(bool, PreTokens* tokens) const override {
    SplitByCharacter(IsWhitespace, SplitBehavior::kRemoved, tokens);
    return absl::OkStatus();
  }
};

// SentencePiece's way: blanks become a visible mark that stays with the word after it.
class Metaspace : public PreTokenizer {
 public:
  enum class PrependScheme { kAlways, kFirst, kNever };

  Metaspace(std::string mark, PrependScheme prepend, bool split)
      : mark_(std::move(mark)), prepend_(prepend), split_(split) {}

  absl::Status Apply(bool at_text_start, PreTokens* tokens) const override {
    RewritePieces(
        [&](absl::string_view piece, size_t index, std::string* out) {
          const bool may_prepend =
              prepend_ == PrependScheme::kAlways ||
              (prepend_ == PrependScheme::kFirst && at_text_start && index == 0);
          if (may_prepend && piece[0] != ' ' && !absl::StartsWith(piece, mark_)) *out += mark_;
          for (const char c : piece) {
            if (c == ' ') {
              *out += mark_;
            } else {
              out->push_back(c);
            }
          }
        },
        tokens);
    if (!split_) return absl::OkStatus();
    const uint32_t mark = CodePointAt(mark_, 0).value;
    SplitByCharacter([mark](uint32_t c) { return c == mark; }, SplitBehavior::kMergedWithNext,
                     tokens);
    return absl::OkStatus();
  }

 private:
  const std::string mark_;  // one character
  const PrependScheme prepend_;
  const bool split_;
};

class Sequence : public PreTokenizer {
 public:
  explicit Sequence(std::vector<std::unique_ptr<PreTokenizer>> steps) : steps_(std::move(steps)) {}

  absl::Status Apply(bool at_text_start, PreTokens* tokens) const override {
    for (const auto& step : steps_) KVASIR_RETURN_IF_ERROR(step->Apply(at_text_start, tokens));
    return absl::OkStatus();
  }

 private:
  const std::vector<std::unique_ptr<PreTokenizer>> steps_;
};

using ParsedPreTokenizer = absl::StatusOr<std::unique_ptr<PreTokenizer>>;

ParsedPreTokenizer ParseByteLevel(const json& value) {
  KVASIR_ASSIGN_OR_RETURN(const bool prefix,
                          GetBoolOr(value, "add_prefix_space", "pre_tokenizer", true));
  KVASIR_ASSIGN_OR_RETURN(const bool use_regex,
                          GetBoolOr(value, "use_regex", "pre_tokenizer", true));
  std::unique_ptr<const Regex> pattern;
  if (use_regex) {
    KVASIR_ASSIGN_OR_RETURN(Regex compiled, Regex::Compile(kGpt2Pattern));
    pattern = std::make_unique<const Regex>(std::move(compiled));
  }
  return std::make_unique<ByteLevel>(prefix, std::move(pattern));
}

ParsedPreTokenizer ParseSplit(const json& value) {
  KVASIR_ASSIGN_OR_RETURN(Regex pattern, Regex::FromJson(value, "pre_tokenizer"));
  KVASIR_ASSIGN_OR_RETURN(const std::string name, GetString(value, "behavior", "pre_tokenizer"));
  KVASIR_ASSIGN_OR_RETURN(const SplitBehavior behavior, ParseSplitBehavior(name));
  KVASIR_ASSIGN_OR_RETURN(const bool invert, GetBoolOr(value, "invert", "pre_tokenizer", false));
  return std::make_unique<Split>(std::move(pattern), behavior, invert);
}

ParsedPreTokenizer ParseMetaspace(const json& value) {
  KVASIR_ASSIGN_OR_RETURN(std::string mark,
                          GetStringOr(value, "replacement", "pre_tokenizer", "▁"));
  if (!IsOneCharacter(mark)) {
    return absl::InvalidArgumentError("pre_tokenizer.replacement must be one character");
  }
  // Files from before prepend_scheme say add_prefix_space.
  KVASIR_ASSIGN_OR_RETURN(const bool prefix,
                          GetBoolOr(value, "add_prefix_space", "pre_tokenizer", true));
  KVASIR_ASSIGN_OR_RETURN(
      const std::string scheme,
      GetStringOr(value, "prepend_scheme", "pre_tokenizer", prefix ? "always" : "never"));
  Metaspace::PrependScheme prepend;
  if (scheme == "always") {
    prepend = Metaspace::PrependScheme::kAlways;
  } else if (scheme == "first") {
    prepend = Metaspace::PrependScheme::kFirst;
  } else if (scheme == "never") {
    prepend = Metaspace::PrependScheme::kNever;
  } else {
    return absl::InvalidArgumentError(absl::StrCat("pre_tokenizer.prepend_scheme \"",
                                                   absl::CHexEscape(scheme),
                                                   "\" is not one of always, first, never"));
  }
  KVASIR_ASSIGN_OR_RETURN(const bool split, GetBoolOr(value, "split", "pre_tokenizer", true));
  return std::make_unique<Metaspace>(std::move(mark), prepend, split);
}

ParsedPreTokenizer Parse(const json& value, int depth) {
  if (depth > kMaxComponentDepth) {
    return absl::InvalidArgumentError(
        absl::StrCat("pre_tokenizers nest deeper than the limit of ", kMaxComponentDepth));
  }
  KVASIR_ASSIGN_OR_RETURN(const std::string type, GetString(value, "type", "pre_tokenizer"));
  if (type == "ByteLevel") return ParseByteLevel(value);
  if (type == "Split") return ParseSplit(value);
  if (type == "Metaspace") return ParseMetaspace(value);
  if (type == "WhitespaceSplit") return std::make_unique<WhitespaceSplit>();
  if (type == "Whitespace") {
    KVASIR_ASSIGN_OR_RETURN(Regex pattern, Regex::Compile(kWordsPattern));
    return std::make_unique<Split>(std::move(pattern), SplitBehavior::kRemoved, /*invert=*/true);
  }
  if (type == "Digits") {
    KVASIR_ASSIGN_OR_RETURN(const bool individual,
                            GetBoolOr(value, "individual_digits", "pre_tokenizer", false));
    return std::make_unique<Digits>(individual);
  }
  if (type == "Punctuation") {
    KVASIR_ASSIGN_OR_RETURN(const std::string name,
                            GetStringOr(value, "behavior", "pre_tokenizer", "Isolated"));
    KVASIR_ASSIGN_OR_RETURN(const SplitBehavior behavior, ParseSplitBehavior(name));
    return std::make_unique<Punctuation>(behavior);
  }
  if (type == "Sequence") {
    KVASIR_ASSIGN_OR_RETURN(const json* list, GetArray(value, "pretokenizers", "pre_tokenizer"));
    std::vector<std::unique_ptr<PreTokenizer>> steps;
    for (const json& item : *list) {
      KVASIR_ASSIGN_OR_RETURN(steps.emplace_back(), Parse(item, depth + 1));
    }
    return std::make_unique<Sequence>(std::move(steps));
  }
  return absl::UnimplementedError(
      absl::StrCat("pre_tokenizer type \"", absl::CHexEscape(type),
                   "\" is not supported (ByteLevel, Split, Digits, Metaspace, Punctuation, "
                   "Whitespace, WhitespaceSplit "
                   "and Sequence are)"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<PreTokenizer>> ParsePreTokenizer(const json& value) {
  if (value.is_null()) return nullptr;
  return Parse(value, 0);
}

}  // namespace kvasir
