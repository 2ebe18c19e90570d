// Answers that must be tool calls, for every notation: what such a model writes is of the grammar,
// text and wrong arguments are not, and whatever the grammar allows is read as typed calls.
#include "server/frontend/response/call_constraint.h"

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "runtime/grammar/grammar_compiler.h"
#include "runtime/tokenizer/tokenizer.h"
#include "server/frontend/response/response_reader.h"
#include "tests/grammar/random_output.h"
#include "tests/server/response/spelled_arguments.h"
#include "tests/test_models.h"

namespace kvasir {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::RandomOutput;
using testing::Spelled;
using testing::Spelling;

constexpr char kTools[] =
    R"([{"type":"function","function":{"name":"weather","parameters":{"type":"object",)"
    R"("properties":{"city":{"$ref":"#/$defs/city"},"days":{"type":"integer","minimum":1,)"
    R"("maximum":9}},"required":["city","days"],"additionalProperties":false,)"
    R"("$defs":{"city":{"type":"string","maxLength":6,"pattern":"^[a-zA-Z]+$"}}}}},)"
    R"({"type":"function","function":{"name":"now"}}])";

const Tokenizer& BundledTokenizer() {
  static const std::unique_ptr<Tokenizer> tokenizer =
      *Tokenizer::Load(testing::ModelFolder(testing::kBundledModel));
  return *tokenizer;
}

TokenId Eos() { return *BundledTokenizer().eos_token_id(); }

std::unique_ptr<TokenMatcher> Compile(const std::string& text, const std::string& after = "") {
  static auto* const compiler = new GrammarCompiler(
      &BundledTokenizer(), BundledTokenizer().vocab_size(), {Eos()}, GrammarLimits());
  auto matcher = compiler->Compile(
      {.kind = Constraint::Kind::kToolCalls, .text = text, .after = after}, absl::InfiniteFuture());
  EXPECT_TRUE(matcher.ok()) << text << ": " << matcher.status();
  return matcher.ok() ? *std::move(matcher) : nullptr;
}

// A family as its models write: %s stands for the arguments, %n for the tool's name.
struct Written {
  std::string format;
  std::string chat_template;  // what chooses between two spellings
  std::string call;
  std::string open = "", between = "", close = "";
  bool calls_once = false;
  Spelling spelling = Spelling::kJson;
};

constexpr char kJsonCall[] = R"({"name": "%n", "arguments": %s})";

std::vector<Written> Families() {
  return {
      {"hermes", "", absl::StrCat("<tool_call>\n", kJsonCall, "\n</tool_call>"), "", "\n"},
      {"llama3", "", R"({"name": "%n", "parameters": %s})", "", "; "},
      {"mistral", "", kJsonCall, "[TOOL_CALLS] [", ", ", "]"},
      {"mistral", "[ARGS]", "[TOOL_CALLS]%n[ARGS]%s"},
      {"gpt_oss", "", "<|channel|>commentary to=functions.%n <|constrain|>json<|message|>%s", "",
       "", "", true},
      {"granite", "", kJsonCall, "<|tool_call|>[", ", ", "]"},
      {"phi4_mini", "", kJsonCall, "functools[", ", ", "]"},
      {"deepseek", "```json",
       "<｜tool▁call▁begin｜>function<｜tool▁sep｜>%n\n```json\n%s\n```<｜tool▁call▁end｜>",
       "<｜tool▁calls▁begin｜>", "\n", "<｜tool▁calls▁end｜>"},
      {"deepseek", "<｜tool▁sep｜>", "<｜tool▁call▁begin｜>%n<｜tool▁sep｜>%s<｜tool▁call▁end｜>",
       "<｜tool▁calls▁begin｜>", "", "<｜tool▁calls▁end｜>"},
      {"hunyuan", "", kJsonCall, "<tool_calls>[", ", ", "]</tool_calls>"},
      {"qwen3_coder", "", "<tool_call>\n<function=%n>\n%s</function>\n</tool_call>", "", "\n", "",
       false, Spelling::kXml},
      {"glm", "", "<tool_call>%n\n%s</tool_call>", "", "\n", "", false, Spelling::kPairs},
      {"gemma4", "", "<|tool_call>call:%n{%s}<tool_call|>", "", "", "", false, Spelling::kGemma4},
      {"function_gemma", "", "<start_function_call>call:%n{%s}<end_function_call>", "", "", "",
       false, Spelling::kFunctionGemma},
      {"pythonic", "", "%n(%s)", "[", ", ", "]", false, Spelling::kPython},
      {"lfm2", "", "%n(%s)", "<|tool_call_start|>[", ", ", "]<|tool_call_end|>", false,
       Spelling::kPython},
      {"olmo3", "", "%n(%s)", "<function_calls>", "\n", "</function_calls>", false,
       Spelling::kPython},
  };
}

ResponseFormat FormatOf(const Written& written) {
  ResponseFormat format = *MakeResponseFormat(written.format, /*reasoning=*/false);
  ChooseWriting(written.chat_template, &format);
  return format;
}

std::string Text(const ResponseFormat& format, bool only_one = false,
                 const std::vector<std::string>& only_tools = {},
                 absl::string_view tools = kTools) {
  const auto text = CallConstraintText(format, tools, only_tools, only_one);
  EXPECT_TRUE(text.ok()) << format.name << ": " << text.status();
  return text.ok() ? *text : "";
}

std::string Call(const Written& written, const std::string& name, const std::string& arguments) {
  return absl::StrReplaceAll(written.call,
                             {{"%n", name}, {"%s", Spelled(written.spelling, arguments)}});
}

// Whether `text` may be the whole output.
bool Accepts(const TokenMatcher& grammar, const std::string& text) {
  const std::unique_ptr<TokenMatcher> matcher = grammar.Clone();
  const std::vector<TokenId> tokens = *BundledTokenizer().Encode(
      text, {.add_special_tokens = false, .parse_special_tokens = false});
  for (const TokenId token : tokens) {
    if (!matcher->Commit(token).ok()) return false;
  }
  return matcher->IsAccepting() || matcher->IsComplete();
}

ResponseDelta Read(const ResponseFormat& format, absl::string_view text, bool at_most_one = false,
                   bool in_reasoning = false, const std::vector<std::string>& allowed = {}) {
  ToolSchemas tools = *ToolSchemas::FromJson(kTools);
  tools.AllowOnly(allowed);
  ResponseReader reader(&format, std::make_unique<const ToolSchemas>(std::move(tools)),
                        in_reasoning, 1, at_most_one);
  ResponseDelta all = reader.Feed(0, text);
  ResponseDelta end = reader.Finish(0);
  all.content += end.content;
  for (ToolCallDelta& call : end.calls) all.calls.push_back(std::move(call));
  return all;
}

constexpr char kGood[] = R"({"city": "Oslo", "days": 3})";

TEST(CallConstraintTest, WhatSuchAModelWritesIsOfTheGrammar) {
  for (const Written& each : Families()) {
    SCOPED_TRACE(each.call);
    const ResponseFormat format = FormatOf(each);
    const std::unique_ptr<TokenMatcher> grammar = Compile(Text(format));
    ASSERT_NE(grammar, nullptr);
    const std::string one = each.open + Call(each, "weather", kGood) + each.close;
    const std::string two = each.open + Call(each, "weather", kGood) + each.between +
                            Call(each, "now", "{}") + each.close;
    EXPECT_TRUE(Accepts(*grammar, one)) << one;
    EXPECT_EQ(Accepts(*grammar, two), !each.calls_once) << two;
    EXPECT_THAT(Read(format, one).calls, ::testing::SizeIs(1)) << one;
    if (!each.calls_once) {
      EXPECT_THAT(Read(format, two).calls, ::testing::SizeIs(2)) << two;
      EXPECT_FALSE(Accepts(*Compile(Text(format, /*only_one=*/true)), two)) << two;
    }
    const std::unique_ptr<TokenMatcher> named = Compile(Text(format, true, {"now"}));
    EXPECT_FALSE(Accepts(*named, one)) << one;
    EXPECT_TRUE(Accepts(*named, each.open + Call(each, "now", "{}") + each.close));
  }
}

TEST(CallConstraintTest, TextAndWrongArgumentsAreNot) {
  for (const Written& each : Families()) {
    SCOPED_TRACE(each.call);
    const std::unique_ptr<TokenMatcher> grammar = Compile(Text(FormatOf(each)));
    const auto call = [&](const std::string& name, const std::string& arguments) {
      return each.open + Call(each, name, arguments) + each.close;
    };
    for (const std::string& wrong :
         {std::string(), std::string("It is fine in Oslo."), call("nobody", "{}"),
          call("weather", "{}"), call("weather", R"({"city": "Oslo", "days": "three"})"),
          call("weather", R"({"city": 7, "days": 3})"),
          call("weather", R"({"city": "Oslo", "days": 3, "more": 1})"),
          call("weather", kGood) + " Well."}) {
      EXPECT_FALSE(Accepts(*grammar, wrong)) << wrong;
    }
    if (each.spelling == Spelling::kJson) {
      EXPECT_FALSE(Accepts(*grammar, call("weather", "[]")));
    }
  }
}

TEST(CallConstraintTest, WhateverItAllowsIsReadAsCalls) {
  for (const Written& each : Families()) {
    SCOPED_TRACE(each.call);
    const ResponseFormat format = FormatOf(each);
    const std::unique_ptr<TokenMatcher> grammar = Compile(Text(format, true, {"weather"}));
    int complete = 0;
    for (uint64_t seed = 0; seed < 5; ++seed) {
      const std::unique_ptr<TokenMatcher> matcher = grammar->Clone();
      const RandomOutput output(matcher.get(), BundledTokenizer(), BundledTokenizer().vocab_size(),
                                Eos(), seed);
      if (!output.complete) continue;
      ++complete;
      const ResponseDelta delta = Read(format, output.text);
      ASSERT_EQ(delta.calls.size(), 1u) << output.text;
      EXPECT_EQ(delta.content, "") << output.text;
      EXPECT_EQ(delta.calls[0].name, "weather");
      const auto arguments = nlohmann::json::parse(delta.calls[0].arguments);
      EXPECT_EQ(arguments.size(), 2u) << output.text;
      EXPECT_TRUE(arguments.at("city").is_string()) << output.text;
      EXPECT_TRUE(arguments.at("days").is_number_integer()) << output.text;
    }
    EXPECT_GT(complete, 2);
  }
}

TEST(CallConstraintTest, CallsComeAfterReasoning) {
  const ResponseFormat format = *MakeResponseFormat("hermes", /*reasoning=*/true);
  const std::string call = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
  const std::unique_ptr<TokenMatcher> grammar = Compile(Text(format));
  EXPECT_TRUE(Accepts(*grammar, call));
  EXPECT_TRUE(Accepts(*grammar, "<think>\nAsk.\n</think>\n\n" + call));
  EXPECT_FALSE(Accepts(*grammar, "<think>\nAsk." + call));
  EXPECT_FALSE(Accepts(*grammar, "<think>\nAsk.</think>No."));
  // The prompt has opened it.
  const std::unique_ptr<TokenMatcher> opened = Compile(Text(format), "</think>");
  EXPECT_TRUE(Accepts(*opened, "Ask.\n</think>\n\n" + call));
  EXPECT_FALSE(Accepts(*opened, call)) << "it is a part of the reasoning";

  const ResponseFormat harmony = *MakeResponseFormat("gpt_oss", true);
  const std::string text =
      "<|channel|>analysis<|message|>Ask.<|end|><|start|>assistant"
      "<|channel|>commentary to=functions.now <|constrain|>json<|message|>{}";
  EXPECT_TRUE(Accepts(*Compile(Text(harmony)), text));
  EXPECT_THAT(Read(harmony, text).calls, ::testing::SizeIs(1));
}

TEST(CallConstraintTest, OtherNotationsAndNamesAreRefused) {
  const auto none = CallConstraintText(*MakeResponseFormat("think", true), kTools, {}, false);
  EXPECT_THAT(none.status().message(), AllOf(HasSubstr("think"), HasSubstr("hermes")));
  for (const std::string& name : ResponseFormatNames()) {
    if (name == "think") continue;
    EXPECT_TRUE(CallConstraintText(*MakeResponseFormat(name, true), kTools, {}, false).ok())
        << name;
  }
  const ResponseFormat format = *MakeResponseFormat("hermes", true);
  for (const char* tools :
       {R"([{"name":"a b"}])", R"([{"name":"a<"}])",
        R"([{"name":"a","parameters":{"type":"string"}}])", R"([{"name":"a","parameters":7}])"}) {
    EXPECT_EQ(CallConstraintText(format, tools, {}, false).status().code(),
              absl::StatusCode::kInvalidArgument)
        << tools;
  }
}

TEST(CallConstraintTest, CallsAfterTheFirstAreLeftOut) {
  for (const Written& each : Families()) {
    const ResponseFormat format = FormatOf(each);
    const std::string two = each.open + Call(each, "weather", kGood) + each.between +
                            Call(each, "now", "{}") + each.close;
    const ResponseDelta delta = Read(format, two, /*at_most_one=*/true);
    ASSERT_EQ(delta.calls.size(), 1u) << two;
    EXPECT_EQ(delta.calls[0].name, "weather");
    EXPECT_EQ(delta.content, "") << two;
  }
}

TEST(CallConstraintTest, SomeOfTheToolsMayBeCalled) {
  constexpr char kThree[] = R"([{"name":"weather"},{"name":"now"},{"name":"moon"}])";
  for (const Written& each : Families()) {
    SCOPED_TRACE(each.call);
    const std::unique_ptr<TokenMatcher> grammar =
        Compile(Text(FormatOf(each), /*only_one=*/false, {"now", "moon"}, kThree));
    const auto call = [&](const std::string& name) {
      return each.open + Call(each, name, "{}") + each.close;
    };
    EXPECT_TRUE(Accepts(*grammar, call("now")));
    EXPECT_TRUE(Accepts(*grammar, call("moon")));
    EXPECT_FALSE(Accepts(*grammar, call("weather")));
    EXPECT_EQ(Accepts(*grammar, each.open + Call(each, "now", "{}") + each.between +
                                    Call(each, "moon", "{}") + each.close),
              !each.calls_once);
  }
}

TEST(CallConstraintTest, CallsOfToolsThatAreNotAllowedAreLeftOut) {
  for (const Written& each : Families()) {
    const ResponseFormat format = FormatOf(each);
    const std::string two = each.open + Call(each, "weather", kGood) + each.between +
                            Call(each, "now", "{}") + each.close;
    if (!each.calls_once) {
      const ResponseDelta delta = Read(format, two, /*at_most_one=*/true, false, {"now"});
      ASSERT_EQ(delta.calls.size(), 1u) << two;
      EXPECT_EQ(delta.calls[0].name, "now");
      EXPECT_EQ(delta.content, "") << two;
    }
    const std::string one = each.open + Call(each, "weather", kGood) + each.close;
    const ResponseDelta none = Read(format, one, false, false, {"now"});
    EXPECT_TRUE(none.calls.empty()) << one;
    EXPECT_EQ(none.content, "") << one;
  }
}

}  // namespace
}  // namespace kvasir
