#include "base/cpu_topology.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "base/control_group.h"

namespace kvasir {
int UsableCpus() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  const int affinity = sched_getaffinity(0, sizeof(mask), &mask) == 0
                           ? CPU_COUNT(&mask)
                           : sysconf(_SC_NPROCESSORS_ONLN);
  const double limit = std::ceil(std::min<double>(affinity, ReadControlGroupLimits().cpus));
  return std::max(1, static_cast<int>(limit));
}

uint64_t UsableMemoryBytes() {
  const uint64_t machine_bytes =
      static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGE_SIZE);
  return std::min(machine_bytes, ReadControlGroupLimits().memory_bytes);
}

uint64_t ResidentMemoryBytes() {
  std::ifstream statm("/proc/self/statm");
  uint64_t total_pages = 0, resident_pages = 0;
  statm >> total_pages >> resident_pages;
  return resident_pages * sysconf(_SC_PAGE_SIZE);
}

}  // namespace kvasir
