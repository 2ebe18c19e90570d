#include "base/cpu_topology.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <string>

namespace kvasir {
namespace {

// The first word of a file parsed as a number; -1 when the file is absent or says "max".
int64_t ReadNumber(const char* path) {
  std::ifstream file(path);
  std::string word;
  if (!(file >> word) || word == "max") return -1;
  return std::strtoll(word.c_str(), nullptr, 10);
}

// CPUs granted by the cgroup's quota per period; infinity when there is none.
double CgroupCpus() {
  std::ifstream v2("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (v2 >> quota >> period && quota != "max" && period > 0) {
    return std::strtod(quota.c_str(), nullptr) / period;
  }
  const int64_t v1_quota = ReadNumber("/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
  const int64_t v1_period = ReadNumber("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  if (v1_quota > 0 && v1_period > 0) return static_cast<double>(v1_quota) / v1_period;
  return std::numeric_limits<double>::infinity();
}

}  // namespace

int UsableCpus() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  const int affinity = sched_getaffinity(0, sizeof(mask), &mask) == 0
                           ? CPU_COUNT(&mask)
                           : sysconf(_SC_NPROCESSORS_ONLN);
  const double limit = std::ceil(std::min<double>(affinity, CgroupCpus()));
  return std::max(1, static_cast<int>(limit));
}

uint64_t UsableMemoryBytes() {
  uint64_t bytes = static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGE_SIZE);
  for (const char* path :
       {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    const int64_t limit = ReadNumber(path);
    if (limit > 0) bytes = std::min<uint64_t>(bytes, limit);
  }
  return bytes;
}

uint64_t ResidentMemoryBytes() {
  std::ifstream statm("/proc/self/statm");
  uint64_t total_pages = 0, resident_pages = 0;
  statm >> total_pages >> resident_pages;
  return resident_pages * sysconf(_SC_PAGE_SIZE);
}

}  // namespace kvasir
