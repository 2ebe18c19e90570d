// Random calls, spelled as each format's grammar would have them written, come back as they were:
// alone and several, with reasoning and text around them, in every split; of a text that is cut at
// any byte, and of one that lost a byte, nothing is lost.
#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/server/response/made_calls.h"
#include "tests/server/response/parsed_response.h"

namespace kvasir {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;
using testing::Describe;
using testing::ExpectSameInPieces;
using testing::Parse;

using testing::CallMaker;
using testing::OrderTools;

struct Transcript {
  std::string text, before, after, reasoning;
  std::vector<CallMaker::Call> calls;
  std::vector<std::pair<size_t, size_t>> argument_bytes;  // of each call, in text
};

Transcript Write(const ResponseFormat& format, CallMaker* maker) {
  const CallWriting& writing = *format.writing;
  Transcript out;
  const bool free_text = format.message.close.empty();  // else each text has a header
  const ResponseRegion* const reasoning = format.reasoning();
  if (maker->Below(2) == 0) {
    out.reasoning = "First {this}.\n\nThen <that>.";
    out.text = reasoning != nullptr ? absl::StrCat(reasoning->open[0], "\n", out.reasoning, "\n",
                                                   reasoning->close[0], "\n\n")
                                    : absl::StrCat(format.written_reasoning_open, out.reasoning,
                                                   format.written_reasoning_close);
    if (reasoning == nullptr && format.written_reasoning_open.empty()) {
      out.text.clear();
      out.reasoning.clear();
    }
  }
  const bool only_at_start = format.name == "llama3" || format.name == "pythonic";
  if (free_text && !only_at_start && maker->Below(2) == 0) {
    out.before = "I look: <5 {a} [b] it's";
    absl::StrAppend(&out.text, out.before, "\n\n");
  }
  const uint32_t calls = writing.only_one ? 1 : 1 + maker->Below(3);
  absl::StrAppend(&out.text, writing.open);
  for (uint32_t i = 0; i < calls; ++i) {
    CallMaker::Call call = maker->Make();
    absl::StrAppend(&out.text, i == 0 ? "" : writing.between,
                    absl::StrReplaceAll(writing.begin, {{CallWriting::kName, call.name}}));
    const std::string spelled = maker->Spelled(call.arguments);
    out.argument_bytes.emplace_back(out.text.size(), out.text.size() + spelled.size());
    absl::StrAppend(&out.text, spelled, writing.end);
    out.calls.push_back(std::move(call));
  }
  absl::StrAppend(&out.text, writing.close);
  if (!free_text) absl::StrAppend(&out.text, "<|call|>");
  if (free_text && maker->Below(3) == 0) {
    out.after = "Done, \"all\" of it.";
    absl::StrAppend(&out.text, "\n", out.after);
  }
  return out;
}

std::vector<ResponseFormat> WritableFormats() {
  std::vector<ResponseFormat> formats;
  for (const std::string& name : WritableFormatNames()) {
    formats.push_back(*MakeResponseFormat(name, true));
    for (const char* source : {"[ARGS]", "V3.1"}) {  // the families' other spelling
      ResponseFormat other = formats.back();
      if (name != (source[0] == '[' ? "mistral" : "deepseek")) continue;
      ChooseWriting(source, &other);
      formats.push_back(other);
    }
  }
  return formats;
}

void ExpectCalls(const ResponsePieces& pieces, const Transcript& transcript, size_t limit) {
  ASSERT_LE(pieces.calls.size(), limit);
  for (size_t i = 0; i < pieces.calls.size(); ++i) {
    EXPECT_EQ(pieces.calls[i].name, transcript.calls[i].name);
    EXPECT_EQ(Json::parse(pieces.calls[i].arguments), transcript.calls[i].arguments);
  }
}

TEST(SpelledCallsTest, ComeBackAsTheyWere) {
  for (const ResponseFormat& format : WritableFormats()) {
    for (uint32_t seed = 0; seed < 40; ++seed) {
      CallMaker maker(format, seed);
      const Transcript transcript = Write(format, &maker);
      SCOPED_TRACE(absl::StrCat(format.name, " ", seed, "\n", transcript.text));
      const ResponsePieces pieces = Parse(format, {transcript.text}, false, &OrderTools());
      ASSERT_EQ(pieces.calls.size(), transcript.calls.size()) << Describe(pieces);
      ExpectCalls(pieces, transcript, transcript.calls.size());
      EXPECT_EQ(pieces.reasoning, transcript.reasoning);
      const bool both = !transcript.before.empty() && !transcript.after.empty();
      EXPECT_EQ(pieces.content,
                absl::StrCat(transcript.before, both ? "\n" : "", transcript.after));
      if (seed < 12) ExpectSameInPieces(format, transcript.text, false, &OrderTools());
      if (::testing::Test::HasFailure()) return;
    }
  }
}

// What max_tokens cuts off.
TEST(SpelledCallsTest, CutAnywhereNothingIsLost) {
  for (const ResponseFormat& format : WritableFormats()) {
    const std::vector<std::string> markers = format.Markers();
    for (uint32_t seed = 0; seed < 25; ++seed) {
      CallMaker maker(format, seed);
      const Transcript transcript = Write(format, &maker);
      for (size_t end = 0; end < transcript.text.size(); ++end) {
        const std::string text = transcript.text.substr(0, end);
        SCOPED_TRACE(absl::StrCat(format.name, " ", seed, " ", end, "\n", text));
        const ResponsePieces pieces = Parse(format, {text}, false, &OrderTools());
        ExpectCalls(pieces, transcript, transcript.calls.size());
        // The arguments of what came to be no call are there as text.
        for (size_t i = pieces.calls.size(); i < transcript.calls.size(); ++i) {
          const auto [from, to] = transcript.argument_bytes[i];
          if (from >= end) break;
          const absl::string_view cut = absl::string_view(text).substr(from, to - from);
          // Nothing tells a marker in a string that stayed open from one that means it.
          if (std::any_of(markers.begin(), markers.end(), [&](const std::string& marker) {
                return marker.size() > 1 && absl::StrContains(cut, marker);
              })) {
            break;
          }
          EXPECT_THAT(pieces.content, HasSubstr(absl::StripAsciiWhitespace(cut)));
        }
        if (::testing::Test::HasFailure()) return;
      }
    }
  }
}

TEST(SpelledCallsTest, WithoutAByteTheyAreCallsOrTextInEverySplit) {
  for (const ResponseFormat& format : WritableFormats()) {
    for (uint32_t seed = 0; seed < 40; ++seed) {
      CallMaker maker(format, seed);
      const Transcript transcript = Write(format, &maker);
      std::string text = transcript.text;
      text.erase(maker.Below(text.size()), 1);
      SCOPED_TRACE(absl::StrCat(format.name, " ", seed, "\n", text));
      const ResponsePieces pieces = Parse(format, {text}, false, &OrderTools());
      for (const ToolCall& call : pieces.calls)
        EXPECT_TRUE(Json::parse(call.arguments).is_object());
      if (pieces.calls.empty()) {
        size_t shown = pieces.content.size() + pieces.reasoning.size();
        size_t written = 0;
        for (const auto& [from, to] : transcript.argument_bytes) written += to - from;
        EXPECT_GE(shown + 1, written);
      }
      if (seed < 8) ExpectSameInPieces(format, text, false, &OrderTools());
      if (::testing::Test::HasFailure()) return;
    }
  }
}

}  // namespace
}  // namespace kvasir
