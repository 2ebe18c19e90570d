// The compiler's thread: what one constraint takes is not what the next one waits for.
#include "runtime/grammar/grammar_compiler.h"

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/steady_time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/test_models.h"

namespace kvasir {
namespace {

using ::testing::HasSubstr;
using Kind = Constraint::Kind;

const Tokenizer& RealTokenizer() {
  static const std::unique_ptr<Tokenizer> tokenizer =
      *Tokenizer::Load(testing::ModelFolder(testing::kBundledModel));
  return *tokenizer;
}

// A second of work: 2000 properties, each with a regex of its own.
Constraint Wide(const std::string& prefix) {
  nlohmann::json schema = {{"type", "object"}};
  for (int i = 0; i < 2000; ++i) {
    schema["properties"][absl::StrCat(prefix, i)] = {{"maxLength", i}};
  }
  return {.kind = Kind::kJsonSchema, .text = schema.dump()};
}

class GrammarCompilerTest : public ::testing::Test {
 protected:
  explicit GrammarCompilerTest() {
    limits_.max_compile_time = absl::Milliseconds(50);
    StartAnew(nullptr);
    // Makes the vocabulary ready, in whatever time.
    AwaitCompiled({.kind = Kind::kRegex, .text = "warm"});
  }

  void StartAnew(std::function<void(const Constraint&)> on_turn) {
    compiler_ = std::make_unique<GrammarCompiler>(&RealTokenizer(), RealTokenizer().vocab_size(),
                                                  std::vector{*RealTokenizer().eos_token_id()},
                                                  limits_, std::move(on_turn));
  }

  absl::Status Compile(const Constraint& constraint, absl::Time deadline = absl::InfiniteFuture()) {
    return compiler_->Compile(constraint, deadline).status();
  }
  // As a client that asks again.
  void AwaitCompiled(const Constraint& constraint) {
    const absl::Time end = SteadyNow() + absl::Minutes(5);
    while (!Compile(constraint).ok()) ASSERT_LT(SteadyNow(), end);
  }

  GrammarLimits limits_;
  std::unique_ptr<GrammarCompiler> compiler_;
};

TEST_F(GrammarCompilerTest, OneThatTakesTooLongKeepsNobodyElseWaiting) {
  const absl::Status refused = Compile(Wide("a"));
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("did not compile within 50ms"));
  // Before it is done, others are; each asks as often as it likes, for the machine may be busy.
  const int64_t before = compiler_->counts().compiled;
  AwaitCompiled({.kind = Kind::kRegex, .text = "b+"});
  EXPECT_EQ(compiler_->counts().compiled, before + 1) << "the wide one was first";
  // A second one as well, by a client that leaves.
  EXPECT_EQ(Compile(Wide("c"), SteadyNow() + absl::Milliseconds(20)).code(),
            absl::StatusCode::kDeadlineExceeded);
  AwaitCompiled({.kind = Kind::kRegex, .text = "d+"});
}

TEST_F(GrammarCompilerTest, WhoBringsItAgainFindsItOnce) {
  const Constraint wide = Wide("e");
  const int64_t before = compiler_->counts().compiled;
  std::vector<std::thread> clients;
  for (int i = 0; i < 4; ++i) clients.emplace_back([&] { AwaitCompiled(wide); });
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(compiler_->counts().compiled, before + 1);
}

TEST_F(GrammarCompilerTest, NoMoreThanTwoEndBesideTheOthers) {
  std::vector<std::string> prefixes = {"f", "g", "h"};
  for (const std::string& prefix : prefixes) EXPECT_FALSE(Compile(Wide(prefix)).ok());
  // The third keeps the thread, and is not lost either.
  for (const std::string& prefix : prefixes) AwaitCompiled(Wide(prefix));
  AwaitCompiled({.kind = Kind::kRegex, .text = "i+"});
}

// Two are ending, so the third keeps the thread; what waits behind it is told to come again, not
// that it is at fault itself.
TEST_F(GrammarCompilerTest, WhoWaitsForItsTurnIsToldToComeAgain) {
  absl::Notification released;
  const Constraint next = {.kind = Kind::kRegex, .text = "p+"};
  StartAnew([&](const Constraint& constraint) {
    if (!(constraint == next)) released.WaitForNotification();
  });
  for (const char* text : {"m+", "n+", "o+"}) {
    while (!absl::IsInvalidArgument(Compile({.kind = Kind::kRegex, .text = text}))) {
    }
  }
  const absl::Status busy = Compile(next);
  EXPECT_EQ(busy.code(), absl::StatusCode::kResourceExhausted) << busy;
  EXPECT_THAT(std::string(busy.message()),
              HasSubstr("kept the compiler busy for 50ms (grammar.max_compile_seconds), so that "
                        "its turn did not come; try again later"));
  released.Notify();
  AwaitCompiled(next);
  compiler_ = nullptr;
}

// Its turn comes late, and it is held until more time has passed, since it was brought, than it may
// compile. A machine may be so busy that this is not to be seen; then another attempt is made.
TEST_F(GrammarCompilerTest, TimeToCompileCountsFromItsTurnOn) {
  limits_.max_compile_time = absl::Seconds(1);
  const Constraint first = {.kind = Kind::kRegex, .text = "first"};
  const Constraint second = {.kind = Kind::kRegex, .text = "second"};
  const auto sleep_until = [](absl::Time time) {
    while (SteadyNow() < time) absl::SleepFor(time - SteadyNow());
  };
  for (const absl::Time end = SteadyNow() + absl::Minutes(5);;) {
    ASSERT_LT(SteadyNow(), end);
    absl::Notification first_has_turn;
    absl::Notification second_comes;
    absl::Time brought;
    absl::Time freed;
    const auto on_turn = [&](const Constraint& constraint) {
      if (constraint == first) {
        first_has_turn.Notify();
        second_comes.WaitForNotification();
        sleep_until(brought + limits_.max_compile_time / 2);
        freed = SteadyNow();
      } else if (constraint == second) {
        sleep_until(brought + limits_.max_compile_time + absl::Milliseconds(10));
      }
    };
    StartAnew(on_turn);
    AwaitCompiled({.kind = Kind::kRegex, .text = "warm"});
    absl::Status first_status;
    std::thread client([&] { first_status = Compile(first); });
    first_has_turn.WaitForNotification();
    brought = SteadyNow();
    second_comes.Notify();
    const absl::Status status = Compile(second);
    const absl::Time answered = SteadyNow();
    client.join();
    if (status.ok()) break;
    if (first_status.ok() && absl::IsInvalidArgument(status)) {
      ASSERT_GE(answered - freed, limits_.max_compile_time) << status;
    }
    compiler_ = nullptr;  // joins who has references
  }
  compiler_ = nullptr;
}

TEST_F(GrammarCompilerTest, EndsWithItsStragglers) {
  EXPECT_FALSE(Compile(Wide("j")).ok());
  EXPECT_FALSE(Compile(Wide("k")).ok());
  compiler_ = nullptr;
}

TEST_F(GrammarCompilerTest, PatternsThatAreComparedWithEachOtherAreBounded) {
  nlohmann::json schema = {{"type", "object"}};
  for (int i = 0; i < 101; ++i) {
    auto& part = schema["allOf"][static_cast<size_t>(i / 60)];
    part["patternProperties"][absl::StrCat("^p", i, "x")] = {{"type", "string"}};
  }
  const absl::Status refused = Compile({.kind = Kind::kJsonSchema, .text = schema.dump()});
  EXPECT_THAT(std::string(refused.message()), HasSubstr("101 patterns, the limit is 100"));
  schema["allOf"].erase(1);
  AwaitCompiled({.kind = Kind::kJsonSchema, .text = schema.dump()});
}

}  // namespace
}  // namespace kvasir
