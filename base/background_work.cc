#include "base/background_work.h"

#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>

#include "absl/time/time.h"
#include "base/cpu_topology.h"
#include "base/parallel.h"

namespace kvasir {
namespace {

// Part of a CPU that is left to work beside steps, as one in so many.
constexpr int kShare = 16;
// Behind clients' requests, but woken soon: the kernel lets a thread of the lowest priority wait
// some 40 ms for each of its pieces.
constexpr int kNiceness = 5;

std::atomic<int> foreground{0};

struct Background {
  bool gives_way = false;
  absl::Duration used;  // CPU time at the end of the last pause
};
thread_local Background background;

absl::Duration CpuTime() {
  timespec used;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
  return absl::DurationFromTimespec(used);
}

}  // namespace

void ForegroundWork::Set(bool running) {
  if (running == running_) return;
  running_ = running;
  foreground.fetch_add(running ? 1 : -1, std::memory_order_relaxed);
}

void WorkBesideSteps() {
  // Linux keeps a thread's niceness apart; where it may not be changed, it is not.
  (void)setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), kNiceness);
  background = {.gives_way = ComputeThreads() >= UsableCpus(), .used = CpuTime()};
}

void GiveWayToSteps() {
  if (!background.gives_way) return;
  const absl::Duration used = CpuTime();
  if (foreground.load(std::memory_order_relaxed) > 0) {
    timespec pause = absl::ToTimespec((kShare - 1) * (used - background.used));
    while (clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, &pause) == EINTR) {
    }
  }
  background.used = used;
}

}  // namespace kvasir
