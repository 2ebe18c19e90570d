#include "server/heap_trimmer.h"

#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "absl/time/time.h"

namespace kvasir {
namespace {

constexpr absl::Duration kInterval = absl::Seconds(5);

// Growth, and unused bytes, that are worth a trim: a busy malloc keeps a few MiB anyway.
constexpr int64_t kWorthwhileBytes = int64_t{16} << 20;

int64_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t size_pages = 0, resident_pages = 0;
  statm >> size_pages >> resident_pages;
  return resident_pages * sysconf(_SC_PAGESIZE);
}

#ifdef __GLIBC__
int64_t UnusedBytes() { return static_cast<int64_t>(mallinfo2().fordblks); }
void Trim() { malloc_trim(0); }
#else
int64_t UnusedBytes() { return 0; }
void Trim() {}
#endif

}  // namespace

HeapTrimmer::HeapTrimmer() : thread_([this] { Run(); }) {}

HeapTrimmer::~HeapTrimmer() {
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
  }
  thread_.join();
}

void HeapTrimmer::Run() {
  // The least since the last trim. Trimmed memory still counts as unused, so each has to grow anew.
  int64_t least_resident = ResidentBytes(), least_unused = UnusedBytes();
  absl::MutexLock lock(&mutex_);
  while (!mutex_.AwaitWithTimeout(absl::Condition(&stop_), kInterval)) {
    const int64_t resident = ResidentBytes(), unused = UnusedBytes();
    least_resident = std::min(least_resident, resident);
    least_unused = std::min(least_unused, unused);
    const bool grown = resident >= least_resident + kWorthwhileBytes ||
                       unused >= least_unused + kWorthwhileBytes;
    if (!grown || unused < kWorthwhileBytes) continue;
    Trim();
    least_resident = ResidentBytes();
    least_unused = UnusedBytes();
  }
}

}  // namespace kvasir
