// Calls whose arguments are not JSON, under a grammar: values of every kind come back as they were
// written, whatever may be written is of the schema, with plain and with special tokens for
// markers.
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "runtime/grammar/grammar_compiler.h"
#include "runtime/tokenizer/tokenizer.h"
#include "server/frontend/response/call_constraint.h"
#include "server/frontend/response/response_reader.h"
#include "tests/grammar/random_output.h"
#include "tests/server/response/spelled_arguments.h"
#include "tests/tokenizer/tiny_tokenizer.h"

namespace kvasir {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;
using testing::RandomOutput;
using testing::Spelled;
using testing::Spelling;

struct Family {
  const char* format;
  Spelling spelling;
  const char* open;  // before the arguments of order
  const char* close;
};

constexpr Family kFamilies[] = {
    {"qwen3_coder", Spelling::kXml, "<tool_call>\n<function=order>\n", "</function>\n</tool_call>"},
    {"glm", Spelling::kPairs, "<tool_call>order\n", "</tool_call>"},
    {"gemma4", Spelling::kGemma4, "<|tool_call>call:order{", "}<tool_call|>"},
    {"function_gemma", Spelling::kFunctionGemma, "<start_function_call>call:order{",
     "}<end_function_call>"},
    {"pythonic", Spelling::kPython, "[order(", ")]"},
    {"lfm2", Spelling::kPython, "<|tool_call_start|>[order(", ")]<|tool_call_end|>"},
    {"olmo3", Spelling::kPython, "<function_calls>order(", ")</function_calls>"},
};

std::string Tools(const std::string& parameters) {
  return absl::StrCat(R"([{"name": "order", "parameters": )", parameters, "}]");
}

std::string OneParameter(const std::string& schema, bool required = true) {
  return Tools(absl::StrCat(R"({"type": "object", "properties": {"v": )", schema, "}",
                            required ? R"(, "required": ["v"])" : "", "}"));
}

// The bundled vocabulary; `special`: with special tokens for all markers.
const Tokenizer& TokenizerOf(bool special) {
  const auto make = [](bool with_markers) {
    const auto folder = testing::ModelFolder(testing::kBundledModel);
    Json file =
        Json::parse(testing::ReadTextFile(std::filesystem::path(folder) / "tokenizer.json"));
    int next = 0;
    for (const auto& [token, id] : file["model"]["vocab"].items()) {
      next = std::max(next, id.get<int>() + 1);
    }
    if (with_markers) {
      for (const char* marker :
           {"<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>",
            "<|tool_call>", "<tool_call|>", "<|\"|>", "<escape>", "<start_function_call>",
            "<end_function_call>", "<|tool_call_start|>", "<|tool_call_end|>"}) {
        file["added_tokens"].push_back(testing::AddedTokenJson(next++, marker, true));
      }
    }
    return testing::MustLoad(file).release();
  };
  static const Tokenizer* const plain = make(false);
  static const Tokenizer* const marked = make(true);
  return special ? *marked : *plain;
}

TokenId Eos() { return 0; }

absl::StatusOr<std::unique_ptr<TokenMatcher>> Compile(const Family& family,
                                                      const std::string& tools,
                                                      bool special = false) {
  static GrammarCompiler* const compilers[] = {
      new GrammarCompiler(&TokenizerOf(false), TokenizerOf(false).vocab_size(), {Eos()},
                          GrammarLimits()),
      new GrammarCompiler(&TokenizerOf(true), TokenizerOf(true).vocab_size(), {Eos()},
                          GrammarLimits())};
  const auto text =
      CallConstraintText(*MakeResponseFormat(family.format, false), tools, {"order"}, true);
  if (!text.ok()) return text.status();
  return compilers[special ? 1 : 0]->Compile(
      {.kind = Constraint::Kind::kToolCalls, .text = *text, .after = ""}, absl::InfiniteFuture());
}

bool Accepts(const TokenMatcher& grammar, const std::string& text, bool special = false) {
  const std::unique_ptr<TokenMatcher> matcher = grammar.Clone();
  for (const TokenId token : testing::MustEncode(TokenizerOf(special), text, false, special)) {
    if (!matcher->Commit(token).ok()) return false;
  }
  return matcher->IsAccepting() || matcher->IsComplete();
}

// The arguments of the one call that `text` is; null when it is anything else.
Json Read(const Family& family, const std::string& tools, const std::string& text) {
  const ResponseFormat format = *MakeResponseFormat(family.format, false);
  ResponseReader reader(&format, std::make_unique<const ToolSchemas>(*ToolSchemas::FromJson(tools)),
                        false, 1);
  const ResponseDelta fed = reader.Feed(0, text), end = reader.Finish(0);
  if (!fed.content.empty() || !end.content.empty()) return nullptr;
  const auto& calls = fed.calls.empty() ? end.calls : fed.calls;
  return calls.size() == 1 ? Json::parse(calls[0].arguments) : nullptr;
}

std::string Call(const Family& family, const std::string& arguments) {
  return absl::StrCat(family.open, Spelled(family.spelling, arguments), family.close);
}

struct Value {
  const char* schema;
  std::vector<std::string> right;  // as JSON
  std::vector<std::string> wrong;
};

// Values that every notation can write.
std::vector<Value> Values() {
  return {
      {R"({"type": "string"})",
       {R"("")", R"("a")", R"("null")", R"("7")", R"("say \"hi\"\\ \n <b>{x: [1]}</b>")"},
       {}},
      {R"({"type": "string", "minLength": 2, "maxLength": 3})",
       {R"("ab")", R"("æøå")"},
       {R"("a")", R"("abcd")"}},
      {R"({"enum": ["c", "a/b", "x y"]})", {R"("c")", R"("a/b")", R"("x y")"}, {R"("d")"}},
      {R"({"type": "string", "pattern": "^\\d{2}-[A-Z]+$"})", {R"("12-AB")"}, {R"("12-ab")"}},
      {R"({"type": "string", "pattern": "b+"})", {R"("abba")"}, {R"("aa")"}},
      {R"({"type": "string", "format": "date"})", {R"("2026-11-29")"}, {R"("2026-13-29")"}},
      {R"({"anyOf": [{"enum": ["c", "f"]}, {"type": "null"}]})", {R"("c")", "null"}, {R"("d")"}},
      {R"({"type": "integer", "minimum": 3, "maximum": 12})", {"3", "12"}, {"2", "13", "3.5"}},
      {R"({"type": ["number", "null"]})", {"1.5", "-2", "null"}, {"true"}},
      {R"({"type": "boolean"})", {"true", "false"}, {"null", "1"}},
      {R"({"type": "array", "items": {"type": "integer"}, "maxItems": 2})",
       {"[]", "[1]", "[1,2]"},
       {"[1,2,3]", "[true]"}},
      {R"({"type": "object", "properties": {"k": {"type": "string"}}, "required": ["k"],
          "additionalProperties": false})",
       {R"({"k":"</parameter></arg_value></tool_call><tool_call|><|tool_call_end|>"})"},
       {"{}", R"({"k":1})"}},
      {R"({"const": 5})", {"5"}, {"6"}},
  };
}

TEST(ArgumentNotationTest, ValuesComeBackAsTheyWereWritten) {
  for (const Family& family : kFamilies) {
    for (const Value& value : Values()) {
      SCOPED_TRACE(absl::StrCat(family.format, " ", value.schema));
      const std::string tools = OneParameter(value.schema);
      const auto grammar = Compile(family, tools);
      ASSERT_TRUE(grammar.ok()) << grammar.status();
      for (const std::string& each : value.right) {
        const std::string arguments = absl::StrCat(R"({"v":)", each, "}");
        const std::string text = Call(family, arguments);
        EXPECT_TRUE(Accepts(**grammar, text)) << text;
        EXPECT_EQ(Read(family, tools, text), Json::parse(arguments)) << text;
      }
      for (const std::string& each : value.wrong) {
        const std::string text = Call(family, absl::StrCat(R"({"v":)", each, "}"));
        EXPECT_FALSE(Accepts(**grammar, text)) << text;
      }
    }
  }
}

TEST(ArgumentNotationTest, WhatIsNotRequiredMayBeLeftOut) {
  const std::string tools = Tools(
      R"({"type": "object", "required": ["b", "e"], "properties": {"a": {"type": "integer"},
      "b": {"type": "integer"}, "c": {"type": "integer"}, "d": false}})");
  for (const Family& family : kFamilies) {
    const auto grammar = Compile(family, tools);
    ASSERT_TRUE(grammar.ok()) << grammar.status();
    for (const char* right : {R"({"a":1,"b":2,"c":3,"e":4})", R"({"b":2,"e":{}})",
                              R"({"b":2,"c":3,"e":null})", R"({"a":1,"b":2,"e":[4]})"}) {
      EXPECT_TRUE(Accepts(**grammar, Call(family, right))) << Call(family, right);
      EXPECT_EQ(Read(family, tools, Call(family, right)), Json::parse(right)) << family.format;
    }
    for (const char* wrong : {"{}", R"({"b":2})", R"({"a":1,"e":4})", R"({"b":2,"d":1,"e":4})",
                              R"({"c":1,"b":2,"e":4})", R"({"b":2,"e":4,"f":1})"}) {
      EXPECT_FALSE(Accepts(**grammar, Call(family, wrong))) << Call(family, wrong);
    }
  }
}

constexpr char kOrder[] =
    R"({"type": "object", "required": ["note", "count", "box"], "properties": {
    "note": {"type": "string", "maxLength": 4}, "unit": {"$ref": "#/$defs/unit"},
    "count": {"type": "integer", "minimum": 0, "maximum": 99}, "exact": {"type": "boolean"},
    "tags": {"type": "array", "items": {"type": "string", "maxLength": 2}, "maxItems": 2},
    "box": {"type": "object", "properties": {"k": {"enum": ["p", 1, null]}}, "required": ["k"],
    "additionalProperties": false}}, "$defs": {"unit": {"enum": ["c", "f"]}}})";

size_t Characters(const Json& text) {
  size_t count = 0;
  for (const char c : text.get<std::string>()) count += (c & 0xC0) != 0x80;
  return count;
}

void ExpectOrder(const Json& order, const std::string& text) {
  ASSERT_TRUE(order.is_object()) << text;
  EXPECT_LE(Characters(order.at("note")), 4u) << text;
  EXPECT_TRUE(order.at("count").is_number_integer()) << text;
  EXPECT_LE(order.at("count").get<int>(), 99) << text;
  const Json& k = order.at("box").at("k");
  EXPECT_TRUE(k == "p" || k == 1 || k == nullptr) << text;
  const Json unit = order.value("unit", Json("c"));
  EXPECT_TRUE(unit == "c" || unit == "f") << text;
  EXPECT_TRUE(order.value("exact", Json(true)).is_boolean()) << text;
  for (const Json& tag : order.value("tags", Json::array())) EXPECT_LE(Characters(tag), 2u) << text;
}

TEST(ArgumentNotationTest, WhateverMayBeWrittenIsOfTheSchema) {
  for (const Family& family : kFamilies) {
    for (const bool special : {false, true}) {
      SCOPED_TRACE(absl::StrCat(family.format, special ? " special" : ""));
      const auto grammar = Compile(family, Tools(kOrder), special);
      ASSERT_TRUE(grammar.ok()) << grammar.status();
      int complete = 0;
      for (uint64_t seed = 0; seed < 6; ++seed) {
        const std::unique_ptr<TokenMatcher> matcher = (*grammar)->Clone();
        const Tokenizer& tokenizer = TokenizerOf(special);
        const RandomOutput output(matcher.get(), tokenizer, tokenizer.vocab_size(), Eos(), seed,
                                  1000);
        if (!output.complete) continue;
        ++complete;
        ExpectOrder(Read(family, Tools(kOrder), output.text), output.text);
      }
      EXPECT_GT(complete, 3);
    }
  }
}

TEST(ArgumentNotationTest, SpecialTokensEndStrings) {
  for (const Family& family : kFamilies) {
    const auto grammar = Compile(family, OneParameter(R"({"type": "string"})"), true);
    ASSERT_TRUE(grammar.ok()) << grammar.status();
    for (const char* right : {R"({"v":""})", R"({"v":"a\n\nb"})"}) {
      EXPECT_TRUE(Accepts(**grammar, Call(family, right), true)) << Call(family, right);
    }
  }
}

// A string has no escape in these, so it cannot spell what ends it.
TEST(ArgumentNotationTest, StringsCannotSpellTheirEnd) {
  for (const Family& family : kFamilies) {
    if (family.spelling == Spelling::kPython) continue;
    for (const char* schema : {R"({"type": "string"})", R"({"type": "string", "minLength": 1})"}) {
      const auto grammar = Compile(family, OneParameter(schema));
      ASSERT_TRUE(grammar.ok()) << grammar.status();
      for (const char* end : {"</parameter>", "</arg_value>", "</tool_call>", "<tool_call|>",
                              "<|\"|>", "<escape>", "<end_function_call>"}) {
        const std::string arguments = Json({{"v", absl::StrCat("a", end, "b")}}).dump();
        const std::string text = Call(family, arguments);
        if (!Accepts(**grammar, text)) continue;
        EXPECT_EQ(Read(family, OneParameter(schema), text), Json::parse(arguments)) << text;
      }
    }
  }
}

TEST(ArgumentNotationTest, SchemasThatCannotBeKeptAreRefused) {
  const Family& family = kFamilies[0];
  for (const auto& [schema, word] : std::vector<std::pair<std::string, std::string>>{
           {OneParameter(R"({"type": "string", "pattern": "^a|b$"})"), "pattern"},
           {OneParameter(R"({"type": "string", "not": {"const": "a"}})"), "not"},
           {OneParameter(R"({"type": "string", "format": "iri"})"), "iri"},
           {OneParameter(R"({"$ref": "#/$defs/none"})"), "$ref"},
           {Tools(R"({"type": "object", "properties": {"a>": {}}})"), "name"},
           {Tools(R"({"type": "object", "minProperties": 1})"), "minProperties"},
           {Tools(R"({"type": "object", "required": ["a"], "additionalProperties": false})"),
            "not allowed"},
           {Tools(R"({"type": "object", "anyOf": [{"required": ["a"]}]})"), "anyOf"}}) {
    const auto grammar = Compile(family, schema);
    EXPECT_EQ(grammar.status().code(), absl::StatusCode::kInvalidArgument) << schema;
    EXPECT_THAT(grammar.status().message(), HasSubstr(word)) << schema;
  }
  // Names that Gemma's and Python's notations have no quotes for.
  for (const Family& each : {kFamilies[2], kFamilies[4]}) {
    EXPECT_FALSE(Compile(each, Tools(R"({"type": "object", "properties": {"a b": {}}})")).ok());
    EXPECT_FALSE(CallConstraintText(*MakeResponseFormat(each.format, false), R"([{"name": "a/b"}])",
                                    {}, true)
                     .ok());
  }
}

}  // namespace
}  // namespace kvasir
