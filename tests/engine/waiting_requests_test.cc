#include <memory>
#include <vector>

#include "gtest/gtest.h"
#include "tests/fakes/engine_fixture.h"

namespace kvasir {
namespace {

using testing::EngineFixture;

// A step does not look at who only waits; whoever ends there ends within the next one all the same.
TEST(WaitingRequestsTest, OfManyThatWaitThoseThatEndAreFound) {
  EngineFixture f(64);
  f.config.max_running = 1;
  auto running = f.Submit(f.Request(EngineFixture::Prompt(8, 0), 100));
  f.core->Step();
  std::vector<std::shared_ptr<TokenStream>> waiting;
  for (int i = 0; i < 50; ++i) {
    GenerationRequest request = f.Request(EngineFixture::Prompt(8, i), 100);
    if (i % 5 == 0) request.deadline = f.clock.Now() + absl::Milliseconds(10 + i);
    waiting.push_back(f.Submit(std::move(request)));
  }
  const auto num_waiting = [&] {
    f.core->Step();
    return f.core->stats().waiting;
  };
  EXPECT_EQ(num_waiting(), 50);
  waiting[31]->Cancel();
  waiting[7]->Cancel();
  EXPECT_EQ(num_waiting(), 48);
  EXPECT_EQ(num_waiting(), 48);
  int left = 48;
  const absl::Time begin = f.clock.Now();
  for (int i = 0; i < 50; i += 5) {
    f.clock.Advance(begin + absl::Milliseconds(9 + i) - f.clock.Now());
    EXPECT_EQ(num_waiting(), left) << i;
    f.clock.Advance(begin + absl::Milliseconds(10 + i) - f.clock.Now());
    EXPECT_EQ(num_waiting(), --left) << i;
  }
  running->Cancel();
  waiting[49]->Cancel();
  EXPECT_EQ(num_waiting(), left - 2);  // one is gone, one runs
  f.core->Shutdown();
  EXPECT_TRUE(f.core->idle());
}

}  // namespace
}  // namespace kvasir
