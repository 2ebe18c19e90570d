// What an engine's accounts say of requests, sessions and tenants, as messages of the API: the one
// place where a figure gets its name, whatever door it leaves by. Stateless functions, thread safe.
#pragma once

#include <map>
#include <string>

#include "kvasir/v1/admin.pb.h"
#include "kvasir/v1/session.pb.h"
#include "runtime/engine/engine.h"

namespace kvasir {

// `model`: under which name it is served.
v1::RequestInfo DescribeRequest(const RequestSnapshot& request, const std::string& model);
v1::Session DescribeSession(const SessionSnapshot& session, const std::string& model);

// What each tenant holds of one model's KV pool: sums over requests and sessions. A busy session's
// blocks are with its running request, or still its own while the turn waits: never with both.
// Blocks that a tenant's own requests share are in the sum of physical bytes once for each.
std::map<std::string, v1::TenantStats> SumByTenant(const EngineAccounts& accounts);

}  // namespace kvasir
