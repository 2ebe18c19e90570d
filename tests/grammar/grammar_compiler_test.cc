// The compiler's thread: what one constraint takes is not what the next one waits for.
#include "runtime/grammar/grammar_compiler.h"

#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
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
    compiler_ =
        std::make_unique<GrammarCompiler>(&RealTokenizer(), RealTokenizer().vocab_size(),
                                          std::vector{*RealTokenizer().eos_token_id()}, limits_);
    // Makes the vocabulary ready, in whatever time.
    AwaitCompiled({.kind = Kind::kRegex, .text = "warm"});
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
