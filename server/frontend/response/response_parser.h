// ResponseParser: the text of one completion, as it comes, to content, reasoning and tool calls.
//
// One per completion, not thread safe. The law: what it gives out is the same however the text came
// in pieces. Nothing is lost: what begins like a call and is none is content, markers included.
// Beside markers it drops white space only: at both ends of reasoning, and of content where that
// touches reasoning or a call; pieces of content around a call are put on lines of their own.
// Content and reasoning come at once, but for what may begin a marker; a call comes when it is
// whole, so that its arguments are JSON.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "server/frontend/response/call_scanner.h"
#include "server/frontend/response/response_format.h"
#include "server/frontend/response/tool_call.h"

namespace kvasir {

struct ResponsePieces {
  std::string content;
  std::string reasoning;
  std::vector<ToolCall> calls;
};

class ResponseParser {
 public:
  // What begins a longer call is text.
  static constexpr size_t kMaxCallBytes = size_t{256} << 10;
  // More calls in one completion are text; so is everything after so many bytes of broken ones, for
  // they are read again.
  static constexpr int kMaxCalls = 256;
  static constexpr size_t kMaxBrokenBytes = 16 * kMaxCallBytes;
  // More white space at once is content.
  static constexpr size_t kMaxHeldBytes = 1024;

  // `format` and `tools` outlive the parser. `tools` null: calls are text. `in_reasoning`: the
  // prompt has opened the reasoning already. `at_most_one`: calls after the first are left out.
  ResponseParser(const ResponseFormat* format, const ToolSchemas* tools, bool in_reasoning,
                 bool at_most_one = false);

  // Adds to `out`.
  void Feed(absl::string_view text, ResponsePieces* out);
  // The end of the text; once.
  void Finish(ResponsePieces* out);

  // So far.
  int num_calls() const { return num_calls_; }
  // Whether the text that came last stands in reasoning, as far as that is decided.
  bool in_reasoning() const {
    return state_ == State::kReasoning || (state_ == State::kMessage && message_is_reasoning_);
  }

 private:
  enum class State { kContent, kReasoning, kCall, kHeader, kMessage };

  void Run(bool at_end, ResponsePieces* out);
  // Each looks at rest() and takes what is decided; false when it needs more text.
  bool Content(bool at_end, ResponsePieces* out);
  bool Until(const std::vector<std::string>& close, bool at_end, ResponsePieces* out);
  bool Call(bool at_end, ResponsePieces* out);
  bool Header(bool at_end, ResponsePieces* out);

  void Open(const ResponseRegion* region, size_t literal_bytes, ResponsePieces* out);
  // The region that began with opened_ is none: its literal is content, what follows is looked at
  // anew.
  void Reject(ResponsePieces* out);
  bool Watches(const ResponseRegion& region) const;

  void AddContent(absl::string_view text, ResponsePieces* out);
  void AddReasoning(absl::string_view text, ResponsePieces* out);
  void EndContent();

  absl::string_view rest() const { return absl::string_view(buffer_).substr(at_); }

  const ResponseFormat* const format_;
  const ToolSchemas* const tools_;
  const bool at_most_one_;
  std::string first_bytes_;  // of all literals

  State state_ = State::kContent;
  std::string buffer_;  // not yet decided
  size_t at_ = 0;       // of buffer_, what was

  const ResponseRegion* region_ = nullptr;  // the open one
  std::string opened_;                      // its literal, to be content if it is rejected
  std::optional<CallScanner> scanner_;
  std::string header_name_;  // the tool that the header named
  bool message_is_reasoning_ = false;

  std::string held_;  // white space of content that may touch a region
  std::string held_reasoning_;
  bool trims_content_ = false;   // a region has ended, and only white space came since
  bool trims_reasoning_ = true;  // nothing but white space in this reasoning so far
  bool has_content_ = false;     // pieces before and after a region stand on lines of their own
  bool has_reasoning_ = false;
  bool content_begun_ = false;  // at_start regions begin no more
  int num_calls_ = 0;
  size_t broken_bytes_ = 0;  // read in vain
};

}  // namespace kvasir
