// What this process may use of the machine: CPUs and memory, container limits included (cgroup v2
// and v1). Pure functions over /proc and /sys; thread safe.
#pragma once

#include <cstdint>

namespace kvasir {

// CPUs this process may run on: the affinity mask, further limited by the cgroup's CPU quota
// (rounded up). At least 1.
int UsableCpus();

// Bytes of memory this process may use in all: the smaller of the cgroup's limit and the host's
// memory.
uint64_t UsableMemoryBytes();

// Bytes of memory resident in this process now (VmRSS); 0 when /proc cannot be read.
uint64_t ResidentMemoryBytes();

}  // namespace kvasir
