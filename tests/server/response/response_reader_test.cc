#include "server/frontend/response/response_reader.h"

#include <memory>
#include <string>
#include <utility>

#include "gtest/gtest.h"

namespace kvasir {
namespace {

ResponseFormat Format(const std::string& name) { return *MakeResponseFormat(name, true); }

TEST(ResponseReaderTest, NumbersCallsAndMakesIds) {
  auto tools = ToolSchemas::FromJson(R"([{"type": "function", "function": {"name": "now"}}])");
  ASSERT_TRUE(tools.ok()) << tools.status();
  const ResponseFormat format = Format("mistral");
  ResponseReader reader(&format, std::make_unique<ToolSchemas>(*std::move(tools)), false, 2);
  const std::string text = "[TOOL_CALLS]now[ARGS]{}";
  EXPECT_FALSE(reader.HasCalls(1));
  const ResponseDelta first = reader.Feed(1, text), second = reader.Feed(1, text);
  ASSERT_EQ(first.calls.size(), 1u);
  ASSERT_EQ(second.calls.size(), 1u);
  EXPECT_EQ(first.calls[0].index, 0);
  EXPECT_EQ(second.calls[0].index, 1);
  EXPECT_EQ(first.calls[0].id.size(), 9u);
  EXPECT_NE(first.calls[0].id, second.calls[0].id);
  EXPECT_TRUE(reader.HasCalls(1));
  EXPECT_FALSE(reader.HasCalls(0));
  EXPECT_TRUE(reader.Finish(1).empty());
}

TEST(ResponseReaderTest, CountsTheTokensOfReasoning) {
  const ResponseFormat hermes = Format("hermes");
  ResponseReader reader(&hermes, nullptr, /*in_reasoning=*/false, 2);
  // Marker, two words, marker; then the answer.
  for (const char* token : {"<think>", "Hm", ".", "</think>", "\n\n", "Well", "."}) {
    reader.Feed(0, token, 1);
  }
  EXPECT_EQ(reader.reasoning_tokens(), 4);
  reader.Feed(1, "Well.", 2);
  EXPECT_EQ(reader.reasoning_tokens(), 4);
  reader.Feed(1, "<think>Hm.</think>Well.", 3);  // several at once
  EXPECT_EQ(reader.reasoning_tokens(), 7);

  ResponseReader opened(&hermes, nullptr, /*in_reasoning=*/true, 1);
  for (const char* token : {"Hm", "</th", "ink>", "Well"}) opened.Feed(0, token, 1);
  EXPECT_EQ(opened.reasoning_tokens(), 3);

  const ResponseFormat harmony = Format("gpt_oss");
  ResponseReader channels(&harmony, nullptr, /*in_reasoning=*/false, 1);
  for (const char* token :
       {"<|channel|>", "analysis", "<|message|>", "Hm", ".", "<|end|>", "<|start|>", "assistant",
        "<|channel|>", "final", "<|message|>", "Well", "<|return|>"}) {
    channels.Feed(0, token, 1);
  }
  EXPECT_EQ(channels.reasoning_tokens(), 4);  // from the token that ends the header
}

TEST(ResponseReaderTest, SeesReasoningThatThePromptHasOpened) {
  EXPECT_TRUE(BeginsInReasoning(Format("hermes"), "<|im_start|>assistant\n<think>\n", false));
  for (const bool continues : {false, true}) {
    EXPECT_FALSE(BeginsInReasoning(Format("hermes"), "<think>\n\n</think>\n\n", continues));
    EXPECT_FALSE(BeginsInReasoning(*MakeResponseFormat("hermes", false), "<think>", continues));
    EXPECT_EQ(BeginsInReasoning(Format("hermes"), "<think>\nSo the", continues), continues);
  }
}

}  // namespace
}  // namespace kvasir
