// Which format a chat template speaks of, and response templates of transformers.
#include "server/frontend/response/response_format.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/frontend/response/response_parser.h"
#include "server/frontend/response/response_template.h"

namespace kvasir {
namespace {

bool Nothing(absl::string_view) { return false; }

TEST(ResponseFormatTest, EveryNameMakesAFormat) {
  for (const std::string& name : ResponseFormatNames()) {
    const auto format = MakeResponseFormat(name, /*reasoning=*/false);
    ASSERT_TRUE(format.ok()) << name;
    EXPECT_EQ(format->name, name);
    EXPECT_TRUE(format->parses()) << name;
    for (const std::string& marker : format->Markers()) EXPECT_NE(marker, "");
  }
  EXPECT_FALSE(MakeResponseFormat("none", true)->parses());
  EXPECT_TRUE(absl::IsInvalidArgument(MakeResponseFormat("nonsense", true).status()));
}

TEST(ResponseFormatTest, IsToldByTheTemplate) {
  const auto detect = [](absl::string_view source) {
    return DetectResponseFormat(source, Nothing, "").name;
  };
  EXPECT_EQ(detect(""), "none");
  EXPECT_EQ(detect("{{ messages }}"), "none");
  EXPECT_EQ(detect("{{ content.split('</think>')[-1] }}"), "think");
  EXPECT_EQ(detect("'<tool_call>\\n<function=' + name"), "qwen3_coder");
  EXPECT_EQ(detect("<tool_call> <arg_key>"), "glm");
  EXPECT_EQ(detect("return <tool_call>"), "hermes");
  EXPECT_EQ(detect("tools <|start_header_id|>"), "llama3");
  EXPECT_EQ(
      DetectResponseFormat(
          "for t in tools", [](absl::string_view m) { return m == "<|tool_call_start|>"; }, "")
          .name,
      "lfm2");
  EXPECT_EQ(DetectResponseFormat("<tool_call> </think>", Nothing, "").reasoning()->open.front(),
            "<think>");
  EXPECT_EQ(DetectResponseFormat("<tool_call>", Nothing, "").reasoning(), nullptr);
}

TEST(ResponseFormatTest, IsToldByPublishedTemplates) {
  const char* const shared = std::getenv("KVASIR_SHARED");
  const std::filesystem::path folder =
      std::filesystem::path(shared == nullptr ? "../shared" : shared) / "text/templates";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "there is no " << folder;
  const std::pair<const char*, const char*> kExpected[] = {
      {"GLM-4.6", "glm"},
      {"NousResearch-Hermes-3-Llama-3.1-8B-tool_use", "hermes"},
      {"Qwen-Qwen2.5-7B-Instruct", "hermes"},
      {"Qwen-Qwen3-0.6B", "hermes"},
      {"Qwen3-Coder", "qwen3_coder"},
      {"Qwen3.5-4B", "qwen3_coder"},
      {"deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "deepseek"},
      {"google-gemma-2-2b-it", "none"},
      {"google-gemma-4-31B-it", "gemma4"},
      {"ibm-granite-granite-3.3-2B-Instruct", "granite"},
      {"meta-llama-Llama-3.1-8B-Instruct", "llama3"},
      {"meta-llama-Llama-3.2-3B-Instruct", "llama3"},
      {"microsoft-Phi-3.5-mini-instruct", "none"},
      {"mistralai-Mistral-Nemo-Instruct-2407", "mistral"},
      {"openai-gpt-oss-120b", "gpt_oss"},
  };
  for (const auto& [name, format] : kExpected) {
    std::ifstream file(folder / name / "chat_template.jinja");
    std::ostringstream source;
    source << file.rdbuf();
    EXPECT_EQ(DetectResponseFormat(source.str(), Nothing, "").name, format) << name;
  }
}

ResponsePieces Parse(const ResponseFormat& format, absl::string_view text) {
  const ToolSchemas tools = *ToolSchemas::FromJson(R"([{"name": "now"}])");
  ResponseParser parser(&format, &tools, false);
  ResponsePieces out;
  parser.Feed(text, &out);
  parser.Finish(&out);
  return out;
}

TEST(ResponseTemplateTest, ReadsLiteralsAndSimplePatterns) {
  const auto format = ReadResponseTemplate(R"({"response_template": {
    "defaults": {"role": "assistant"}, "start_anchor": "<|im_start|>assistant\n",
    "fields": {
      "reasoning_content": {"open": "<think>", "close": "</think>"},
      "tool_calls": {"open_pattern": "\\s*<call\\|>", "close": "</call>", "repeats": true,
                     "content": "json", "transform": {"type": "function", "function": "{content}"}},
      "content": {"close_pattern": "\\s*<\\|im_end\\|>"}}}})");
  ASSERT_TRUE(format.ok()) << format.status();
  ASSERT_TRUE(format->has_value());
  const ResponsePieces out =
      Parse(**format, "<think>a</think>b\n<call|>{\"name\": \"now\", \"arguments\": {}}</call>");
  EXPECT_EQ(out.reasoning, "a");
  EXPECT_EQ(out.content, "b");
  ASSERT_EQ(out.calls.size(), 1u);
  EXPECT_EQ(out.calls[0].name, "now");
}

TEST(ResponseTemplateTest, ReadsNamesInPatterns) {
  const auto format = ReadResponseTemplate(R"({"response_template": {"fields": {
      "tool_calls": {"open_pattern": "\\[CALL\\](?P<name>\\w+)\\[WITH\\]", "content": "json",
                     "transform": {"function": {"name": "{name}", "arguments": "{content}"}}}}}})");
  ASSERT_TRUE(format.ok()) << format.status();
  const ResponsePieces out = Parse(**format, "x [CALL]now[WITH]{\"a\": 1}");
  ASSERT_EQ(out.calls.size(), 1u);
  EXPECT_EQ(out.calls[0].name, "now");
  EXPECT_EQ(out.calls[0].arguments, R"({"a":1})");
}

TEST(ResponseTemplateTest, SaysWhatItCannotRead) {
  EXPECT_FALSE(ReadResponseTemplate("")->has_value());
  EXPECT_FALSE(ReadResponseTemplate(R"({"chat_template": "response_template"})")->has_value());
  const auto status = [](const char* fields) {
    return ReadResponseTemplate(std::string(R"({"response_template": {"fields": )") + fields + "}}")
        .status();
  };
  EXPECT_TRUE(absl::IsInvalidArgument(status("1")));
  EXPECT_TRUE(absl::IsInvalidArgument(status(R"({"tool_calls": 1})")));
  EXPECT_TRUE(absl::IsInvalidArgument(status(R"({"tool_calls": {"open": ""}})")));
  EXPECT_TRUE(absl::IsUnimplemented(status(R"({"tool_calls": {"open_pattern": "a|b"}})")));
  EXPECT_TRUE(absl::IsUnimplemented(status(R"({"verdict": {"open": "a"}})")));
  EXPECT_TRUE(absl::IsUnimplemented(status(R"({"content": {}})")));
  EXPECT_TRUE(absl::IsUnimplemented(
      ReadResponseTemplate(R"({"response_template": {"version": 2, "fields": {}}})").status()));
}

}  // namespace

}  // namespace kvasir
