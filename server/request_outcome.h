// How a finished request is called in metrics and logs: one closed set of words for both. Pure,
// thread safe.
#pragma once

#include "runtime/engine/request.h"

namespace kvasir {

// "eos", "stop", "length", "context_full" (of the first completion) when it ended well; else
// "cancelled", "deadline", "slow_reader", or "error".
const char* OutcomeReason(const FinishedEvent& outcome);

}  // namespace kvasir
