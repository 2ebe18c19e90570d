// ResponseReader: what a front end holds for one request whose answer is parsed: a ResponseParser
// for each completion, and the request's tools.
//
// One per request, owned by its pump; not thread safe. Borrows the model's ResponseFormat.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/random/random.h"
#include "absl/strings/string_view.h"
#include "server/frontend/response/response_format.h"
#include "server/frontend/response/response_parser.h"
#include "server/frontend/response/tool_call.h"

namespace kvasir {

// A piece of one call; the first has id and name.
struct ToolCallDelta {
  int32_t index = 0;  // of the completion's calls
  std::string id;
  std::string name;
  std::string arguments;
};

struct ResponseDelta {
  std::string content;
  std::string reasoning;
  std::vector<ToolCallDelta> calls;

  bool empty() const { return content.empty() && reasoning.empty() && calls.empty(); }
};

class ResponseReader {
 public:
  // `tools` null: calls are text. `at_most_one`: call of each completion, others are left out.
  ResponseReader(const ResponseFormat* format, std::unique_ptr<const ToolSchemas> tools,
                 bool in_reasoning, int32_t n, bool at_most_one = false);

  // The next text of completion `index`, which is below n, and how many tokens it took.
  ResponseDelta Feed(int32_t index, absl::string_view text, int32_t num_tokens = 0);
  // Its end; once.
  ResponseDelta Finish(int32_t index);
  // Whether it has called a tool so far.
  bool HasCalls(int32_t index) const;
  // Of all completions' tokens so far, those of deltas that stood in reasoning, in part at least:
  // its markers are reasoning too.
  int32_t reasoning_tokens() const { return reasoning_tokens_; }
  // What ends the reasoning that the prompt has opened; empty = it has not.
  absl::string_view reasoning_end() const;

 private:
  ResponseDelta Deliver(ResponsePieces pieces, int32_t calls_before);
  std::string NewId();

  const ResponseFormat* const format_;
  const std::unique_ptr<const ToolSchemas> tools_;
  const bool in_reasoning_;
  std::vector<ResponseParser> parsers_;  // [n]
  int32_t reasoning_tokens_ = 0;
  absl::BitGen random_;
};

// Whether the model begins its answer inside of reasoning: `prompt` ends where its template has
// opened it or, when it ends inside the model's own message, that has.
bool BeginsInReasoning(const ResponseFormat& format, absl::string_view prompt,
                       bool continues_message);

}  // namespace kvasir
