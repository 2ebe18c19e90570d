// Plans for machines that are not at hand, from folders with a /sys of their own.
#include "base/thread_placement.h"

#include <linux/mempolicy.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/cpu_topology.h"
#include "gtest/gtest.h"

namespace kvasir {
namespace {

constexpr double kNoQuota = std::numeric_limits<double>::infinity();

class ThreadPlacementTest : public testing::Test {
 protected:
  void SetUp() override {
    root_ = testing::TempDir() + "/thread_placement_" +
            testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(root_);
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  void Write(const std::string& path, const std::string& contents) {
    const std::string whole = root_ + "/sys/devices/system/" + path;
    std::filesystem::create_directories(std::filesystem::path(whole).parent_path());
    std::ofstream(whole) << contents << "\n";
  }
  void Siblings(int cpu, const std::string& list) {
    Write(absl::StrCat("cpu/cpu", cpu, "/topology/thread_siblings_list"), list);
  }
  // Two sockets of four cores with two hardware threads each, numbered as Linux does: the first
  // threads of all cores, then the second ones.
  void TwoSockets() {
    for (int cpu = 0; cpu < 16; ++cpu) Siblings(cpu, absl::StrCat(cpu % 8, ",", cpu % 8 + 8));
    Write("node/online", "0-1");
    Write("node/node0/cpulist", "0-3,8-11");
    Write("node/node1/cpulist", "4-7,12-15");
  }
  static std::vector<int> Ids(int first, int count) {
    std::vector<int> ids(count);
    std::iota(ids.begin(), ids.end(), first);
    return ids;
  }
  ThreadPlan Plan(const std::vector<int>& ids, double quota = kNoQuota) {
    return PlanThreads(DescribeCpus(ids, root_), quota);
  }

  std::string root_;
};

TEST_F(ThreadPlacementTest, OneThreadPerCoreOverAllNodes) {
  TwoSockets();
  const ThreadPlan plan = Plan(Ids(0, 16));
  EXPECT_EQ(plan.threads, 8);
  EXPECT_EQ(plan.cores, 8);
  EXPECT_EQ(plan.nodes, (std::vector<int>{0, 1}));
}

TEST_F(ThreadPlacementTest, TheMaskSaysWhatThereIs) {
  TwoSockets();
  // One socket; both threads of two cores; one thread of each core of the other socket.
  EXPECT_EQ(Plan({0, 1, 2, 3, 8, 9, 10, 11}).threads, 4);
  EXPECT_EQ(Plan({0, 1, 2, 3, 8, 9, 10, 11}).nodes, std::vector<int>{0});
  EXPECT_EQ(Plan({2, 3, 10, 11}).threads, 2);
  EXPECT_EQ(Plan({12, 13, 14, 15}).threads, 4);
  EXPECT_EQ(Plan({12, 13, 14, 15}).nodes, std::vector<int>{1});
  EXPECT_EQ(Plan({3, 15}).nodes, (std::vector<int>{0, 1}));
}

TEST_F(ThreadPlacementTest, AQuotaBoundsTheThreads) {
  TwoSockets();
  EXPECT_EQ(Plan(Ids(0, 16), 3.5).threads, 4);
  EXPECT_EQ(Plan(Ids(0, 16), 0.2).threads, 1);
  EXPECT_EQ(Plan(Ids(0, 16), 12).threads, 8);
  EXPECT_EQ(Plan(Ids(0, 16), 3.5).cores, 8);
}

// A guest whose host shows two hardware threads as one core has one core.
TEST_F(ThreadPlacementTest, NeighboursAsSiblings) {
  for (int cpu = 0; cpu < 4; ++cpu) Siblings(cpu, cpu < 2 ? "0-1" : "2-3");
  EXPECT_EQ(Plan(Ids(0, 4)).threads, 2);
  EXPECT_EQ(Plan(Ids(0, 2)).threads, 1);
}

// Memory without CPUs (CXL), CPUs without memory of their own, holes in the numbers.
TEST_F(ThreadPlacementTest, NodesWithoutCpusAreNotRead) {
  Write("node/online", "0,2,5");
  Write("node/node0/cpulist", "0-1");
  Write("node/node2/cpulist", "");
  Write("node/node5/cpulist", "6,9-10");
  const ThreadPlan plan = Plan({0, 1, 6, 9, 10});
  EXPECT_EQ(plan.threads, 5);
  EXPECT_EQ(plan.nodes, (std::vector<int>{0, 5}));
  // Nobody says where this one is.
  EXPECT_EQ(Plan({77}).nodes, std::vector<int>{0});
}

TEST_F(ThreadPlacementTest, WithoutFilesEachCpuIsACore) {
  const ThreadPlan plan = Plan(Ids(0, 6));
  EXPECT_EQ(plan.threads, 6);
  EXPECT_EQ(plan.nodes, std::vector<int>{0});
  EXPECT_EQ(Plan({}).threads, 1);
}

TEST_F(ThreadPlacementTest, WhatIsNoListSaysNothing) {
  for (const char* list : {"3-1", "a", "0-", "-4", "0-1-2", "1,x", "0-99999999", "-1"}) {
    Siblings(0, list);
    Write("node/online", list);
    EXPECT_EQ(DescribeCpus({0}, root_)[0].core, 0) << list;
    EXPECT_EQ(DescribeCpus({0}, root_)[0].node, 0) << list;
  }
}

TEST_F(ThreadPlacementTest, ThisMachine) {
  const ThreadPlan plan = PlanThreads();
  EXPECT_GE(plan.threads, 1);
  EXPECT_LE(plan.threads, UsableCpus());
  EXPECT_LE(plan.cores, static_cast<int>(AllowedCpus().size()));
  EXPECT_FALSE(plan.nodes.empty());
}

// On one node there is nothing to spread. Of two the kernel is asked; where the second does not
// exist it refuses, and that is an error and no policy.
TEST_F(ThreadPlacementTest, PagesAreSpreadOverNodesThatExist) {
  const auto policy = [] {
    int mode = -1;
    return syscall(SYS_get_mempolicy, &mode, nullptr, 0, nullptr, 0) == 0 ? mode : -1;
  };
  const int before = policy();
  EXPECT_TRUE(SpreadPages({}).ok());
  EXPECT_TRUE(SpreadPages({0}).ok());
  EXPECT_EQ(policy(), before);
  if (before != MPOL_DEFAULT) return;  // not allowed here, or set from outside
  const absl::Status status = SpreadPages({0, 1023});
  EXPECT_EQ(policy(), status.ok() ? MPOL_INTERLEAVE : MPOL_DEFAULT) << status;
  if (!status.ok()) EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace kvasir
