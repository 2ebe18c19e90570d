#include "runtime/engine/stop_checker.h"

#include <algorithm>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace kvasir {
namespace {

constexpr TokenId kWord = 1;  // a token that ends nothing
constexpr TokenId kEosA = 100;
constexpr TokenId kEosB = 101;
constexpr TokenId kStopId = 200;

StoppingParams Params(std::vector<std::string> stop, int32_t max_tokens = 1000,
                      int32_t min_tokens = 0) {
  StoppingParams params;
  params.stop = std::move(stop);
  params.max_tokens = max_tokens;
  params.min_tokens = min_tokens;
  return params;
}

StopChecker Checker(const StoppingParams& params) {
  return StopChecker(&params, {kEosA, kEosB}, params.max_tokens);
}

// Feeds pieces as tokens; collects text until the end.
struct Fed {
  std::string text;
  std::vector<std::string> pieces;  // as they were given out
  StopChecker::Verdict last;
  int32_t tokens = 0;
};

Fed Feed(StopChecker checker, const std::vector<std::string>& pieces) {
  Fed run;
  for (const std::string& piece : pieces) {
    run.last = checker.Append(kWord, piece);
    ++run.tokens;
    run.text += run.last.text;
    run.pieces.push_back(run.last.text);
    if (run.last.finished) break;
  }
  const std::string held = checker.Flush();
  EXPECT_TRUE(!run.last.finished || held.empty());
  run.text += held;
  return run;
}

TEST(StopCheckerTest, WithoutStopStringsTextPassesAtOnce) {
  const Fed run = Feed(Checker(Params({})), {"a", "", "b\n"});
  EXPECT_EQ(run.pieces, (std::vector<std::string>{"a", "", "b\n"}));
  EXPECT_FALSE(run.last.finished);
  EXPECT_EQ(Feed(Checker(Params({""})), {"a"}).pieces[0], "a");
}

TEST(StopCheckerTest, AStopStringAcrossTokensIsHeldBackAndNotReturned) {
  const Fed run = Feed(Checker(Params({"END"})), {"x E", "N", "D tail", "never seen"});
  EXPECT_EQ(run.pieces, (std::vector<std::string>{"x ", "", ""}));
  EXPECT_TRUE(run.last.finished);
  EXPECT_EQ(run.last.reason, FinishReason::kStop);
  EXPECT_EQ(run.last.stop_string, "END");
  EXPECT_FALSE(run.last.stop_token.has_value());
  EXPECT_EQ(run.tokens, 3);
}

TEST(StopCheckerTest, HeldBackTextComesOutOnceItCannotMatch) {
  const Fed run = Feed(Checker(Params({"END"})), {"E", "N", "E", "x"});
  EXPECT_EQ(run.pieces, (std::vector<std::string>{"", "", "EN", "Ex"}));
}

TEST(StopCheckerTest, HeldBackTextComesOutAtOtherEnds) {
  EXPECT_EQ(Feed(Checker(Params({"END"}, 2)), {"a", "bEN"}).text, "abEN");
  StopChecker eos = Checker(Params({"END"}));
  EXPECT_EQ(eos.Append(kWord, "bEN").text, "b");
  EXPECT_EQ(eos.Append(kEosA, "").text, "EN");
  EXPECT_EQ(Feed(Checker(Params({"END"})), {"bEN"}).text, "bEN");  // Flush
}

TEST(StopCheckerTest, TheFirstCompleteMatchWinsThenTheLongest) {
  // "bc" is complete before "abcd", although that one begins first.
  Fed run = Feed(Checker(Params({"abcd", "bc"})), {"xabcd"});
  EXPECT_EQ(run.text, "xa");
  EXPECT_EQ(run.last.stop_string, "bc");
  run = Feed(Checker(Params({"c", "bc", "abc"})), {"xabcd"});
  EXPECT_EQ(run.text, "x");
  EXPECT_EQ(run.last.stop_string, "abc");
}

TEST(StopCheckerTest, OverlappingBeginningsAreFound) {
  EXPECT_EQ(Feed(Checker(Params({"\n\n"})), {"a\n", "b\n", "\nc"}).text, "a\nb");
  EXPECT_EQ(Feed(Checker(Params({"aab"})), {"a", "a", "a", "b"}).text, "a");
  EXPECT_EQ(Feed(Checker(Params({"abab!"})), {"ababab!"}).text, "ab");
}

TEST(StopCheckerTest, WholeCharactersOnly) {
  // "é" is c3 a9, "è" is c3 a8: they share a first byte.
  const Fed run = Feed(Checker(Params({"é!"})), {"aè", "é", "?", "é", "!"});
  EXPECT_EQ(run.pieces, (std::vector<std::string>{"aè", "", "é?", "", ""}));
}

TEST(StopCheckerTest, EosAndStopIds) {
  StoppingParams params = Params({});
  params.stop_token_ids = {kStopId};
  StopChecker eos = Checker(params);
  StopChecker::Verdict verdict = eos.Append(kEosB, "</s>");
  EXPECT_TRUE(verdict.finished);
  EXPECT_EQ(verdict.reason, FinishReason::kEos);
  EXPECT_EQ(verdict.text, "");  // an end token's own text is not output
  EXPECT_FALSE(verdict.stop_token.has_value());

  StopChecker stop = Checker(params);
  verdict = stop.Append(kStopId, "<stop>");
  EXPECT_TRUE(verdict.finished);
  EXPECT_EQ(verdict.reason, FinishReason::kStop);
  EXPECT_EQ(verdict.stop_token, kStopId);
  EXPECT_EQ(verdict.text, "");
}

TEST(StopCheckerTest, IgnoreEosLeavesStopIdsAlone) {
  StoppingParams params = Params({});
  params.ignore_eos = true;
  params.stop_token_ids = {kEosB};
  StopChecker checker = Checker(params);
  StopChecker::Verdict verdict = checker.Append(kEosA, "</s>");
  EXPECT_FALSE(verdict.finished);
  EXPECT_EQ(verdict.text, "</s>");
  verdict = checker.Append(kEosB, "");
  EXPECT_EQ(verdict.reason, FinishReason::kStop);
  EXPECT_EQ(verdict.stop_token, kEosB);
}

TEST(StopCheckerTest, MinTokensDelaysEveryStop) {
  StoppingParams params = Params({"END"}, 1000, 2);
  params.stop_token_ids = {kStopId};
  StopChecker checker = Checker(params);
  EXPECT_EQ(std::vector<TokenId>(checker.banned_tokens().begin(), checker.banned_tokens().end()),
            (std::vector<TokenId>{kEosA, kEosB, kStopId}));
  EXPECT_FALSE(checker.Append(kEosA, "").finished);
  EXPECT_FALSE(checker.banned_tokens().empty());
  StopChecker::Verdict verdict = checker.Append(kStopId, "aEND");
  EXPECT_FALSE(verdict.finished);
  EXPECT_EQ(verdict.text,
            "aEND");  // complete too early: ordinary text, and nothing of it can match later
  EXPECT_TRUE(checker.banned_tokens().empty());
  EXPECT_EQ(checker.Append(kWord, "xEND").stop_string, "END");
}

TEST(StopCheckerTest, AStopStringThatBeginsBeforeMinTokensAndEndsAfterCounts) {
  const Fed run = Feed(Checker(Params({"END"}, 1000, 1)), {"aEN", "D"});
  EXPECT_EQ(run.text, "a");
  EXPECT_TRUE(run.last.finished);
  EXPECT_EQ(run.tokens, 2);
}

TEST(StopCheckerTest, TheLimitSaysWhichLimitItWas) {
  const StoppingParams params = Params({}, 3);
  StopChecker own(&params, {}, 3);
  StopChecker context(&params, {}, 2);
  EXPECT_FALSE(own.Append(kWord, "a").finished);
  EXPECT_FALSE(own.Append(kWord, "a").finished);
  EXPECT_EQ(own.Append(kWord, "a").reason, FinishReason::kLength);
  context.Append(kWord, "a");
  const StopChecker::Verdict verdict = context.Append(kWord, "b");
  EXPECT_TRUE(verdict.finished);
  EXPECT_EQ(verdict.reason, FinishReason::kContextFull);
  EXPECT_EQ(verdict.text, "b");
}

TEST(StopCheckerTest, StopsComeBeforeTheLimit) {
  EXPECT_EQ(Feed(Checker(Params({"b"}, 1)), {"ab"}).last.reason, FinishReason::kStop);
  const StoppingParams params = Params({}, 1);
  EXPECT_EQ(Checker(params).Append(kEosA, "").reason, FinishReason::kEos);
  // ... and min_tokens = max_tokens leaves the limit.
  EXPECT_EQ(Feed(Checker(Params({"b"}, 1, 1)), {"ab"}).last.reason, FinishReason::kLength);
}

// The twin: sees the whole text at once and tries every stop string at every end.
struct Outcome {
  std::string text;
  std::string stop_string;  // empty: none
  int32_t tokens = 0;
};

Outcome Naive(const std::vector<std::string>& pieces, const std::vector<std::string>& stop,
              int32_t min_tokens) {
  std::string text;
  int32_t tokens = 0;
  for (const std::string& piece : pieces) {
    ++tokens;
    for (const char byte : piece) {
      text += byte;
      if (tokens <= min_tokens) continue;
      std::string best;
      for (const std::string& candidate : stop) {
        const bool matches =
            text.size() >= candidate.size() &&
            text.compare(text.size() - candidate.size(), candidate.size(), candidate) == 0;
        if (matches && candidate.size() > best.size()) best = candidate;
      }
      if (!best.empty()) return {text.substr(0, text.size() - best.size()), best, tokens};
    }
  }
  return {text, "", tokens};
}

// How much of `text`'s end is the beginning of a stop string, and not a whole one.
size_t NaiveOpenBytes(const std::string& text, const std::vector<std::string>& stop) {
  size_t open = 0;
  for (const std::string& candidate : stop) {
    for (size_t bytes = 1; bytes < candidate.size() && bytes <= text.size(); ++bytes) {
      if (text.compare(text.size() - bytes, bytes, candidate, 0, bytes) == 0) {
        open = std::max(open, bytes);
      }
    }
  }
  return open;
}

TEST(StopCheckerPropertyTest, AgreesWithATwinThatSeesTheWholeText) {
  std::mt19937 random(21);
  const std::vector<std::string> alphabet = {"a", "b", "é", "è"};
  const auto random_text = [&](int most_characters, int letters) {
    std::string text;
    const int count = static_cast<int>(random() % (most_characters + 1));
    for (int i = 0; i < count; ++i) text += alphabet[random() % letters];
    return text;
  };
  int stopped = 0;
  for (int round = 0; round < 30000; ++round) {
    const int letters = 2 + static_cast<int>(random() % 3);
    std::vector<std::string> stop;
    for (int i = static_cast<int>(random() % 5); i >= 0; --i) {
      std::string candidate = random_text(7, letters);
      if (!candidate.empty()) stop.push_back(std::move(candidate));
    }
    std::vector<std::string> pieces(1 + random() % 25);
    for (std::string& piece : pieces) piece = random_text(4, letters);
    const int32_t min_tokens = random() % 2 ? static_cast<int32_t>(random() % 8) : 0;

    const StoppingParams params = Params(stop, 1000, min_tokens);
    StopChecker checker = Checker(params);
    const Outcome expected = Naive(pieces, stop, min_tokens);
    std::string seen, given;
    StopChecker::Verdict verdict;
    int32_t tokens = 0;
    for (const std::string& piece : pieces) {
      verdict = checker.Append(kWord, piece);
      ++tokens;
      seen += piece;
      given += verdict.text;
      // Whole characters: no piece begins with a continuation byte.
      ASSERT_TRUE(verdict.text.empty() || (verdict.text[0] & 0xc0) != 0x80);
      if (verdict.finished) break;
      // Nothing is held back without need.
      ASSERT_EQ(given.size() + NaiveOpenBytes(seen, stop), seen.size()) << seen;
    }
    given += checker.Flush();
    ASSERT_EQ(given, expected.text);
    ASSERT_EQ(verdict.stop_string, expected.stop_string);
    ASSERT_EQ(verdict.finished, !expected.stop_string.empty());
    ASSERT_EQ(tokens, expected.tokens);
    stopped += verdict.finished;
  }
  EXPECT_GT(stopped, 5000);
  EXPECT_LT(stopped, 29000);
}

// The largest list that a request may carry.
TEST(StopCheckerTest, SixteenLongStopStrings) {
  std::vector<std::string> stop;
  for (int i = 0; i < 16; ++i) stop.push_back(std::string(255, 'a') + static_cast<char>('b' + i));
  std::vector<std::string> pieces(1000, "aaaaaaa");
  pieces.push_back("aaq!");
  const Fed run = Feed(Checker(Params(stop, 100000)), pieces);
  EXPECT_TRUE(run.last.finished);
  EXPECT_EQ(run.last.stop_string, std::string(255, 'a') + "q");
  EXPECT_EQ(run.text, std::string(7002 - 255, 'a'));
}

}  // namespace
}  // namespace kvasir
