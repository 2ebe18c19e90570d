// Grammars of the output: what compiles, which tokens are allowed, where an output may end, what is
// refused, and that nobody's grammar brings the process down.
#include "runtime/grammar/token_matcher.h"

#include <regex>
#include <set>
#include <thread>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "runtime/grammar/grammar_compiler.h"
#include "runtime/tokenizer/text_call.h"
#include "tests/grammar/random_output.h"
#include "tests/test_models.h"
#include "tests/tokenizer/tiny_tokenizer.h"

namespace kvasir {
namespace {

using testing::AllowedTokens;
using testing::Allows;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::RandomOutput;
using Kind = Constraint::Kind;

const Tokenizer& RealTokenizer() {
  static const std::unique_ptr<Tokenizer> tokenizer =
      *Tokenizer::Load(testing::ModelFolder(testing::kBundledModel));
  return *tokenizer;
}

// A model whose embedding has rows that the tokenizer does not know.
int VocabSize() { return RealTokenizer().vocab_size() + 37; }
TokenId Eos() { return *RealTokenizer().eos_token_id(); }

GrammarCompiler& Compiler() {
  static auto* const compiler =
      new GrammarCompiler(&RealTokenizer(), VocabSize(), {Eos()}, GrammarLimits());
  return *compiler;
}

absl::StatusOr<std::unique_ptr<TokenMatcher>> Compile(Kind kind, const std::string& text,
                                                      const std::string& after = "") {
  return Compiler().Compile({.kind = kind, .text = text, .after = after}, absl::InfiniteFuture());
}

std::unique_ptr<TokenMatcher> MustCompile(Kind kind, const std::string& text,
                                          const std::string& after = "") {
  auto matcher = Compile(kind, text, after);
  EXPECT_TRUE(matcher.ok()) << text << ": " << matcher.status();
  return matcher.ok() ? *std::move(matcher) : nullptr;
}

std::string RefusalOf(Kind kind, const std::string& text) {
  const auto matcher = Compile(kind, text);
  EXPECT_EQ(matcher.status().code(), absl::StatusCode::kInvalidArgument) << text;
  return std::string(matcher.status().message());
}

constexpr char kSchema[] =
    R"({"type":"object","properties":{"zoo":{"type":"string","maxLength":6},)"
    R"("age":{"type":"integer","minimum":0,"maximum":99},"tags":{"type":"array","maxItems":2,)"
    R"("items":{"enum":["a","b"]}}},"required":["zoo","age"],"additionalProperties":false})";

TEST(TokenMatcherTest, RandomOutputsAreOfTheSchema) {
  const auto grammar = MustCompile(Kind::kJsonSchema, kSchema);
  int complete = 0;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    const auto matcher = grammar->Clone();
    const RandomOutput output(matcher.get(), RealTokenizer(), VocabSize(), Eos(), seed);
    if (!output.complete) continue;
    ++complete;
    const auto json = nlohmann::json::parse(output.text, nullptr, false);
    ASSERT_TRUE(json.is_object()) << output.text;
    EXPECT_TRUE(json.at("zoo").is_string()) << output.text;
    EXPECT_TRUE(json.at("age").is_number_integer()) << output.text;
    EXPECT_LT(output.text.find("\"zoo\""), output.text.find("\"age\"")) << "not in schema order";
  }
  EXPECT_GT(complete, 30);
}

TEST(TokenMatcherTest, RandomOutputsMatchTheRegularExpression) {
  for (const char* regex : {"[0-9]{3}-[a-z]{2,5}", "(foo|foobar|bar)x{0,3}!", "^anchored?$"}) {
    const auto grammar = MustCompile(Kind::kRegex, regex);
    for (uint64_t seed = 0; seed < 20; ++seed) {
      const auto matcher = grammar->Clone();
      const RandomOutput output(matcher.get(), RealTokenizer(), VocabSize(), Eos(), seed);
      ASSERT_TRUE(output.complete) << regex;
      EXPECT_TRUE(std::regex_match(output.text, std::regex(regex))) << output.text;
    }
  }
}

TEST(TokenMatcherTest, AMaskIsWhatCommitTakes) {
  const auto grammar = MustCompile(Kind::kJsonSchema, kSchema);
  for (uint64_t seed = 0; seed < 4; ++seed) {
    const auto matcher = grammar->Clone();
    RandomOutput(matcher.get(), RealTokenizer(), VocabSize(), Eos(), seed, 5 + 4 * seed);
    if (matcher->IsComplete()) continue;
    std::vector<uint32_t> mask(MaskWords(VocabSize()));
    ASSERT_TRUE(matcher->FillMask(absl::MakeSpan(mask)).ok());
    // Where tokens are forced, others that spell the same are not drawn, though they would fit.
    const bool forced = !matcher->Forced().empty();
    for (TokenId token = 0; token < VocabSize(); token += 1 + token % 7) {
      const bool taken = matcher->Clone()->Commit(token).ok();
      if (Allows(mask, token)) EXPECT_TRUE(taken) << token;
      if (!Allows(mask, token) && !forced) EXPECT_FALSE(taken) << token;
    }
    for (TokenId token = RealTokenizer().vocab_size(); token < VocabSize(); ++token) {
      EXPECT_FALSE(Allows(mask, token)) << "a token that spells nothing";
    }
  }
}

TEST(TokenMatcherTest, ForcedTokensAreAllThatMasksAllow) {
  const auto matcher = MustCompile(Kind::kLark, "start: \"the quick brown \" (\"fox\" | \"dog\")");
  const std::vector<TokenId> forced = matcher->Forced();
  ASSERT_GT(forced.size(), 1);
  // As the tokenizer itself spells it.
  EXPECT_EQ(RealTokenizer().Encode("the quick brown", {.add_special_tokens = false})->front(),
            forced.front());
  for (const TokenId token : forced) {
    EXPECT_THAT(AllowedTokens(matcher.get(), VocabSize()), ElementsAre(token));
    ASSERT_TRUE(matcher->Commit(token).ok());
  }
  EXPECT_GT(AllowedTokens(matcher.get(), VocabSize()).size(), 1);
  EXPECT_THAT(matcher->Forced(), IsEmpty());
}

TEST(TokenMatcherTest, SaysWhereAnOutputMayEndAndMust) {
  const auto matcher = MustCompile(Kind::kRegex, "a{1,3}");
  const TokenId a = *RealTokenizer().TokenToId("a");
  EXPECT_FALSE(matcher->IsAccepting());
  ASSERT_TRUE(matcher->Commit(a).ok());
  EXPECT_TRUE(matcher->IsAccepting());
  EXPECT_FALSE(matcher->IsComplete());
  const auto ended = matcher->Clone();
  ASSERT_TRUE(ended->Commit(Eos()).ok());
  EXPECT_TRUE(ended->IsComplete());
  ASSERT_TRUE(matcher->Commit(a).ok());
  ASSERT_TRUE(matcher->Commit(a).ok());
  EXPECT_TRUE(matcher->IsComplete());
  EXPECT_TRUE(matcher->IsAccepting());
}

TEST(TokenMatcherTest, ClonesGoWaysOfTheirOwn) {
  const auto grammar = MustCompile(Kind::kChoice, R"(["red","green","blue"])");
  std::set<std::string> seen;
  for (uint64_t seed = 0; seed < 60; ++seed) {
    const auto matcher = grammar->Clone();
    seen.insert(RandomOutput(matcher.get(), RealTokenizer(), VocabSize(), Eos(), seed).text);
  }
  EXPECT_THAT(seen, ElementsAre("blue", "green", "red"));
}

// Only special tokens that a tag spells are in the output, and plain text never makes one.
TEST(TokenMatcherTest, ASpecialTokenStandsForItsNameInATag) {
  auto file = testing::BpeFile({"<", "t", ">", "1", "<t>", "</t>", "</s>", "/", "0", "x"}, {});
  file["added_tokens"] = nlohmann::json::array({testing::AddedTokenJson(4, "<t>", true),
                                                testing::AddedTokenJson(5, "</t>", true),
                                                testing::AddedTokenJson(6, "</s>", true)});
  const auto tokenizer = testing::MustLoad(file);
  GrammarCompiler compiler(tokenizer.get(), 10, {6}, GrammarLimits());
  auto compiled = compiler.Compile(
      {.kind = Kind::kStructuralTag,
       .text = R"({"tags":[{"begin":"<t>","schema":"{\"enum\":[10]}","end":"</t>"}],)"
               R"("at_once":false,"only_one":false})"},
      absl::InfiniteFuture());
  ASSERT_TRUE(compiled.ok()) << compiled.status();
  TokenMatcher& matcher = **compiled;
  EXPECT_THAT(AllowedTokens(&matcher, 10), ElementsAre(0, 1, 2, 3, 4, 6, 7, 8, 9));
  for (const TokenId plain : {0, 1, 2}) ASSERT_TRUE(matcher.Commit(plain).ok());
  EXPECT_TRUE(matcher.IsAccepting()) << "the name in plain text began a tag";
  ASSERT_TRUE(matcher.Commit(4).ok());
  EXPECT_THAT(AllowedTokens(&matcher, 10), ElementsAre(3));
  for (const TokenId inside : {3, 8}) ASSERT_TRUE(matcher.Commit(inside).ok());
  EXPECT_THAT(AllowedTokens(&matcher, 10), ElementsAre(5));
  ASSERT_TRUE(matcher.Commit(5).ok());
  EXPECT_TRUE(matcher.IsAccepting());
}

TEST(TokenMatcherTest, AModelWithoutAnEndEndsWhereNothingFollows) {
  GrammarCompiler compiler(&RealTokenizer(), RealTokenizer().vocab_size(), {}, GrammarLimits());
  auto compiled =
      compiler.Compile({.kind = Kind::kRegex, .text = "[ab]{4}"}, absl::InfiniteFuture());
  ASSERT_TRUE(compiled.ok()) << compiled.status();
  const RandomOutput output(compiled->get(), RealTokenizer(), RealTokenizer().vocab_size(), -1, 1);
  EXPECT_TRUE(output.complete);
  EXPECT_EQ(output.text.size(), 4u);
}

TEST(TokenMatcherTest, RefusesWithTheReason) {
  EXPECT_THAT(RefusalOf(Kind::kJsonSchema, "{"), HasSubstr("not JSON"));
  EXPECT_THAT(RefusalOf(Kind::kJsonSchema, "7"), HasSubstr("object"));
  EXPECT_THAT(RefusalOf(Kind::kJsonSchema, R"({"not":{}})"), HasSubstr("not"));
  EXPECT_THAT(RefusalOf(Kind::kJsonSchema, R"({"type":"array","uniqueItems":true})"),
              HasSubstr("uniqueItems"));
  EXPECT_THAT(RefusalOf(Kind::kJsonSchema, R"({"$ref":"https://elsewhere.example/"})"),
              HasSubstr("elsewhere"));
  EXPECT_THAT(RefusalOf(Kind::kRegex, "(a"), HasSubstr("unclosed"));
  EXPECT_THAT(RefusalOf(Kind::kRegex, "(?=a)b"), HasSubstr("look"));
  EXPECT_THAT(RefusalOf(Kind::kRegex, ""), HasSubstr("empty"));
  EXPECT_THAT(RefusalOf(Kind::kLark, "start: missing"), HasSubstr("missing"));
  EXPECT_THAT(RefusalOf(Kind::kLark, "start: start \"a\""), HasSubstr("no output"));
  EXPECT_THAT(RefusalOf(Kind::kChoice, "[]"), HasSubstr("at least one"));
  EXPECT_THAT(RefusalOf(Kind::kStructuralTag, "{}"), HasSubstr("tag"));
  EXPECT_THAT(RefusalOf(Kind::kRegex, "\xff"), HasSubstr("UTF-8"));
  EXPECT_THAT(RefusalOf(Kind::kJsonSchema, std::string(200'000, ' ')), HasSubstr("limit"));
}

// Whether `text` is an output of the schema.
bool IsOutputOf(const std::string& schema, const std::string& text) {
  const auto matcher = MustCompile(Kind::kJsonSchema, schema);
  const auto ids = RealTokenizer().Encode(text, {.add_special_tokens = false});
  if (matcher == nullptr || !ids.ok()) return false;
  for (const TokenId id : *ids) {
    if (!matcher->Commit(id).ok()) return false;
  }
  return matcher->IsAccepting();
}

// Each of these the compiler alone takes wrongly.
TEST(TokenMatcherTest, WhatTheCompilerTakesWronglyIsNarrowed) {
  for (const auto& [schema, good, wrong] :
       std::vector<std::tuple<std::string, std::string, std::string>>{
           {R"({"type":"string","pattern":"^[^\"]*$"})", R"("ab")", R"("a\"b")"},
           {R"({"type":"string","pattern":"^[^\\\\]*$"})", R"("ab")", R"("a\\b")"},
           {R"({"type":"string","pattern":"^\\D+$"})", R"("ab")", "\"\u0661\""},
           {R"({"type":"string","pattern":"^[[:alpha:]]$"})", R"("a]")", R"("b")"},
           {R"({"type":"object","properties":{"a":{"type":"integer"}}})", R"({"a":1})",
            R"({"\u0061":"b"})"},
           {R"({"type":"object","patternProperties":{"^x":{"type":"integer"}}})", R"({"x":1})",
            R"({"x\u0061":"b"})"},
           {R"({"type":"integer","maximum":9223372036854775807})", "5", "9223372036854775808"},
       }) {
    EXPECT_TRUE(IsOutputOf(schema, good)) << schema;
    EXPECT_FALSE(IsOutputOf(schema, wrong)) << schema;
  }
  for (const auto& [schema, reason] : std::vector<std::pair<std::string, std::string>>{
           {R"({"type":"number","exclusiveMinimum":0,"maximum":0.5})", "exclusiveMinimum 0"},
           {R"({"allOf":[{"exclusiveMaximum":-2},{"minimum":-2.5}]})", "exclusiveMaximum -2"},
           {R"({"type":"integer","minimum":9007199254740993})", "below 2^53"},
           {R"({"type":"object","minProperties":2})", "minProperties 2"},
           {R"({"type":"string","pattern":"a(?=b)b"})", "look-around"},
       }) {
    EXPECT_THAT(RefusalOf(Kind::kJsonSchema, schema), HasSubstr(reason));
  }
}

// Each of these has cost some compiler its stack, its memory or its patience.
TEST(TokenMatcherTest, HostileGrammarsAreRefusedOrServed) {
  std::vector<std::pair<Kind, std::string>> grammars = {
      {Kind::kRegex, "(a{1000}){1000}"},
      {Kind::kRegex, "((((a*)*)*)*)*b"},
      {Kind::kRegex, "(a|aa)+(a|aa)+(a|aa)+c"},
      {Kind::kRegex, "(x+x+)+y"},
      {Kind::kRegex, absl::StrCat(std::string(240, '('), "a", std::string(240, ')'))},
      {Kind::kRegex, absl::StrCat(std::string(60'000, '('), "a", std::string(60'000, ')'))},
      {Kind::kRegex, "[ab]*a[ab]{20}c"},
      {Kind::kRegex, absl::StrCat("(?i:", std::string(20'000, 'k'), ")")},
      {Kind::kLark, "start: \"a\" start"},
      {Kind::kLark, "start: x x\nx: y y\ny: z z\nz: start | \"a\""},
      {Kind::kLark, "start: /a/ | start start start"},
      {Kind::kLark, absl::StrCat("start: ", std::string(60'000, '('))},
      {Kind::kLark, "start: \"a\"{1000000}"},
      {Kind::kJsonSchema, R"({"type":"string","minLength":100000000})"},
      {Kind::kJsonSchema, R"({"type":"array","minItems":1000000})"},
      {Kind::kJsonSchema, R"({"$ref":"#"})"},
      {Kind::kJsonSchema, R"({"allOf":[{"$ref":"#"},{"$ref":"#"}]})"},
      {Kind::kJsonSchema, R"({"type":"integer","multipleOf":999983,"minimum":0})"},
      {Kind::kJsonSchema, R"({"type":"number","multipleOf":0.0123456789})"},
      {Kind::kJsonSchema, R"({"type":"number","multipleOf":1e-300})"},
  };
  std::string chain = R"({"$ref":"#/$defs/d0","$defs":{)";
  std::string meet = chain;
  for (int i = 0; i < 2500; ++i) {
    absl::StrAppend(&chain, "\"d", i, R"(":{"$ref":"#/$defs/d)", i + 1, "\"},");
    absl::StrAppend(&meet, "\"d", i, R"(":{"allOf":[{"$ref":"#/$defs/d)", i + 1, "\"}]},");
  }
  grammars.emplace_back(Kind::kJsonSchema, chain + R"("d2500":{"type":"null"}}})");
  grammars.emplace_back(Kind::kJsonSchema, meet + R"("d2500":{"type":"null"}}})");
  grammars.emplace_back(Kind::kJsonSchema, absl::StrCat(std::string(100'000, '[')));
  std::string deep = R"({"type":"null"})";
  for (int i = 0; i < 50; ++i) deep = absl::StrCat(R"({"anyOf":[)", deep, R"(,{"type":"array"}]})");
  grammars.emplace_back(Kind::kJsonSchema, deep);
  for (const auto& [kind, text] : grammars) {
    const auto compiled = Compile(kind, text);
    if (!compiled.ok()) {
      EXPECT_NE(compiled.status().code(), absl::StatusCode::kInternal) << compiled.status();
      continue;
    }
    // It may still grow beyond the limits on the way: then it says so.
    std::vector<uint32_t> mask(MaskWords(VocabSize()));
    std::mt19937_64 random(1);
    for (int i = 0; i < 20 && !(*compiled)->IsComplete(); ++i) {
      if (!(*compiled)->FillMask(absl::MakeSpan(mask)).ok()) break;
      TokenId token = random() % VocabSize();
      while (!Allows(mask, token)) token = (token + 1) % VocabSize();
      if (!(*compiled)->Commit(token).ok()) break;
    }
  }
}

TEST(TokenMatcherTest, LimitsHold) {
  GrammarLimits tight;
  tight.max_symbols = 1000;
  tight.max_lexer_states = 1000;
  tight.compile_fuel = 1000;
  GrammarCompiler compiler(&RealTokenizer(), VocabSize(), {Eos()}, tight);
  nlohmann::json schema = {{"type", "object"}, {"additionalProperties", false}};
  for (int i = 0; i < 1000; ++i) {
    schema["properties"][absl::StrCat("p", i)] = {{"type", "string"}};
  }
  const auto refused =
      compiler.Compile({.kind = Kind::kJsonSchema, .text = schema.dump()}, absl::InfiniteFuture());
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument) << refused.status();
  EXPECT_TRUE(
      compiler.Compile({.kind = Kind::kRegex, .text = "[ab]{3}"}, absl::InfiniteFuture()).ok());
}

TEST(TokenMatcherTest, AnErrorStays) {
  const auto matcher = MustCompile(Kind::kRegex, "aaaa");
  const TokenId wrong = *RealTokenizer().TokenToId("b");
  EXPECT_EQ(matcher->Commit(wrong).code(), absl::StatusCode::kInvalidArgument);
  std::vector<uint32_t> mask(MaskWords(VocabSize()));
  EXPECT_FALSE(matcher->FillMask(absl::MakeSpan(mask)).ok());
  EXPECT_FALSE(matcher->Commit(*RealTokenizer().TokenToId("a")).ok());
  EXPECT_FALSE(matcher->IsAccepting());
  EXPECT_FALSE(matcher->IsComplete());
  EXPECT_FALSE(matcher->Clone()->FillMask(absl::MakeSpan(mask)).ok());
}

TEST(TokenMatcherTest, TheHeaderRefusesWhatItCannotRead) {
  std::vector<uint32_t> mask(MaskWords(VocabSize()) + 1);
  EXPECT_FALSE(MustCompile(Kind::kRegex, "a")->FillMask(absl::MakeSpan(mask)).ok());
  EXPECT_FALSE(MustCompile(Kind::kRegex, "a")->Commit(-1).ok());
  EXPECT_FALSE(MustCompile(Kind::kRegex, "a")->Commit(1 << 30).ok());
  EXPECT_FALSE(Compile(static_cast<Kind>(9), "a").ok());
  KvasirTextGrammars* grammars = nullptr;
  TextBuffer error;
  const KvasirTextGrammarLimits limits = {};
  EXPECT_EQ(kvasir_text_grammars_new(RealTokenizer().handle(), 0, nullptr, 0, &limits, &grammars,
                                     error.out()),
            KVASIR_TEXT_INVALID_ARGUMENT);
  EXPECT_EQ(grammars, nullptr);
  kvasir_text_grammars_free(nullptr);
  kvasir_text_matcher_free(nullptr);
}

TEST(TokenMatcherTest, TheConstraintsUsedLastStayCompiled) {
  GrammarLimits limits;
  limits.max_compiled = 2;
  GrammarCompiler compiler(&RealTokenizer(), VocabSize(), {Eos()}, limits);
  const auto compile = [&](const std::string& regex, const std::string& after = "") {
    EXPECT_TRUE(
        compiler
            .Compile({.kind = Kind::kRegex, .text = regex, .after = after}, absl::InfiniteFuture())
            .ok());
    return compiler.counts().reused;
  };
  EXPECT_EQ(compile("a+"), 0);
  EXPECT_EQ(compile("b+"), 0);
  EXPECT_EQ(compile("a+"), 1);
  EXPECT_EQ(compile("a+", "</think>"), 1) << "another constraint, which takes the place of b+";
  EXPECT_EQ(compile("a+"), 2);
  EXPECT_EQ(compile("b+"), 2);
  const auto as_lark =
      compiler.Compile({.kind = Kind::kLark, .text = "a+"}, absl::InfiniteFuture());
  EXPECT_FALSE(as_lark.ok()) << "the same text of another kind";
  EXPECT_EQ(compile("b+"), 3) << "what does not compile takes nobody's place";
  EXPECT_EQ(compiler.counts().compiled, 4);
  EXPECT_EQ(compiler.counts().refused, 1);

  limits.max_compiled = 0;
  GrammarCompiler forgetful(&RealTokenizer(), VocabSize(), {Eos()}, limits);
  for (int i = 0; i < 2; ++i) {
    EXPECT_TRUE(
        forgetful.Compile({.kind = Kind::kRegex, .text = "a+"}, absl::InfiniteFuture()).ok());
  }
  EXPECT_EQ(forgetful.counts().reused, 0);
  EXPECT_EQ(forgetful.counts().compiled, 2);
}

// A request that comes first and one that finds its grammar compiled write the same and meet the
// limits at the same place, whatever others did with the grammar in between.
TEST(TokenMatcherTest, ACompiledGrammarIsAsNewForEveryRequest) {
  GrammarLimits limits;
  limits.max_lexer_states = 1000;
  GrammarCompiler compiler(&RealTokenizer(), VocabSize(), {Eos()}, limits);
  const Constraint constraint = {.kind = Kind::kJsonSchema, .text = kSchema};
  const auto write = [&](uint64_t seed) {
    auto matcher = compiler.Compile(constraint, absl::InfiniteFuture());
    EXPECT_TRUE(matcher.ok()) << matcher.status();
    return RandomOutput(matcher->get(), RealTokenizer(), VocabSize(), Eos(), seed).text;
  };
  std::vector<std::string> first;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    GrammarCompiler fresh(&RealTokenizer(), VocabSize(), {Eos()}, limits);
    auto matcher = fresh.Compile(constraint, absl::InfiniteFuture());
    ASSERT_TRUE(matcher.ok());
    first.push_back(RandomOutput(matcher->get(), RealTokenizer(), VocabSize(), Eos(), seed).text);
  }
  for (uint64_t seed = 0; seed < 20; ++seed) EXPECT_EQ(write(seed), first[seed]) << seed;
  EXPECT_EQ(compiler.counts().reused, 19);
}

TEST(TokenMatcherTest, ADeadlineThatPassedIsTold) {
  // One that no other test has compiled: those are there without waiting.
  const Constraint fresh = {.kind = Kind::kRegex, .text = "too late"};
  EXPECT_EQ(Compiler().Compile(fresh, absl::InfinitePast()).status().code(),
            absl::StatusCode::kDeadlineExceeded);
}

TEST(TokenMatcherTest, EightThreadsAtOnceGetWhatOneGets) {
  const auto grammar = MustCompile(Kind::kJsonSchema, kSchema);
  const auto output = [&](uint64_t seed) {
    const auto matcher = grammar->Clone();
    return RandomOutput(matcher.get(), RealTokenizer(), VocabSize(), Eos(), seed, 60).tokens;
  };
  const std::vector<TokenId> alone = output(7);
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < 5; ++round) {
        EXPECT_EQ(output(7), alone);
        EXPECT_TRUE(Compile(Kind::kRegex, absl::StrCat("x{", i + 1, "}")).ok());
        output(i);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace kvasir
