// How many threads compute, and on which memory nodes lies what they read.
//
// One thread per core. Hardware threads of one core share its vector units and its way to memory,
// so a second one adds little to products and reads, and a team waits for its slowest; what is free
// beside goes to the threads that serve clients. The kernel places threads, on idle cores first:
// bound to CPUs they could not move away from a neighbour's.
//
// Where the CPUs have several memory nodes (sockets, or parts of one), pages are spread over these
// nodes in turn: each core then reads weights and K/V at the rate of all nodes together, whichever
// core it is. Left to itself, the kernel would put them on the node that loaded the model. (Faster
// still is a daemon of its own for each node, whose reads stay there:
// docs/operations/deploying.md.)
//
// Thread safe.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace kvasir {

// One hardware thread.
struct Cpu {
  int id = 0;
  int core = 0;  // the least id of those that share its core
  int node = 0;  // memory node
};

struct ThreadPlan {
  int threads = 1;
  int cores = 1;           // of the CPUs
  std::vector<int> nodes;  // ascending; pages are to be spread over these when there are several
};

// Those of `ids` by the kernel's files. Where these say nothing, each is a core of its own on node
// 0. `root` stands before every path that is read: tests give a folder with a /sys of their own.
std::vector<Cpu> DescribeCpus(absl::Span<const int> ids, const std::string& root = "");

// One thread per core, at most `quota_cpus` of them (rounded up; infinity: no quota), at least 1.
ThreadPlan PlanThreads(absl::Span<const Cpu> cpus, double quota_cpus);

// The plan for the CPUs that this process may use now (cpu_topology.h).
ThreadPlan PlanThreads();

// From now on the calling thread's new pages, and those of threads that it starts, come from these
// nodes in turn. Nothing is changed for fewer than two nodes, or where a policy was set from
// outside (numactl). Unavailable when the system refuses, as containers' filters of system calls
// may.
absl::Status SpreadPages(absl::Span<const int> nodes);

}  // namespace kvasir
