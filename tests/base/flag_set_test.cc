#include "base/flag_set.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kvasir {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct Targets {
  std::string model = "default";
  bool json = false;
  std::optional<bool> ignore_eos;
  std::optional<int32_t> max_tokens;
  std::optional<uint64_t> seed;
  std::optional<float> temperature;
  std::vector<std::string> stop;
  std::optional<std::vector<int32_t>> token_ids;
};

FlagSet Registered(Targets* t) {
  FlagSet set;
  set.Add("model", "M", "model", &t->model);
  set.Add("json", "json", &t->json);
  set.Add("ignore_eos", "go on", &t->ignore_eos);
  set.Add("max_tokens", "N", "most tokens", &t->max_tokens);
  set.Add("seed", "N", "seed", &t->seed);
  set.Add("temperature", "X", "temperature", &t->temperature);
  set.Add("stop", "TEXT", "stop", &t->stop);
  set.Add("token_ids", "1,2", "ids", &t->token_ids);
  return set;
}

TEST(FlagSet, ReadsEveryForm) {
  Targets t;
  const auto words = Registered(&t).Parse({"--model", "m1", "once", "--max_tokens=7", "--json",
                                           "--ignore-eos=false", "--temperature", "0", "--stop",
                                           "--", "--stop=a=b", "upon", "--", "--model", "x"});
  ASSERT_TRUE(words.ok()) << words.status();
  EXPECT_THAT(*words, ElementsAre("once", "upon", "--model", "x"));
  EXPECT_EQ(t.model, "m1");
  EXPECT_EQ(t.max_tokens, 7);
  EXPECT_TRUE(t.json);
  EXPECT_EQ(t.ignore_eos, false);
  EXPECT_EQ(t.temperature, 0.0f);
  // The value after --stop is taken as it is, even when it looks like a flag.
  EXPECT_THAT(t.stop, ElementsAre("--", "a=b"));
}

TEST(FlagSet, TakesValuesAndWordsAsTheyAre) {
  Targets t;
  const auto words = Registered(&t).Parse(
      {"[a,b]", "--stop", "[c,d]", "--stop=", "--stop", "-1", "-", "", "--temperature=-1e-1"});
  ASSERT_TRUE(words.ok()) << words.status();
  EXPECT_THAT(*words, ElementsAre("[a,b]", "-", ""));
  EXPECT_THAT(t.stop, ElementsAre("[c,d]", "", "-1"));
  EXPECT_EQ(t.temperature, -0.1f);
}

TEST(FlagSet, AFlagGivenTwiceKeepsTheLastValue) {
  Targets t;
  ASSERT_TRUE(Registered(&t).Parse({"--model=a", "--json", "--model", "b", "--json=false"}).ok());
  EXPECT_EQ(t.model, "b");
  EXPECT_FALSE(t.json);
}

TEST(FlagSet, LeavesAbsentFlagsAbsent) {
  Targets t;
  ASSERT_TRUE(Registered(&t).Parse({"text"}).ok());
  EXPECT_EQ(t.model, "default");
  EXPECT_FALSE(t.ignore_eos.has_value());
  EXPECT_FALSE(t.max_tokens.has_value());
  EXPECT_FALSE(t.temperature.has_value());
  EXPECT_FALSE(t.token_ids.has_value());
}

TEST(FlagSet, KeepsTheWholeRangeOfSeeds) {
  Targets t;
  ASSERT_TRUE(Registered(&t).Parse({"--seed", "18446744073709551615"}).ok());
  EXPECT_EQ(t.seed, UINT64_MAX);
}

TEST(FlagSet, TokenIdListsAppend) {
  Targets t;
  ASSERT_TRUE(Registered(&t).Parse({"--token_ids", "1, 2", "--token_ids=3"}).ok());
  EXPECT_THAT(*t.token_ids, ElementsAre(1, 2, 3));
}

TEST(FlagSet, ErrorsNameFlagValueAndRemedy) {
  const struct {
    std::vector<std::string> arguments;
    std::vector<std::string> parts;
  } cases[] = {
      {{"--max_token", "3"}, {"'--max_token'", "did you mean '--max_tokens'"}},
      {{"--max-token=3"}, {"'--max-token'", "did you mean '--max_tokens'"}},
      {{"-x", "once"}, {"'-x'", "--help"}},
      {{"--frobnicate"}, {"--frobnicate", "--help"}},
      {{"--max_tokens"}, {"--max_tokens: 1 required N missing"}},
      {{"--max_tokens", "many"}, {"--max_tokens", "'many'", "integer"}},
      {{"--max_tokens", "99999999999"}, {"'99999999999'", "32-bit"}},
      {{"--seed", "-1"}, {"'-1'", "0 or more"}},
      {{"--json=maybe"}, {"'maybe'", "true or false"}},
      {{"--token_ids", "1,,2"}, {"'1,,2'", "1,2,3"}},
      {{"--temperature", ""}, {"--temperature got ''", "a number"}},
  };
  for (const auto& c : cases) {
    Targets t;
    const auto words = Registered(&t).Parse(c.arguments);
    ASSERT_FALSE(words.ok()) << c.arguments[0];
    for (const std::string& part : c.parts) {
      EXPECT_THAT(std::string(words.status().message()), HasSubstr(part));
    }
  }
}

TEST(FlagSet, HelpNamesEveryFlag) {
  Targets t;
  const std::string help = Registered(&t).Help();
  for (const char* name :
       {"--model M", "--json", "--ignore_eos", "--max_tokens N", "--stop TEXT"}) {
    EXPECT_THAT(help, HasSubstr(name));
  }
}

TEST(ParseTokenIds, RefusesWhatIsNoId) {
  EXPECT_THAT(*ParseTokenIds("0,4095"), ElementsAre(0, 4095));
  for (const char* text : {"", "1,", "a", "1;2", "99999999999", "1.5"})
    EXPECT_FALSE(ParseTokenIds(text).ok()) << text;
}

}  // namespace
}  // namespace kvasir
