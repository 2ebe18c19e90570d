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

int UsableCpus() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  const int affinity = sched_getaffinity(0, sizeof(mask), &mask) == 0
                           ? CPU_COUNT(&mask)
                           : sysconf(_SC_NPROCESSORS_ONLN);
  const double limit = std::ceil(std::min<double>(affinity, CurrentLimits().cpus));
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
