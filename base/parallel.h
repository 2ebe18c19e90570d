// The one way compute uses several cores: an OpenMP team, the same one that oneDNN's products use,
// so that two pools never fight for the cores.
//
// Thread safety: one caller at a time (the engine thread, or a loader before it), or a SerialScope.
#pragma once

#include <cstddef>

#include "absl/functional/function_ref.h"

namespace kvasir {

// Sets how many threads ParallelFor and oneDNN use; at least 1. Call once at start, from the thread
// that will do the compute (OpenMP keeps the setting per calling thread).
void SetComputeThreads(int threads);

// Runs body in a thread with a team of its own, of ComputeThreads() threads; both are gone when
// this returns. For compute outside the engine's thread: libgomp keeps every thread's team until
// that thread ends, and once all teams together have more threads than the CPUs, it cuts the
// spinning between parallel regions to 100 rounds for all of them. Measured on 2 cores, 16 streams
// of a 1 B int8 model, weights loaded by the main thread: 397 tokens/s instead of 449.
// Where no thread can be started, body runs in the calling one, alone. Throws what body throws.
void RunWithOwnTeam(absl::FunctionRef<void()> body);

// While it lives, ParallelFor and what oneDNN plans in this thread have one thread: for primitives
// that run inside a ParallelFor, and for threads beside the team. Not for use inside one.
class SerialScope {
 public:
  SerialScope();
  ~SerialScope();
  SerialScope(const SerialScope&) = delete;
  SerialScope& operator=(const SerialScope&) = delete;

 private:
  const int threads_;  // to go back to
};

// The number last set; without a call, the CPUs that this process may use (see cpu_topology.h).
int ComputeThreads();

namespace internal {
void ParallelForImpl(size_t count, const void* context, void (*call)(const void*, size_t, int));
void ParallelStreamImpl(size_t count, const void* context, void (*call)(const void*, size_t, int));
}  // namespace internal

// Calls body(index, thread) for every index in [0, count), each once, in any order; returns when
// all are done. thread is in [0, ComputeThreads()). Indices are handed out one at a time, so tasks
// may be uneven. With one thread or one task it runs in the caller. What body throws is thrown once
// others are done, one of several. body must not call ParallelFor.
template <typename Body>
void ParallelFor(size_t count, const Body& body) {
  internal::ParallelForImpl(count, &body, [](const void* context, size_t index, int thread) {
    (*static_cast<const Body*>(context))(index, thread);
  });
}

// The same, for tasks that read memory one after the other, index by index: each thread walks a
// range of its own from its first index on, which CPUs' prefetchers follow, and takes from the ends
// of the others' ranges when it is done with its own.
template <typename Body>
void ParallelStream(size_t count, const Body& body) {
  internal::ParallelStreamImpl(count, &body, [](const void* context, size_t index, int thread) {
    (*static_cast<const Body*>(context))(index, thread);
  });
}

}  // namespace kvasir
