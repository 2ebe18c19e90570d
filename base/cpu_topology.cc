#include "base/cpu_topology.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <fstream>
#include <mutex>

#include "base/control_group.h"

namespace kvasir {
namespace {

constexpr int kMostCpus = 1 << 16;

std::atomic<int64_t> g_limits_unread_total = 0;

// A limit that cannot be read now is the one that was read last: a pool that is planned for the
// machine instead ends in a kill.
ControlGroupLimits CurrentLimits() {
  static std::mutex mutex;
  static ControlGroupLimits last;
  ControlGroupLimits now = ReadControlGroupLimits();
  const std::lock_guard<std::mutex> lock(mutex);
  if (now.complete) return last = now;
  g_limits_unread_total.fetch_add(1, std::memory_order_relaxed);
  now.memory_bytes = std::min(now.memory_bytes, last.memory_bytes);
  now.cpus = std::min(now.cpus, last.cpus);
  return now;
}

}  // namespace

int64_t LimitsUnreadTotal() { return g_limits_unread_total.load(std::memory_order_relaxed); }

std::vector<int> AllowedCpus() {
  std::vector<int> ids;
  // The kernel refuses a mask that is too short for the CPUs that it was built for.
  for (int most = CPU_SETSIZE; ids.empty() && most <= kMostCpus; most *= 4) {
    cpu_set_t* const mask = CPU_ALLOC(most);
    const size_t bytes = CPU_ALLOC_SIZE(most);
    CPU_ZERO_S(bytes, mask);
    const bool read = sched_getaffinity(0, bytes, mask) == 0;
    for (int id = 0; read && id < most; ++id) {
      if (CPU_ISSET_S(id, bytes, mask)) ids.push_back(id);
    }
    CPU_FREE(mask);
  }
  if (!ids.empty()) return ids;
  const auto online = static_cast<int>(std::max<long>(1, sysconf(_SC_NPROCESSORS_ONLN)));
  for (int id = 0; id < online; ++id) ids.push_back(id);
  return ids;
}

double CpuQuota() { return CurrentLimits().cpus; }

int UsableCpus() {
  const double limit = std::ceil(std::min<double>(AllowedCpus().size(), CpuQuota()));
  return std::max(1, static_cast<int>(limit));
}

uint64_t UsableMemoryBytes() {
  const uint64_t machine_bytes =
      static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGE_SIZE);
  return std::min(machine_bytes, CurrentLimits().memory_bytes);
}

uint64_t ResidentMemoryBytes() {
  std::ifstream statm("/proc/self/statm");
  uint64_t total_pages = 0, resident_pages = 0;
  statm >> total_pages >> resident_pages;
  return resident_pages * sysconf(_SC_PAGE_SIZE);
}

}  // namespace kvasir
