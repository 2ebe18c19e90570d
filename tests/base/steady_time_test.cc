#include "base/steady_time.h"

#include <thread>

#include "absl/time/clock.h"
#include "base/annotated_mutex.h"
#include "gtest/gtest.h"

namespace kvasir {
namespace {

TEST(SteadyNow, NeverGoesBackAndBeginsAtTheTimeOfDay) {
  absl::Time last = SteadyNow();
  EXPECT_LT(absl::AbsDuration(last - absl::Now()), absl::Minutes(1));
  for (int i = 0; i < 10000; ++i) {
    const absl::Time now = SteadyNow();
    ASSERT_GE(now, last);
    last = now;
  }
}

TEST(SteadyTimeOf, IsAsFarAheadAsTheTimeOfDayWas) {
  EXPECT_EQ(SteadyTimeOf(absl::InfiniteFuture()), absl::InfiniteFuture());
  const absl::Time time = SteadyTimeOf(absl::Now() + absl::Hours(1));
  const absl::Duration ahead = time - SteadyNow();
  EXPECT_LE(ahead, absl::Hours(1));
  EXPECT_GT(ahead, absl::Minutes(59));
  EXPECT_LT(SteadyTimeOf(absl::Now() - absl::Hours(1)), SteadyNow());
}

TEST(AnnotatedCondVar, AwaitEndsByItsConditionOrItsTime) {
  AnnotatedMutex mutex;
  AnnotatedCondVar changed;
  bool there = false;
  {
    AnnotatedLock lock(&mutex);
    for (const absl::Duration none :
         {absl::ZeroDuration(), -absl::Hours(1), -absl::InfiniteDuration()}) {
      EXPECT_FALSE(changed.Await(&mutex, none, [&] { return there; }));
    }
    const absl::Time begun = SteadyNow();
    EXPECT_FALSE(changed.Await(&mutex, absl::Milliseconds(5), [&] { return there; }));
    EXPECT_GE(SteadyNow() - begun, absl::Milliseconds(5));
    EXPECT_TRUE(changed.Await(&mutex, absl::ZeroDuration(), [&] { return true; }));
  }
  std::thread other([&] {
    AnnotatedLock lock(&mutex);
    there = true;
    changed.NotifyAll();
  });
  {
    AnnotatedLock lock(&mutex);
    EXPECT_TRUE(changed.Await(&mutex, absl::InfiniteDuration(), [&] { return there; }));
  }
  other.join();
}

}  // namespace
}  // namespace kvasir
