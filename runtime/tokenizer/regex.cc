#include "runtime/tokenizer/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"
#include "runtime/tokenizer/json_access.h"
#include "runtime/tokenizer/oniguruma_pattern.h"
#include "runtime/tokenizer/utf8.h"

namespace kvasir {
namespace {

// Real patterns have a few hundred bytes; the longest known (o200k) has 500.
constexpr size_t kMaxPatternBytes = 16 << 10;

// Backtracking allowed in one match call. The patterns in use are linear, \s*[\r\n]+ on a long run
// of blanks being the worst, so the limit grows with the text; an exponential pattern meets it in
// milliseconds.
uint32_t MatchLimit(size_t text_bytes) { return static_cast<uint32_t>(200'000 + 16 * text_bytes); }

// Enough for groups that repeat over a whole long line; PCRE2's own default is 32 KiB of machine
// stack.
constexpr size_t kJitStackStartBytes = 32 << 10;
constexpr size_t kJitStackMaxBytes = 1 << 20;

// Memory the interpreter may take, should the JIT be missing on a platform. Unit: KiB, as PCRE2
// wants it.
constexpr uint32_t kHeapLimitKib = 64 << 10;

std::string Quoted(absl::string_view pattern) {
  constexpr size_t kShownBytes = 120;
  return absl::StrCat("\"", absl::CHexEscape(pattern.substr(0, kShownBytes)),
                      pattern.size() > kShownBytes ? "...\"" : "\"");
}

absl::StatusOr<pcre2_code*> CompilePattern(absl::string_view pattern, uint32_t options) {
  if (pattern.size() > kMaxPatternBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("pattern has ", pattern.size(), " bytes; the limit is ", kMaxPatternBytes));
  }
  struct ContextDeleter {
    void operator()(pcre2_compile_context* context) const { pcre2_compile_context_free(context); }
  };
  const std::unique_ptr<pcre2_compile_context, ContextDeleter> context(
      pcre2_compile_context_create(nullptr));
  KVASIR_CHECK(context != nullptr);
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);  // Oniguruma's, whatever PCRE2 was built for

  int error = 0;
  PCRE2_SIZE error_offset = 0;
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                    options | PCRE2_UTF | PCRE2_NO_UTF_CHECK, &error, &error_offset, context.get());
  if (code == nullptr) {
    PCRE2_UCHAR reason[256] = {};
    pcre2_get_error_message(error, reason, sizeof(reason));
    return absl::InvalidArgumentError(absl::StrCat(
        "pattern ", Quoted(pattern), " does not compile: ", reinterpret_cast<const char*>(reason),
        " at byte ", error_offset));
  }
  // Without a JIT (or for a pattern it cannot do) pcre2_match() interprets: slower, the same
  // result.
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  return code;
}

}  // namespace

void Regex::CodeDeleter::operator()(pcre2_code* code) const { pcre2_code_free(code); }

Regex::Regex(std::string pattern, pcre2_code* code) : pattern_(std::move(pattern)), code_(code) {}
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;
Regex::~Regex() = default;

absl::StatusOr<Regex> Regex::Compile(absl::string_view pattern) {
  KVASIR_ASSIGN_OR_RETURN(const std::string translated, TranslateOnigurumaPattern(pattern));
  // ^ and $ always match at lines in Oniguruma's Ruby syntax.
  absl::StatusOr<pcre2_code*> code =
      CompilePattern(translated, PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | PCRE2_MULTILINE);
  if (!code.ok()) return code.status();
  return Regex(std::string(pattern), *code);
}

absl::StatusOr<Regex> Regex::CompileLiteral(absl::string_view text) {
  absl::StatusOr<pcre2_code*> code = CompilePattern(text, PCRE2_LITERAL);
  if (!code.ok()) return code.status();
  return Regex(std::string(text), *code);
}

absl::StatusOr<Regex> Regex::FromJson(const nlohmann::json& object, absl::string_view where) {
  KVASIR_ASSIGN_OR_RETURN(const nlohmann::json* pattern, GetMember(object, "pattern", where));
  const std::string path = absl::StrCat(where, ".pattern");
  if (FindMember(*pattern, "Regex") != nullptr) {
    KVASIR_ASSIGN_OR_RETURN(const std::string regex, GetString(*pattern, "Regex", path));
    return Compile(regex);
  }
  KVASIR_ASSIGN_OR_RETURN(const std::string literal, GetString(*pattern, "String", path));
  return CompileLiteral(literal);
}

Regex::Scanner::Scanner(const Regex& regex)
    : regex_(regex),
      match_data_(pcre2_match_data_create(1, nullptr)),
      match_context_(pcre2_match_context_create(nullptr)),
      jit_stack_(pcre2_jit_stack_create(kJitStackStartBytes, kJitStackMaxBytes, nullptr)) {
  KVASIR_CHECK(match_data_ != nullptr && match_context_ != nullptr);
  pcre2_set_heap_limit(match_context_, kHeapLimitKib);
  pcre2_jit_stack_assign(match_context_, nullptr, jit_stack_);  // null: the 32 KiB machine stack
}

Regex::Scanner::~Scanner() {
  pcre2_jit_stack_free(jit_stack_);
  pcre2_match_context_free(match_context_);
  pcre2_match_data_free(match_data_);
}

void Regex::Scanner::Start(absl::string_view text) {
  text_ = text;
  search_from_ = begin_ = end_ = 0;
  status_ = absl::OkStatus();
  pcre2_set_match_limit(match_context_, MatchLimit(text.size()));
}

bool Regex::Scanner::Next() {
  while (status_.ok() && search_from_ < text_.size()) {
    const int result =
        pcre2_match(regex_.code_.get(), reinterpret_cast<PCRE2_SPTR>(text_.data()), text_.size(),
                    search_from_, PCRE2_NO_UTF_CHECK, match_data_, match_context_);
    if (result == PCRE2_ERROR_NOMATCH) return false;
    if (result < 0) {
      PCRE2_UCHAR reason[256] = {};
      pcre2_get_error_message(result, reason, sizeof(reason));
      status_ = absl::InvalidArgumentError(absl::StrCat(
          "the tokenizer's pattern ", Quoted(regex_.pattern_), " gave up at byte ", search_from_,
          " of ", text_.size(), ": ", reinterpret_cast<const char*>(reason),
          ". Send the text in smaller parts, or as token ids"));
      return false;
    }
    const PCRE2_SIZE* span = pcre2_get_ovector_pointer(match_data_);
    // \K in a lookaround can put the begin after the end or before the search's start; such a
    // match, like an empty one, splits nothing.
    if (span[0] < search_from_ || span[1] <= span[0]) {
      search_from_ = std::max(search_from_, span[1]);
      if (search_from_ < text_.size())
        search_from_ += CodePointAt(text_, search_from_).length_bytes;
      continue;
    }
    begin_ = span[0];
    end_ = search_from_ = span[1];
    return true;
  }
  return false;
}

}  // namespace kvasir
