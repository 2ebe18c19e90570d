// What each family of models writes, to content, reasoning and calls: as a whole, in every split in
// two, and byte by byte.
#include "server/frontend/response/response_parser.h"

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/response/parsed_response.h"

namespace kvasir {
namespace {

using testing::ExpectSameInPieces;
using testing::Format;
using testing::Parse;
using testing::RecordedText;
using testing::Tools;

class FamilyTest : public ::testing::TestWithParam<RecordedText> {};

TEST_P(FamilyTest, IsReadAlikeInEverySplit) { testing::ExpectRead(GetParam()); }

INSTANTIATE_TEST_SUITE_P(
    All, FamilyTest,
    ::testing::ValuesIn(std::vector<RecordedText>{
        {"HermesCallsAfterText",
         "hermes",
         "Let me look.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Bergen\", "
         "\"days\": 3}}\n</tool_call>\n<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n"
         "</tool_call>",
         "Let me look.",
         "",
         {R"(weather {"city":"Bergen","days":3})", "now {}"}},
        {"HermesThinks",
         "hermes",
         "<think>\nRain is likely.\n\nSo ask.\n</think>\n\n<tool_call>\n{\"name\": \"now\"}\n"
         "</tool_call>",
         "",
         "Rain is likely.\n\nSo ask.",
         {"now {}"}},
        {"PromptHasOpenedTheReasoning",
         "hermes",
         "Let me see.\n</think>\n\nIt rains.",
         "It rains.",
         "Let me see.",
         {},
         true},
        {"HermesEscapesAndBracesInStrings",
         "hermes",
         "<tool_call>{\"name\": \"weather\", \"arguments\": {\"city\": \"a } </tool_call> \\\" { "
         "\\u00e5\\ud83d\\ude00 \\\\\", \"box\": {\"x\": [1, {}]}}}</tool_call>",
         "",
         "",
         {"weather {\"city\":\"a } </tool_call> \\\" { å😀 \\\\\",\"box\":{\"x\":[1,{}]}}"}},
        {"HermesArgumentsAsString",
         "hermes",
         "<tool_call>{\"name\": \"weather\", \"arguments\": \"{\\\"city\\\": \\\"Oslo\\\"}\"}"
         "</tool_call>",
         "",
         "",
         {R"(weather {"city":"Oslo"})"}},
        {"HermesTextBetweenCalls",
         "hermes",
         "One: <tool_call>{\"name\": \"now\"}</tool_call> then\n<tool_call>{\"name\": "
         "\"now\"}</tool_call>\n done <5",
         "One:\nthen\ndone <5",
         "",
         {"now {}", "now {}"}},
        {"HermesBrokenJsonIsText",
         "hermes",
         "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\"}\n</tool_call>",
         "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\"}\n</tool_call>",
         "",
         {}},
        {"HermesUnclosedStringIsTextAndTheNextCallIsRead",
         "hermes",
         "<tool_call>\n{\"name\": \"weather}\n</tool_call>\n<tool_call>{\"name\": \"now\"}"
         "</tool_call>",
         "<tool_call>\n{\"name\": \"weather}\n</tool_call>",
         "",
         {"now {}"}},
        {"HermesCutOffCallIsText",
         "hermes",
         "Yes <tool_call>{\"name\": \"weather\", \"argum",
         "Yes <tool_call>{\"name\": \"weather\", \"argum",
         "",
         {}},
        {"HermesLoneSurrogateIsText",
         "hermes",
         "<tool_call>{\"name\": \"now\", \"arguments\": {\"a\": \"\\ud83d\"}}</tool_call>",
         "<tool_call>{\"name\": \"now\", \"arguments\": {\"a\": \"\\ud83d\"}}</tool_call>",
         "",
         {}},
        {"HermesTurnEndsInPlaceOfTheMarker",
         "hermes",
         "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n",
         "",
         "",
         {"now {}"}},
        {"PlainTextKeepsItsSpace",
         "hermes",
         "  if a <b:\n    <tool> \n\n",
         "  if a <b:\n    <tool> \n\n",
         "",
         {}},
        {"QwenCoderTypesFromTheSchema",
         "qwen3_coder",
         "I'll check.\n\n<tool_call>\n<function=weather>\n<parameter=city>\n42 <b>\nB\n"
         "</parameter>\n<parameter=days>\n3\n</parameter>\n<parameter=exact>\nTrue\n</parameter>\n"
         "<parameter=at>\nnull\n</parameter>\n<parameter=tags>\n['a', 2]\n</parameter>\n"
         "<parameter=box>\n{\"k\": [null]}\n</parameter>\n<parameter=unknown>\nfree text\n"
         "</parameter>\n</function>\n</tool_call>",
         "I'll check.",
         "",
         {R"(weather {"city":"42 <b>\nB","days":3,"exact":true,"at":null,"tags":["a",2],)"
          R"("box":{"k":[null]},"unknown":"free text"})"}},
        {"QwenCoderBrokenIsText",
         "qwen3_coder",
         "<tool_call>\n<function=weather>\n<parameter=city>\nOslo\n</tool_call>",
         "<tool_call>\n<function=weather>\n<parameter=city>\nOslo\n</tool_call>",
         "",
         {}},
        {"QwenCoderMarkersInsideOfJson",
         "qwen3_coder",
         "<tool_call>\n<function=weather>\n<parameter=box>\n{\"k\": \"</tool_call> </parameter>\"}"
         "\n</parameter>\n</function>\n</tool_call>",
         "",
         "",
         {R"(weather {"box":{"k":"</tool_call> </parameter>"}})"}},
        {"QwenCoderQuoteThatStaysOpenIsText",
         "qwen3_coder",
         "<tool_call>\n<function=weather>\n<parameter=box>\n{\"k\n</parameter>\n</function>\n"
         "</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>",
         "<tool_call>\n<function=weather>\n<parameter=box>\n{\"k\n</parameter>\n</function>\n"
         "</tool_call>",
         "",
         {"now {}"}},
        {"GlmPairs",
         "glm",
         "<think>Hm.</think>\n<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Voss"
         "</arg_value>\n<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call>\n"
         "<tool_call>now\n</tool_call>",
         "",
         "Hm.",
         {R"(weather {"city":"Voss","days":2})", "now {}"}},
        {"GlmCutOffIsText",
         "glm",
         "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Voss</arg_value>\n",
         "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Voss</arg_value>\n",
         "",
         {}},
        {"LlamaBareCalls",
         "llama3",
         "{\"name\": \"weather\", \"parameters\": {\"city\": \"Moss; {\"}}; {\"name\": \"now\", "
         "\"parameters\": {}}",
         "",
         "",
         {R"(weather {"city":"Moss; {"})", "now {}"}},
        {"LlamaPythonTag",
         "llama3",
         "<|python_tag|>{\"type\": \"function\", \"name\": \"now\"}",
         "",
         "",
         {"now {}"}},
        {"LlamaJsonAnswerIsText",
         "llama3",
         "{\"name\": \"Ola\", \"age\": 3}",
         "{\"name\": \"Ola\", \"age\": 3}",
         "",
         {}},
        {"LlamaCallInsideOfTextIsText",
         "llama3",
         "Use {\"name\": \"now\", \"parameters\": {}}.",
         "Use {\"name\": \"now\", \"parameters\": {}}.",
         "",
         {}},
        {"PythonCalls",
         "pythonic",
         "[weather(city='Mo i Rana', days=2, tags=[\"a\", 'b'], exact=True, at=None), now()]",
         "",
         "",
         {R"(weather {"city":"Mo i Rana","days":2,"tags":["a","b"],"exact":true,"at":null})",
          "now {}"}},
        {"PythonListIsText",
         "pythonic",
         "[1, 2, 3] and [a link](now())",
         "[1, 2, 3] and [a link](now())",
         "",
         {}},
        {"MistralOld",
         "mistral",
         "[TOOL_CALLS] [{\"name\": \"weather\", \"arguments\": {\"city\": \"Skien ]\"}, \"id\": "
         "\"a1B2c3D4e\"}, {\"name\": \"now\", \"arguments\": {}}]",
         "",
         "",
         {R"(weather {"city":"Skien ]"})", "now {}"}},
        {"MistralNew",
         "mistral",
         "[THINK]First the time.[/THINK]Sure.[TOOL_CALLS]now[ARGS]{}[TOOL_CALLS]weather[CALL_ID]"
         "123456789[ARGS]{\"city\": \"Lom\", \"box\": {\"a\": \"}\"}}",
         "Sure.",
         "First the time.",
         {"now {}", R"(weather {"city":"Lom","box":{"a":"}"}})"}},
        {"MistralBrokenIsText",
         "mistral",
         "[TOOL_CALLS]weather[ARGS]{\"city\": Lom}",
         "[TOOL_CALLS]weather[ARGS]{\"city\": Lom}",
         "",
         {}},
        {"GptOssCallsAfterAnalysis",
         "gpt_oss",
         "<|channel|>analysis<|message|>Need the weather.<|end|><|start|>assistant<|channel|>"
         "commentary to=functions.weather <|constrain|>json<|message|>{\"city\": \"<|end|>\"}"
         "<|call|>",
         "",
         "Need the weather.",
         {R"(weather {"city":"<|end|>"})"}},
        {"GptOssPreambleAndAnswer",
         "gpt_oss",
         "<|channel|>analysis<|message|>One.<|end|><|start|>assistant<|channel|>commentary"
         "<|message|>I will look.<|end|><|start|>assistant<|channel|>analysis<|message|>Two."
         "<|end|><|start|>assistant<|channel|>final<|message|>It rains.",
         "I will look.\nIt rains.",
         "One.\nTwo.",
         {}},
        {"GptOssRecipientBeforeTheChannel",
         "gpt_oss",
         " to=functions.now<|channel|>commentary<|message|>{}<|call|>",
         "",
         "",
         {"now {}"}},
        {"GptOssBrokenArgumentsAreText",
         "gpt_oss",
         "<|channel|>commentary to=functions.now<|message|>{oops<|call|>",
         "<|channel|>commentary to=functions.now<|message|>{oops",
         "",
         {}},
        {"Gemma4",
         "gemma4",
         "<|channel>thought\nWhich city?\n<channel|><|tool_call>call:weather{city:<|\"|>Hå, \"x\": "
         "}<|\"|>,days:1,box:{k:[true,<|\"|>v<|\"|>]}}<tool_call|><|tool_call>call:now{}"
         "<tool_call|>",
         "",
         "Which city?",
         {R"(weather {"city":"Hå, \"x\": }","days":1,"box":{"k":[true,"v"]}})", "now {}"}},
        {"Gemma4BrokenIsText",
         "gemma4",
         "<|tool_call>call:weather{city:<|\"|>H<tool_call|>",
         "<|tool_call>call:weather{city:<|\"|>H<tool_call|>",
         "",
         {}},
        {"FunctionGemma",
         "function_gemma",
         "<start_function_call>call:weather{city:<escape>Vik<escape>}<end_function_call>",
         "",
         "",
         {R"(weather {"city":"Vik"})"}},
        {"Granite3",
         "granite",
         "<think>Ask.</think><|tool_call|>[{\"name\": \"weather\", \"arguments\": {\"city\": "
         "\"Å\"}}, {\"name\": \"now\", \"arguments\": {}}]",
         "",
         "Ask.",
         {"weather {\"city\":\"Å\"}", "now {}"}},
        {"GraniteResponseTags",
         "granite",
         "<think>Hm.</think> <response>Fine.</response>",
         "Fine.",
         "Hm.",
         {}},
        {"Phi4MiniFunctools",
         "phi4_mini",
         "functools[{\"name\": \"weather\", \"arguments\": {\"city\": \"Ås\"}}]",
         "",
         "",
         {"weather {\"city\":\"Ås\"}"}},
        {"Phi4MiniTags",
         "phi4_mini",
         "<|tool_call|>[{\"name\": \"now\", \"arguments\": {}}]"
         "<|/tool_call|>",
         "",
         "",
         {"now {}"}},
        {"Phi4MiniWordIsText",
         "phi4_mini",
         "functools is a module.",
         "functools is a module.",
         "",
         {}},
        {"DeepSeekV3",
         "deepseek",
         "<think>\nSo.\n</"
         "think>\n\nOk.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>"
         "weather\n```json\n{\"city\": "
         "\"```}\"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function"
         "<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
         "Ok.",
         "So.",
         {R"(weather {"city":"```}"})", "now {}"}},
        {"DeepSeekV31",
         "deepseek",
         "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{\"city\": \"Oslo\"}"
         "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
         "",
         "",
         {R"(weather {"city":"Oslo"})"}},
        {"Lfm2",
         "lfm2",
         "<|tool_call_start|>[weather(city=\"Oslo\")]<|tool_call_end|>Done.",
         "Done.",
         "",
         {R"(weather {"city":"Oslo"})"}},
        {"Olmo3",
         "olmo3",
         "<think>x</think><function_calls>weather(city=\"Oslo\")\nnow()</function_calls>",
         "",
         "x",
         {R"(weather {"city":"Oslo"})", "now {}"}},
        {"Hunyuan",
         "hunyuan",
         "<think>x</think><tool_calls>\n[{\"name\": \"now\", \"arguments\": {}}]\n</tool_calls>",
         "",
         "x",
         {"now {}"}},
        {"ThinkOnly", "think", "<think>a</think>\nb </think>", "b </think>", "a", {}},
    }),
    [](const auto& info) { return info.param.name; });

TEST(ResponseParserTest, CallsAreTextWithoutTools) {
  const ResponseFormat format = Format("hermes");
  const std::string text = "<think>a</think><tool_call>{\"name\": \"now\"}</tool_call>";
  const ResponsePieces pieces = Parse(format, {text}, false, /*tools=*/nullptr);
  EXPECT_EQ(pieces.content, "<tool_call>{\"name\": \"now\"}</tool_call>");
  EXPECT_EQ(pieces.reasoning, "a");
}

TEST(ResponseParserTest, GivesOutWhatNoMarkerCanBeginAtOnce) {
  const ResponseFormat format = Format("hermes");
  ResponseParser parser(&format, &Tools(), false);
  ResponsePieces out;
  parser.Feed("Hello <tool", &out);
  EXPECT_EQ(out.content, "Hello");  // a space before a call would go
  parser.Feed("box", &out);
  EXPECT_EQ(out.content, "Hello <toolbox");
  parser.Feed("<think>so", &out);
  EXPECT_EQ(out.reasoning, "so");
}

TEST(ResponseParserTest, BoundsWhatItHolds) {
  const ResponseFormat format = Format("hermes");
  const std::string open = "<tool_call>{\"name\": \"now\", \"arguments\": {\"a\": \"";
  const std::string text =
      absl::StrCat(open, std::string(ResponseParser::kMaxCallBytes, 'x'), "\"}}</tool_call>");
  EXPECT_EQ(Parse(format, {text}).content, text);
  std::vector<std::string> pieces;
  for (size_t i = 0; i < text.size(); i += 1000) pieces.push_back(text.substr(i, 1000));
  EXPECT_EQ(Parse(format, pieces).content, text);
  // Broken calls are not read again and again.
  std::string broken;
  for (int i = 0; i < 20000; ++i) absl::StrAppend(&broken, open);
  EXPECT_EQ(Parse(format, {broken}).content, broken);
  // White space, in any pieces.
  const std::string blank = absl::StrCat("a", std::string(3000, ' '), "<think>b</think>");
  ExpectSameInPieces(format, blank, false);
  // Headers.
  const std::string header = absl::StrCat("<|channel|>", std::string(505, 'x'), "<|message|>y");
  for (const char* more : {"", "x", "xxxxxxx", "xxxxxxxx", "xxxxxxxxxxxxxxxxxxxx"}) {
    ExpectSameInPieces(Format("gpt_oss"),
                       absl::StrReplaceAll(header, {{"<|m", absl::StrCat(more, "<|m")}}), false);
  }
}

TEST(ToolSchemasTest, RefusesWhatIsNoListOfTools) {
  for (const char* bad : {"", "{}", "[1]", "[{}]", R"([{"function": {"name": ""}}])",
                          R"([{"name": "a"}, {"name": "a"}])"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ToolSchemas::FromJson(bad).status())) << bad;
  }
  EXPECT_TRUE(ToolSchemas::FromJson(R"([{"name": "a"}])")->Has("a"));
}

// No call of a name that none can spell would ever be found.
TEST(ToolSchemasTest, RefusesNamesThatNoCallCanSpell) {
  const auto named = [](const std::string& name) {
    return ToolSchemas::FromJson(absl::StrCat(R"([{"name": ")", name, R"("}])")).status();
  };
  for (const std::string& name : {std::string("get weather"), std::string("f(x)"),
                                  std::string("a,b"), std::string(129, 'n')}) {
    const absl::Status status = named(name);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << name;
    EXPECT_TRUE(absl::StrContains(status.message(), absl::StrCat(name.size(), " bytes"))) << status;
  }
  for (const std::string& name :
       {std::string("wetter_größe"), std::string("list-all.v2"), std::string(128, 'n')}) {
    EXPECT_TRUE(named(name).ok()) << name;
  }
}

}  // namespace
}  // namespace kvasir
