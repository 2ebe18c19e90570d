// What each tenant holds of one model's KV pool.
#pragma once

#include <map>
#include <string>

#include "kvasir/v1/admin.pb.h"
#include "runtime/engine/engine.h"

namespace kvasir {

// Sums per tenant over requests and sessions. A busy session's blocks are with its running request,
// or still its own while the turn waits: never with both. Blocks that a tenant's own requests share
// are in the sum of physical bytes once for each.
std::map<std::string, v1::TenantStats> SumByTenant(const EngineAccounts& accounts);

}  // namespace kvasir
