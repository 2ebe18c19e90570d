#include "base/parallel.h"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <system_error>
#include <thread>

#include "absl/base/config.h"
#include "base/compute_team.h"
#include "base/thread_placement.h"

namespace kvasir {
namespace {

std::atomic<int> g_compute_threads{0};  // 0 = not set yet
thread_local int t_serial_scopes = 0;   // that this thread is in

// Always the whole team: libgomp ends the surplus threads when a smaller team starts, and the next
// larger one would have to create them again.
int ThreadsFor(size_t count) { return count > 1 && t_serial_scopes == 0 ? ComputeThreads() : 1; }

// The body of a region, of whose exceptions one is kept: none may leave a thread of the team.
class Calls {
 public:
  Calls(const void* context, void (*call)(const void*, size_t, int))
      : context_(context), call_(call) {}

  void operator()(size_t index, int thread) {
    try {
      call_(context_, index, thread);
    } catch (...) {
#pragma omp critical(kvasir_parallel_thrown)
      thrown_ = std::current_exception();
    }
  }
  void Rethrow() const {
    if (thrown_) std::rethrow_exception(thrown_);
  }

 private:
  const void* context_;
  void (*call_)(const void*, size_t, int);
  std::exception_ptr thrown_;
};

// Indices that are left of a thread's own, fewer than 2^32: taken from both ends by any thread.
class alignas(64) Range {
 public:
  void Set(uint64_t begin, uint64_t end) { left_ = begin << 32 | end; }
  bool TakeFirst(size_t* index) {
    uint64_t left = left_;
    do {
      if (left >> 32 == (left & kEnd)) return false;
      *index = left >> 32;
    } while (!left_.compare_exchange_weak(left, left + (uint64_t{1} << 32)));
    return true;
  }
  bool TakeLast(size_t* index) {
    uint64_t left = left_;
    do {
      if (left >> 32 == (left & kEnd)) return false;
      *index = (left & kEnd) - 1;
    } while (!left_.compare_exchange_weak(left, left - 1));
    return true;
  }

 private:
  static constexpr uint64_t kEnd = 0xffffffff;
  std::atomic<uint64_t> left_{0};  // the first, the end
};

}  // namespace

void SetComputeThreads(int threads) {
#if defined(ABSL_HAVE_THREAD_SANITIZER)
  threads = 1;  // libgomp's barriers are invisible to the thread sanitizer: every team would be a
                // false report
#endif
  // OpenMP may hand out fewer threads than asked for (OMP_THREAD_LIMIT, OMP_DYNAMIC), and oneDNN's
  // kernels then leave parts of a product undone: never ask for more than there will be.
  threads = std::max(1, std::min(threads, omp_get_thread_limit()));
  omp_set_dynamic(0);
  omp_set_num_threads(threads);
  g_compute_threads = threads;
}

void RunWithOwnTeam(absl::FunctionRef<void()> body) {
  const int threads = ComputeThreads();
  std::exception_ptr thrown;
  std::thread thread;
  try {
    thread = std::thread([&] {
      try {
        SetComputeThreads(threads);  // OpenMP remembers it per thread
        if (CheckComputeTeam().ok()) return body();
        SerialScope alone;
        body();
      } catch (...) {
        thrown = std::current_exception();
      }
    });
  } catch (const std::system_error&) {
    // The limit of processes is reached: slower than it could be, but done.
    SerialScope alone;
    return body();
  }
  thread.join();
  if (thrown) std::rethrow_exception(thrown);
}

SerialScope::SerialScope() : threads_(omp_get_max_threads()) {
  omp_set_num_threads(1);
  ++t_serial_scopes;
}
SerialScope::~SerialScope() {
  --t_serial_scopes;
  omp_set_num_threads(threads_);
}

int ComputeThreads() {
  if (g_compute_threads == 0) SetComputeThreads(PlanThreads().threads);
  return g_compute_threads;
}

namespace internal {

void ParallelStreamImpl(size_t count, const void* context, void (*call)(const void*, size_t, int)) {
  const int threads = ThreadsFor(count);
  if (threads <= 1) {
    for (size_t i = 0; i < count; ++i) call(context, i, 0);
    return;
  }
  thread_local std::unique_ptr<Range[]> kept;
  thread_local int num_kept = 0;
  if (num_kept < threads) {
    kept = std::make_unique<Range[]>(threads);
    num_kept = threads;
  }
  Range* const ranges = kept.get();
  for (int t = 0; t < threads; ++t) {
    ranges[t].Set(count * t / threads, count * (t + 1) / threads);
  }
  Calls calls(context, call);
#pragma omp parallel num_threads(threads)
  {
    const int self = omp_get_thread_num();
    size_t i = 0;
    while (ranges[self].TakeFirst(&i)) calls(i, self);
    for (int t = 1; t < threads; ++t) {
      while (ranges[(self + t) % threads].TakeLast(&i)) calls(i, self);
    }
  }
  calls.Rethrow();
}

void ParallelForImpl(size_t count, const void* context, void (*call)(const void*, size_t, int)) {
  const int threads = ThreadsFor(count);
  if (threads <= 1) {
    for (size_t i = 0; i < count; ++i) call(context, i, 0);
    return;
  }
  Calls calls(context, call);
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (size_t i = 0; i < count; ++i) calls(i, omp_get_thread_num());
  calls.Rethrow();
}

}  // namespace internal
}  // namespace kvasir
