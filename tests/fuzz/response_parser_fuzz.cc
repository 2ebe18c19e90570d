// Any text to the parser of every family: what it gives out does not depend on the pieces,
// arguments are JSON objects, and no content appears that was not written.
#include <cstdint>
#include <string>
#include <vector>

#include "base/check.h"
#include "server/frontend/response/response_parser.h"
#include "server/frontend/response/response_template.h"

namespace kvasir {
namespace {

struct Result {
  ResponsePieces pieces;
  int num_calls = 0;
};

Result Parse(const ResponseFormat& format, const ToolSchemas& tools, absl::string_view text,
             size_t piece_bytes) {
  ResponseParser parser(&format, &tools, false);
  Result result;
  for (size_t at = 0; at < text.size(); at += piece_bytes) {
    parser.Feed(text.substr(at, piece_bytes), &result.pieces);
  }
  parser.Finish(&result.pieces);
  result.num_calls = parser.num_calls();
  return result;
}

void Check(const ResponseFormat& format, const ToolSchemas& tools, absl::string_view text,
           size_t piece_bytes) {
  const Result whole = Parse(format, tools, text, text.size() + 1);
  const Result pieces = Parse(format, tools, text, piece_bytes);
  KVASIR_CHECK(whole.pieces.content == pieces.pieces.content);
  KVASIR_CHECK(whole.pieces.reasoning == pieces.pieces.reasoning);
  KVASIR_CHECK(whole.pieces.calls.size() == pieces.pieces.calls.size());
  KVASIR_CHECK(whole.num_calls == static_cast<int>(whole.pieces.calls.size()));
  for (size_t i = 0; i < whole.pieces.calls.size(); ++i) {
    const ToolCall& call = whole.pieces.calls[i];
    KVASIR_CHECK(!call.name.empty() && call.name == pieces.pieces.calls[i].name);
    KVASIR_CHECK(call.arguments == pieces.pieces.calls[i].arguments);
    KVASIR_CHECK(nlohmann::json::parse(call.arguments).is_object());
  }
  // A line break more where a region was.
  KVASIR_CHECK(whole.pieces.content.size() + whole.pieces.reasoning.size() <= 2 * text.size());
}

}  // namespace
}  // namespace kvasir

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace kvasir;
  if (size < 2 || size > (64 << 10)) return 0;
  static const auto* const formats = [] {
    auto* all = new std::vector<ResponseFormat>();
    for (const std::string& name : ResponseFormatNames()) {
      all->push_back(*MakeResponseFormat(name, true));
    }
    return all;
  }();
  static const auto* const tools = new ToolSchemas(*ToolSchemas::FromJson(
      R"([{"name":"f","parameters":{"properties":{"a":{"type":"integer"},"b":{"type":"string"}}}}])"));
  const absl::string_view text(reinterpret_cast<const char*>(data) + 2, size - 2);
  Check((*formats)[data[0] % formats->size()], *tools, text, 1 + data[1] % 16);
  ReadResponseTemplate(text).status().IgnoreError();
  ToolSchemas::FromJson(text).status().IgnoreError();
  return 0;
}
