// When a call's deadline is over for those who say why it ended.
#pragma once

#include "absl/time/time.h"
#include "base/steady_time.h"

namespace kvasir {

// Whether a call that was cancelled now ended for its deadline. The client's clock ends the call
// first: on the wire the time left is rounded up, by at most a hundredth, and it is counted from
// when the request was read here (`arrival`), which a busy machine delays.
inline bool DeadlineIsOver(absl::Time arrival, absl::Time deadline) {
  constexpr absl::Duration kReadDelay = absl::Milliseconds(50);
  return SteadyNow() >= deadline - (deadline - arrival) / 100 - kReadDelay;
}

}  // namespace kvasir
