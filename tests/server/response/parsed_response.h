// What the tests of ResponseParser share: a request's tools, and a completion's text in pieces.
#pragma once

#include <ostream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "server/frontend/response/response_parser.h"

namespace kvasir::testing {

inline constexpr char kTools[] = R"([
  {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {
    "city": {"type": "string"}, "days": {"type": "integer"}, "exact": {"type": "boolean"},
    "at": {"type": ["number", "null"]}, "tags": {"type": "array"}, "box": {"type": "object"}}}}},
  {"type": "function", "function": {"name": "now"}}])";

struct RecordedText {
  std::string name;    // of the test
  std::string format;  // of ResponseFormat
  std::string text;    // what the model writes
  std::string content;
  std::string reasoning;
  std::vector<std::string> calls;  // "name arguments"
  bool in_reasoning = false;       // the prompt has opened it
};

inline std::ostream& operator<<(std::ostream& out, const RecordedText& each) {
  return out << each.name;
}

inline std::string Describe(const ResponsePieces& pieces) {
  std::string out =
      absl::StrCat("content <", pieces.content, "> reasoning <", pieces.reasoning, ">");
  for (const ToolCall& call : pieces.calls) {
    absl::StrAppend(&out, " call <", call.name, " ", call.arguments, ">");
  }
  return out;
}

inline const ToolSchemas& Tools() {
  static const auto* const kParsed = new ToolSchemas(*ToolSchemas::FromJson(kTools));
  return *kParsed;
}

inline ResponsePieces Parse(const ResponseFormat& format, const std::vector<std::string>& pieces,
                            bool in_reasoning = false, const ToolSchemas* tools = &Tools()) {
  ResponseParser parser(&format, tools, in_reasoning);
  ResponsePieces out;
  for (const std::string& piece : pieces) parser.Feed(piece, &out);
  parser.Finish(&out);
  EXPECT_EQ(parser.num_calls(), static_cast<int>(out.calls.size()));
  return out;
}

inline ResponseFormat Format(const std::string& name) { return *MakeResponseFormat(name, true); }

// In every split into two, and byte by byte.
inline void ExpectSameInPieces(const ResponseFormat& format, const std::string& text,
                               bool in_reasoning, const ToolSchemas* tools = &Tools()) {
  const std::string whole = Describe(Parse(format, {text}, in_reasoning, tools));
  std::vector<std::string> bytes;
  for (size_t i = 0; i < text.size(); ++i) {
    bytes.push_back(text.substr(i, 1));
    ASSERT_EQ(Describe(Parse(format, {text.substr(0, i), text.substr(i)}, in_reasoning, tools)),
              whole)
        << "split at " << i << " of " << text;
  }
  EXPECT_EQ(Describe(Parse(format, bytes, in_reasoning, tools)), whole) << text;
}

// What `each` says, however the text comes.
inline void ExpectRead(const RecordedText& each) {
  const ResponseFormat format = Format(each.format);
  ResponsePieces expected;
  expected.content = each.content;
  expected.reasoning = each.reasoning;
  for (const std::string& call : each.calls) {
    const size_t space = call.find(' ');
    expected.calls.push_back({"", call.substr(0, space), call.substr(space + 1)});
  }
  EXPECT_EQ(Describe(Parse(format, {each.text}, each.in_reasoning)), Describe(expected));
  ExpectSameInPieces(format, each.text, each.in_reasoning);
}

}  // namespace kvasir::testing
