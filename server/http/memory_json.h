// What one model's KV pool holds and for whom, as JSON for the web page and for scripts: all of it
// for an operator, his own requests and sessions for a tenant. The figures are AdminService's.
#pragma once

#include "nlohmann/json.hpp"
#include "server/frontend/model_registry.h"
#include "server/identity/caller.h"

namespace kvasir {

// Waits for the engine thread, at most a step. At most kMaxMemoryRows requests, and as many
// sessions, the largest first.
nlohmann::ordered_json DescribeMemory(const ServedModel& served, const Caller& caller);

inline constexpr int kMaxMemoryRows = 200;

}  // namespace kvasir
