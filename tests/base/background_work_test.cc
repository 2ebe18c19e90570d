#include "base/background_work.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <time.h>

#include <thread>

#include "absl/time/time.h"
#include "base/cpu_topology.h"
#include "base/parallel.h"
#include "base/steady_time.h"

namespace kvasir {
namespace {

absl::Duration CpuTime() {
  timespec used;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
  return absl::DurationFromTimespec(used);
}

struct Cost {
  absl::Duration cpu, passed;
  int64_t sleeps = 0;
};

// Of 20 pieces of some 200 us of CPU time each, in a thread that works beside the steps or not.
Cost Work(bool beside_steps) {
  Cost cost;
  std::thread([&] {
    if (beside_steps) WorkBesideSteps();
    rusage before, after;
    getrusage(RUSAGE_THREAD, &before);
    const absl::Duration cpu = CpuTime();
    const absl::Time begin = SteadyNow();
    for (int piece = 0; piece < 20; ++piece) {
      const absl::Duration piece_begin = CpuTime();
      while (CpuTime() - piece_begin < absl::Microseconds(200)) {
      }
      GiveWayToSteps();
    }
    cost.passed = SteadyNow() - begin;
    cost.cpu = CpuTime() - cpu;
    getrusage(RUSAGE_THREAD, &after);
    cost.sleeps = after.ru_nvcsw - before.ru_nvcsw;
  }).join();
  return cost;
}

class BackgroundWorkTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (ComputeThreads() < UsableCpus()) GTEST_SKIP() << "a CPU is spare here";
  }
};

TEST_F(BackgroundWorkTest, GivesWayWhileAnEngineComputes) {
  ForegroundWork engine;
  EXPECT_LT(Work(true).sleeps, 20) << "no engine computes";
  engine.Set(true);
  const Cost beside = Work(true);
  EXPECT_GE(beside.sleeps, 20);
  EXPECT_GT(beside.passed, 12 * beside.cpu);
  EXPECT_LT(Work(false).sleeps, 20) << "a thread that computes for somebody";
  {
    ForegroundWork other;
    other.Set(true);
    other.Set(true);
    engine.Set(false);
    EXPECT_GE(Work(true).sleeps, 20);
  }
  EXPECT_LT(Work(true).sleeps, 20) << "both engines are idle";
}

}  // namespace
}  // namespace kvasir
