#include "server/frontend/response/response_reader.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace kvasir {

ResponseReader::ResponseReader(const ResponseFormat* format,
                               std::unique_ptr<const ToolSchemas> tools, bool in_reasoning,
                               int32_t n, bool at_most_one)
    : format_(format), tools_(std::move(tools)), in_reasoning_(in_reasoning) {
  parsers_.reserve(static_cast<size_t>(n));
  for (int32_t i = 0; i < n; ++i) {
    parsers_.emplace_back(format_, tools_.get(), in_reasoning, at_most_one);
  }
}

ResponseDelta ResponseReader::Feed(int32_t index, absl::string_view text, int32_t num_tokens) {
  ResponseParser& parser = parsers_[static_cast<size_t>(index)];
  const int32_t before = parser.num_calls();
  const bool began_in_reasoning = parser.in_reasoning();
  ResponsePieces pieces;
  parser.Feed(text, &pieces);
  if (began_in_reasoning || parser.in_reasoning() || !pieces.reasoning.empty()) {
    reasoning_tokens_ += num_tokens;
  }
  return Deliver(std::move(pieces), before);
}

ResponseDelta ResponseReader::Finish(int32_t index) {
  ResponseParser& parser = parsers_[static_cast<size_t>(index)];
  const int32_t before = parser.num_calls();
  ResponsePieces pieces;
  parser.Finish(&pieces);
  return Deliver(std::move(pieces), before);
}

bool ResponseReader::HasCalls(int32_t index) const {
  return parsers_[static_cast<size_t>(index)].num_calls() > 0;
}

absl::string_view ResponseReader::reasoning_end() const {
  return in_reasoning_ ? absl::string_view(format_->reasoning()->close.front()) : "";
}

ResponseDelta ResponseReader::Deliver(ResponsePieces pieces, int32_t calls_before) {
  ResponseDelta delta;
  delta.content = std::move(pieces.content);
  delta.reasoning = std::move(pieces.reasoning);
  int32_t index = calls_before;
  for (ToolCall& call : pieces.calls) {
    delta.calls.push_back({index++, call.id.empty() ? NewId() : std::move(call.id),
                           std::move(call.name), std::move(call.arguments)});
  }
  return delta;
}

std::string ResponseReader::NewId() {
  constexpr absl::string_view kLetters =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
  std::string id = format_->short_ids ? "" : "call_";
  const int length = format_->short_ids ? 9 : 24;
  for (int i = 0; i < length; ++i) {
    id += kLetters[absl::Uniform<size_t>(random_, 0, kLetters.size())];
  }
  return id;
}

bool BeginsInReasoning(const ResponseFormat& format, absl::string_view prompt,
                       bool continues_message) {
  const ResponseRegion* const reasoning = format.reasoning();
  if (reasoning == nullptr) return false;
  prompt = absl::StripTrailingAsciiWhitespace(prompt);
  for (const std::string& open : reasoning->open) {
    if (absl::EndsWith(prompt, open)) return true;
  }
  if (!continues_message) return false;
  const auto last = [prompt](const std::vector<std::string>& literals) {
    size_t end = 0;  // past the last of them; 0 = none
    for (const std::string& literal : literals) {
      const size_t at = prompt.rfind(literal);
      if (at != absl::string_view::npos) end = std::max(end, at + literal.size());
    }
    return end;
  };
  return last(reasoning->open) > last(reasoning->close);
}

}  // namespace kvasir
