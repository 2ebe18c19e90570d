// What this process may use of the machine: CPUs and memory, the limits of its control groups
// included (control_group.h). Pure functions over /proc and /sys; thread safe.
#pragma once

#include <cstdint>
#include <vector>

namespace kvasir {

// CPUs this process may run on: the affinity mask, further limited by the control groups' CPU
// quota (rounded up). At least 1.
int UsableCpus();
// The two by themselves: ids of the mask, ascending, never empty; infinity without a quota.
std::vector<int> AllowedCpus();
double CpuQuota();

// Bytes of memory this process may use in all: the least of the control groups' limits and
// the host's memory.
uint64_t UsableMemoryBytes();

// How often the files of control groups could not be read for either, and the limits that were
// read last stood in.
int64_t LimitsUnreadTotal();

// Bytes of memory resident in this process now (VmRSS); 0 when /proc cannot be read.
uint64_t ResidentMemoryBytes();

}  // namespace kvasir
