// The one way compute uses several cores: an OpenMP team, the same one that oneDNN's products use,
// so that two pools never fight for the cores.
//
// Thread safety: one caller at a time (the engine thread, or a loader before the engine starts).
#pragma once

#include <cstddef>
#include <functional>

namespace kvasir {

// Sets how many threads ParallelFor and oneDNN use; at least 1. Call once at start, from the thread
// that will do the compute (OpenMP keeps the setting per calling thread).
void SetComputeThreads(int threads);

// The number last set; without a call, the CPUs that this process may use (see cpu_topology.h).
int ComputeThreads();

namespace internal {
void ParallelForImpl(size_t count, const void* context, void (*call)(const void*, size_t, int));
}  // namespace internal

// Calls body(index, thread) for every index in [0, count), each once, in any order; returns when
// all are done. thread is in [0, ComputeThreads()). Indices are handed out one at a time, so tasks
// may be uneven. With one thread or one task it runs in the caller. body must not throw and must
// not call ParallelFor.
template <typename Body>
void ParallelFor(size_t count, const Body& body) {
  internal::ParallelForImpl(count, &body, [](const void* context, size_t index, int thread) {
    (*static_cast<const Body*>(context))(index, thread);
  });
}

}  // namespace kvasir
