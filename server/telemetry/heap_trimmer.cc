#include "server/telemetry/heap_trimmer.h"

#include <malloc.h>

#include <algorithm>

#include "absl/time/time.h"
#include "base/cpu_topology.h"
#include "server/telemetry/heap_usage.h"

namespace kvasir {
namespace {

constexpr absl::Duration kInterval = absl::Seconds(5);

// Growth, and unused bytes, that are worth a trim: a busy malloc keeps a few MiB anyway.
constexpr int64_t kWorthwhileBytes = int64_t{16} << 20;

#ifdef __GLIBC__
void Trim() { malloc_trim(0); }
// Of FreeingScope, and what malloc's own comes to when a process frees large blocks.
constexpr int kLowTrimThresholdBytes = 64 << 10;
constexpr int kTrimThresholdBytes = 64 << 20;
#else
void Trim() {}
#endif

}  // namespace

FreeingScope::FreeingScope() {
#ifdef __GLIBC__
  mallopt(M_TRIM_THRESHOLD, kLowTrimThresholdBytes);
#endif
}

FreeingScope::~FreeingScope() {
#ifdef __GLIBC__
  mallopt(M_TRIM_THRESHOLD, kTrimThresholdBytes);
  malloc_trim(0);
#endif
}

HeapTrimmer::HeapTrimmer() : thread_([this] { Run(); }) {}

HeapTrimmer::~HeapTrimmer() {
  {
    AnnotatedLock lock(&mutex_);
    stop_ = true;
    stop_changed_.NotifyAll();
  }
  thread_.join();
}

void HeapTrimmer::Run() {
  // The least since the last trim. Trimmed memory still counts as unused, so each has to grow anew.
  auto least_resident = static_cast<int64_t>(ResidentMemoryBytes());
  int64_t least_unused = HeapUnusedBytes();
  // The burst may still have been ending when it was trimmed: what came free since is less than
  // worthwhile, but goes too once all is calm.
  bool again = false;
  AnnotatedLock lock(&mutex_);
  const auto stopping = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stop_; };
  while (!stop_changed_.Await(&mutex_, kInterval, stopping)) {
    const auto resident = static_cast<int64_t>(ResidentMemoryBytes());
    const int64_t unused = HeapUnusedBytes();
    least_resident = std::min(least_resident, resident);
    least_unused = std::min(least_unused, unused);
    const bool grown =
        resident >= least_resident + kWorthwhileBytes || unused >= least_unused + kWorthwhileBytes;
    const bool worthwhile = grown && unused >= kWorthwhileBytes;
    if (!worthwhile && !again) continue;
    Trim();
    again = worthwhile;
    least_resident = static_cast<int64_t>(ResidentMemoryBytes());
    least_unused = HeapUnusedBytes();
  }
}

}  // namespace kvasir
