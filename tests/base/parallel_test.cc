#include "base/parallel.h"

#include <atomic>
#include <filesystem>
#include <iterator>
#include <new>
#include <thread>
#include <vector>

#include "absl/base/config.h"
#include "absl/time/clock.h"
#include "base/cpu_topology.h"
#include "gtest/gtest.h"

namespace kvasir {
namespace {

// libgomp is not instrumented, so the thread sanitizer's builds compute in one thread
// (parallel.cc).
#if defined(ABSL_HAVE_THREAD_SANITIZER)
#define KVASIR_SKIP_WITHOUT_TEAMS() GTEST_SKIP() << "this build has no teams of threads"
#else
#define KVASIR_SKIP_WITHOUT_TEAMS() static_cast<void>(0)
#endif

// clang's OpenMP keeps the threads of a team whose leader ended, for the next one. The product is
// built with gcc, whose OpenMP ends them.
#if defined(__clang__)
#define KVASIR_SKIP_WHERE_TEAMS_STAY() GTEST_SKIP() << "this build's OpenMP keeps idle threads"
#else
#define KVASIR_SKIP_WHERE_TEAMS_STAY() static_cast<void>(0)
#endif

// The two ways to hand out indices.
const auto kFor = [](size_t count, const auto& body) { ParallelFor(count, body); };
const auto kStream = [](size_t count, const auto& body) { ParallelStream(count, body); };

void CallsEveryIndexOnce(const auto& parallel) {
  for (const int threads : {1, 2, 5, 3}) {
    SetComputeThreads(threads);
    ASSERT_EQ(ComputeThreads(), threads);
    for (const size_t count : {0, 1, 2, 3, 7, 100, 10000}) {
      std::vector<std::atomic<int>> calls(count);
      std::atomic<bool> thread_in_range{true};
      parallel(count, [&](size_t index, int thread) {
        ++calls[index];
        if (thread < 0 || thread >= threads) thread_in_range = false;
      });
      EXPECT_TRUE(thread_in_range);
      for (size_t i = 0; i < count; ++i) ASSERT_EQ(calls[i], 1) << "index " << i << " of " << count;
    }
  }
}

TEST(Parallel, CallsEveryIndexOnceWithAThreadOfTheTeam) {
  KVASIR_SKIP_WITHOUT_TEAMS();
  CallsEveryIndexOnce(kFor);
  CallsEveryIndexOnce(kStream);
}

TEST(Parallel, AStreamIsWalkedInOrder) {
  SetComputeThreads(1);
  std::vector<size_t> order;
  ParallelStream(5, [&](size_t i, int) { order.push_back(i); });
  EXPECT_EQ(order, std::vector<size_t>({0, 1, 2, 3, 4}));
}

// A thread that waits loses the rest of its range to the others: else this would never end.
TEST(Parallel, AStreamsOtherThreadsTakeWhatALateOneHasLeft) {
  KVASIR_SKIP_WITHOUT_TEAMS();
  constexpr size_t kCount = 90;
  for (const int threads : {2, 3}) {
    SetComputeThreads(threads);
    std::atomic<size_t> done = 0;
    ParallelStream(kCount, [&](size_t i, int) {
      while (i == 0 && done < kCount - 1) std::this_thread::yield();
      ++done;
    });
    EXPECT_EQ(done, kCount);
  }
}

TEST(Parallel, WritesAreVisibleAfterwards) {
  SetComputeThreads(4);
  std::vector<int> values(1000);
  for (int round = 1; round <= 50; ++round) {
    ParallelFor(values.size(), [&](size_t i, int) { values[i] += static_cast<int>(i); });
    for (size_t i = 0; i < values.size(); ++i) ASSERT_EQ(values[i], round * static_cast<int>(i));
  }
}

TEST(Parallel, FewerThanOneThreadMeansOne) {
  SetComputeThreads(0);
  EXPECT_EQ(ComputeThreads(), 1);
}

// Threads of this process.
int NumThreads() {
  const std::filesystem::directory_iterator tasks("/proc/self/task");
  return static_cast<int>(std::distance(begin(tasks), end(tasks)));
}

TEST(Parallel, AnOwnTeamIsGoneAfterwards) {
  KVASIR_SKIP_WITHOUT_TEAMS();
  KVASIR_SKIP_WHERE_TEAMS_STAY();
  SetComputeThreads(4);
  ParallelFor(100, [](size_t, int) {});
  const int before = NumThreads();
  std::thread::id caller;
  RunWithOwnTeam([&] {
    caller = std::this_thread::get_id();
    ParallelFor(100, [](size_t, int) {});
    EXPECT_GT(NumThreads(), before);
  });
  EXPECT_NE(caller, std::this_thread::get_id());
  // The team's threads are told to end, and do so a moment later.
  const absl::Time deadline = absl::Now() + absl::Seconds(10);
  while (NumThreads() > before && absl::Now() < deadline) std::this_thread::yield();
  EXPECT_EQ(NumThreads(), before);
}

// Memory that ends while a model is loaded ends the load, not the process.
TEST(Parallel, WhatABodyThrowsReachesTheCaller) {
  for (const int threads : {1, 4}) {
    SetComputeThreads(threads);
    std::atomic<int> done = 0;
    const auto one_throws = [&](size_t i, int) {
      if (i == 7) throw std::bad_alloc();
      ++done;
    };
    EXPECT_THROW(ParallelFor(100, one_throws), std::bad_alloc);
    EXPECT_EQ(done, threads == 1 ? 7 : 99);
    EXPECT_THROW(ParallelStream(100, one_throws), std::bad_alloc);
    EXPECT_EQ(done, threads == 1 ? 14 : 198);
    EXPECT_THROW(ParallelFor(100, [](size_t, int) { throw std::bad_alloc(); }), std::bad_alloc);
    EXPECT_THROW(RunWithOwnTeam([&] { ParallelFor(100, one_throws); }), std::bad_alloc);
    ParallelFor(100, [&](size_t, int) { ++done; });
    EXPECT_GE(done, 107);
  }
}

TEST(CpuTopology, SaysSomethingPlausible) {
  EXPECT_GE(UsableCpus(), 1);
  EXPECT_GT(UsableMemoryBytes(), uint64_t{64} << 20);
  EXPECT_GT(ResidentMemoryBytes(), uint64_t{1} << 20);
  EXPECT_LE(ResidentMemoryBytes(), UsableMemoryBytes());
}

}  // namespace
}  // namespace kvasir
