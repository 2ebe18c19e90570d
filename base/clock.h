// The time source of the engine, so that policy tests can turn time by hand.
// Thread safety: Now() may be called from any thread.
#pragma once

#include "absl/time/time.h"
#include "base/steady_time.h"

namespace kvasir {

class Clock {
 public:
  virtual ~Clock() = default;
  virtual absl::Time Now() const = 0;

  // SteadyNow. Never null, lives as long as the process.
  static const Clock* Real();
};

inline const Clock* Clock::Real() {
  class RealClock : public Clock {
    absl::Time Now() const override { return SteadyNow(); }
  };
  static const RealClock* const clock = new RealClock;
  return clock;
}

}  // namespace kvasir
