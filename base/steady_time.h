// Times to measure and to wait by: they go on evenly whatever is done to the machine's clock.
#pragma once

#include <time.h>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace kvasir {

// The time of day when the process first asked, plus what has passed since (CLOCK_MONOTONIC). So a
// clock that is set, by a day or by NTP's second, moves no deadline, age, rate or measured time.
// Not for what is shown as a time of day, nor to compare with the stamps of files.
inline absl::Time SteadyNow() {
  const auto passed = [] {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return absl::DurationFromTimespec(now);
  };
  static const absl::Time zero = absl::Now() - passed();
  return zero + passed();
}

// A time of the machine's clock that lies ahead, such as a deadline that a library tells, in
// SteadyNow's times.
inline absl::Time SteadyTimeOf(absl::Time time_of_day) {
  if (time_of_day == absl::InfiniteFuture()) return time_of_day;
  return SteadyNow() + (time_of_day - absl::Now());
}

}  // namespace kvasir
