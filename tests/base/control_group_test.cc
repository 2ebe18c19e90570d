#include "base/control_group.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>

#include "base/cpu_topology.h"
#include "gtest/gtest.h"

namespace kvasir {
namespace {

// A folder with a /proc and a /sys of its own.
class ControlGroupTest : public testing::Test {
 protected:
  void SetUp() override {
    root_ = testing::TempDir() + "/control_groups_" +
            testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(root_);
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  void Write(const std::string& path, const std::string& contents) {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << contents;
  }
  void MountV2(const std::string& shown_group = "/") {
    Write("/proc/self/mountinfo",
          "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
          "31 22 0:26 " +
              shown_group + " /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n");
  }
  ControlGroupLimits Read() { return ReadControlGroupLimits(root_); }

  std::string root_;
};

TEST_F(ControlGroupTest, NothingMountedLimitsNothing) {
  EXPECT_EQ(Read().memory_bytes, ControlGroupLimits::kUnlimited);
  EXPECT_TRUE(std::isinf(Read().cpus));
}

TEST_F(ControlGroupTest, OwnGroupOfASystemdService) {
  MountV2();
  Write("/proc/self/cgroup", "0::/system.slice/kvasird.service\n");
  Write("/sys/fs/cgroup/system.slice/kvasird.service/memory.max", "1073741824\n");
  Write("/sys/fs/cgroup/system.slice/kvasird.service/cpu.max", "150000 100000\n");
  EXPECT_EQ(Read().memory_bytes, uint64_t{1} << 30);
  EXPECT_DOUBLE_EQ(Read().cpus, 1.5);
}

TEST_F(ControlGroupTest, TheTightestOfAllGroupsAboveCounts) {
  MountV2();
  Write("/proc/self/cgroup", "0::/a/b/c\n");
  Write("/sys/fs/cgroup/a/b/c/memory.max", "max\n");
  Write("/sys/fs/cgroup/a/b/c/cpu.max", "max 100000\n");
  Write("/sys/fs/cgroup/a/b/memory.max", "3000\n");
  Write("/sys/fs/cgroup/a/b/cpu.max", "400000 100000\n");
  Write("/sys/fs/cgroup/a/memory.max", "2000\n");
  Write("/sys/fs/cgroup/a/cpu.max", "500000 100000\n");
  EXPECT_EQ(Read().memory_bytes, 2000u);
  EXPECT_DOUBLE_EQ(Read().cpus, 4);
}

TEST_F(ControlGroupTest, MemoryHighIsALimitToo) {
  MountV2();
  Write("/proc/self/cgroup", "0::/a\n");
  Write("/sys/fs/cgroup/a/memory.max", "3000\n");
  Write("/sys/fs/cgroup/a/memory.high", "2500\n");
  EXPECT_EQ(Read().memory_bytes, 2500u);
}

// In a container with a group namespace of its own, its group is the mount's root.
TEST_F(ControlGroupTest, NamespacedContainer) {
  MountV2();
  Write("/proc/self/cgroup", "0::/\n");
  Write("/sys/fs/cgroup/memory.max", "5000\n");
  EXPECT_EQ(Read().memory_bytes, 5000u);
}

// Without one, the group's path is the host's, and the mount shows only the part below the
// container's group.
TEST_F(ControlGroupTest, ContainerThatSeesTheHostsPaths) {
  MountV2("/docker/0123");
  Write("/proc/self/cgroup", "0::/docker/0123/inner\n");
  Write("/sys/fs/cgroup/memory.max", "5000\n");
  Write("/sys/fs/cgroup/inner/memory.max", "4000\n");
  EXPECT_EQ(Read().memory_bytes, 4000u);
}

TEST_F(ControlGroupTest, GroupOutsideTheNamespace) {
  MountV2();
  Write("/proc/self/cgroup", "0::/../../other\n");
  Write("/sys/fs/cgroup/memory.max", "5000\n");
  EXPECT_EQ(Read().memory_bytes, 5000u);
}

// The two versions side by side, as on machines that keep version 1's controllers.
TEST_F(ControlGroupTest, VersionOneWithPairedControllers) {
  Write("/proc/self/mountinfo",
        "31 22 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
        "32 22 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
        "33 22 0:28 / /sys/fs/cgroup/my\\040memory rw - cgroup cgroup rw,memory\n");
  Write("/proc/self/cgroup", "9:name=systemd:/\n4:memory:/batch/job\n2:cpu,cpuacct:/batch\n0::/\n");
  Write("/sys/fs/cgroup/my memory/batch/job/memory.limit_in_bytes", "9223372036854771712\n");
  Write("/sys/fs/cgroup/my memory/batch/memory.limit_in_bytes", "7000\n");
  Write("/sys/fs/cgroup/cpu,cpuacct/batch/cpu.cfs_quota_us", "50000\n");
  Write("/sys/fs/cgroup/cpu,cpuacct/batch/cpu.cfs_period_us", "100000\n");
  Write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
  Write("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(Read().memory_bytes, 7000u);
  EXPECT_DOUBLE_EQ(Read().cpus, 0.5);
}

TEST_F(ControlGroupTest, NonsenseGrantsEverything) {
  MountV2();
  Write("/proc/self/cgroup", "garbage\n0::/a\n::\n");
  Write("/sys/fs/cgroup/a/memory.max", "lots\n");
  Write("/sys/fs/cgroup/a/memory.high", "0\n");
  Write("/sys/fs/cgroup/a/cpu.max", "100000 0\n");
  EXPECT_EQ(Read().memory_bytes, ControlGroupLimits::kUnlimited);
  EXPECT_TRUE(std::isinf(Read().cpus));
}

// A real group, where root may make one: a process moved into a nested group sees its parent's
// limit.
TEST(RealControlGroup, LimitOfTheParentGroup) {
  std::string folder, limit_file;
  for (const char* candidate : {"/sys/fs/cgroup/memory", "/sys/fs/cgroup"}) {
    const bool version1 =
        std::filesystem::exists(std::string(candidate) + "/memory.limit_in_bytes");
    if (!version1 && !std::filesystem::exists(std::string(candidate) + "/cgroup.subtree_control")) {
      continue;
    }
    folder = std::string(candidate) + "/kvasir_test_" + std::to_string(getpid());
    limit_file = version1 ? "memory.limit_in_bytes" : "memory.max";
    break;
  }
  std::error_code error;
  if (folder.empty() || !std::filesystem::create_directories(folder + "/inner", error) ||
      !(std::ofstream(folder + "/" + limit_file) << (64 << 20) << std::flush)) {
    std::filesystem::remove(folder + "/inner", error);
    std::filesystem::remove(folder, error);
    GTEST_SKIP() << "SKIPPED: this process may not make control groups with a memory limit";
  }
  const pid_t child = fork();
  if (child == 0) {
    std::ofstream(folder + "/inner/cgroup.procs") << getpid() << std::flush;
    _exit(UsableMemoryBytes() == (64 << 20) ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  std::filesystem::remove(folder + "/inner", error);
  std::filesystem::remove(folder, error);
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace kvasir
