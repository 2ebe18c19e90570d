// How the threads that read and write spill files run beside the steps.
#pragma once

#include <sys/resource.h>
#include <unistd.h>

namespace kvasir {

// Makes the calling thread yield to steps: a step is as slow as the slowest of its threads, so its
// streams would feel an equal share of a core. Some thirtieth is left (weights of nice 0 and 15 are
// 1024 and 36), and all that steps do not take. Linux keeps a thread's niceness apart; where it may
// not be changed, it is not.
inline void YieldToSteps() {
  constexpr int kNiceness = 15;
  (void)setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), kNiceness);
}

}  // namespace kvasir
