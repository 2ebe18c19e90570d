// Regex: one compiled pattern of a tokenizer.json, through PCRE2 (UTF, Unicode properties, JIT).
//
// A Regex is immutable and safe from any thread; a Scanner belongs to one thread. Files are written
// for Oniguruma; oniguruma_pattern.h says what becomes of the differences.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json_fwd.hpp"

struct pcre2_real_code_8;
struct pcre2_real_match_context_8;
struct pcre2_real_match_data_8;
struct pcre2_real_jit_stack_8;

namespace kvasir {

class Regex {
 public:
  // `pattern` is valid UTF-8. Errors: InvalidArgument with PCRE2's reason and offset; Unimplemented
  // for constructs that PCRE2 cannot express.
  static absl::StatusOr<Regex> Compile(absl::string_view pattern);

  // A pattern that matches exactly `text`.
  static absl::StatusOr<Regex> CompileLiteral(absl::string_view text);

  // The pattern in `object`: its member "pattern", {"Regex": "..."} or {"String": "..."}.
  static absl::StatusOr<Regex> FromJson(const nlohmann::json& object, absl::string_view where);

  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;
  ~Regex();

  // Walks the non-empty matches in a text, leftmost first and not overlapping. One scanner serves
  // many texts, one after the other; making one costs a few allocations. Borrows the Regex and the
  // text.
  class Scanner {
   public:
    explicit Scanner(const Regex& regex);
    ~Scanner();
    Scanner(const Scanner&) = delete;
    Scanner& operator=(const Scanner&) = delete;

    // Goes to the front of `text`, valid UTF-8. ^ and lookbehind see nothing before it.
    void Start(absl::string_view text);

    // Finds the next match at or after the end of the last one. False: there is none, or status()
    // is not OK.
    bool Next();
    size_t begin() const { return begin_; }
    size_t end() const { return end_; }

    // InvalidArgument once the pattern has backtracked beyond its limit on this text.
    const absl::Status& status() const { return status_; }

   private:
    const Regex& regex_;
    absl::string_view text_;
    size_t search_from_ = 0;
    size_t begin_ = 0, end_ = 0;
    absl::Status status_;
    pcre2_real_match_data_8* const match_data_;
    pcre2_real_match_context_8* const match_context_;
    pcre2_real_jit_stack_8* const jit_stack_;
  };

 private:
  struct CodeDeleter {
    void operator()(pcre2_real_code_8* code) const;
  };

  Regex(std::string pattern, pcre2_real_code_8* code);

  std::string pattern_;  // for messages
  std::unique_ptr<pcre2_real_code_8, CodeDeleter> code_;
};

}  // namespace kvasir
