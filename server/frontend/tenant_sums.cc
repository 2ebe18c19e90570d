#include "server/frontend/tenant_sums.h"

namespace kvasir {

std::map<std::string, v1::TenantStats> SumByTenant(const EngineAccounts& accounts) {
  std::map<std::string, v1::TenantStats> tenants;
  const auto add_bytes = [](const auto& row, v1::TenantStats* sums) {
    sums->set_kv_bytes_physical(sums->kv_bytes_physical() + row.kv_bytes_physical);
    sums->set_kv_bytes_exclusive(sums->kv_bytes_exclusive() + row.kv_bytes_exclusive);
    sums->set_kv_bytes_proportional(sums->kv_bytes_proportional() + row.kv_bytes_proportional);
  };
  for (const RequestSnapshot& request : accounts.requests) {
    v1::TenantStats* sums = &tenants[request.tenant];
    sums->set_requests(sums->requests() + 1);
    add_bytes(request, sums);
  }
  for (const SessionSnapshot& session : accounts.sessions) {
    v1::TenantStats* sums = &tenants[session.tenant];
    sums->set_sessions(sums->sessions() + 1);
    add_bytes(session, sums);
  }
  for (auto& [tenant, sums] : tenants) sums.set_tenant(tenant);
  return tenants;
}

}  // namespace kvasir
