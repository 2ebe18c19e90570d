// How finished requests are called in metrics and logs: a closed set of words. Pure, thread safe.
#pragma once

#include "absl/status/status.h"
#include "runtime/engine/request.h"

namespace kvasir {

// "eos", "stop", "length", "context_full" (of the first completion) when it ended well; else
// "cancelled", "deadline", "slow_reader", "quota" (refused by one), or "error".
const char* OutcomeReason(const FinishedEvent& outcome);

}  // namespace kvasir
