#include "server/frontend/account_messages.h"

#include "absl/time/time.h"

namespace kvasir {
namespace {

v1::SessionState StateOf(SessionSnapshot::State state) {
  switch (state) {
    case SessionSnapshot::State::kBusy:
      return v1::SESSION_STATE_BUSY;
    case SessionSnapshot::State::kIdle:
      return v1::SESSION_STATE_IDLE;
    case SessionSnapshot::State::kSpilled:
      return v1::SESSION_STATE_SPILLED;
    case SessionSnapshot::State::kEvicted:
      return v1::SESSION_STATE_EVICTED;
    case SessionSnapshot::State::kRestoring:
      return v1::SESSION_STATE_RESTORING;
  }
  return v1::SESSION_STATE_UNSPECIFIED;
}

}  // namespace

v1::RequestInfo DescribeRequest(const RequestSnapshot& request, const std::string& model) {
  v1::RequestInfo info;
  info.set_request_id(request.id);
  info.set_tenant(request.tenant);
  info.set_model(model);
  info.set_state(request.state);
  info.set_prompt_tokens(request.prompt_tokens);
  info.set_cached_tokens(request.cached_tokens);
  info.set_computed_tokens(request.computed_tokens);
  info.set_generated_tokens(request.generated_tokens);
  info.set_kv_bytes_physical(request.kv_bytes_physical);
  info.set_kv_bytes_exclusive(request.kv_bytes_exclusive);
  info.set_kv_bytes_proportional(request.kv_bytes_proportional);
  info.set_state_bytes(request.state_bytes);
  info.set_kv_bytes_read(request.kv_bytes_read);
  info.set_kv_bytes_read_if_dense(request.kv_bytes_read_if_dense);
  info.set_age_seconds(absl::ToDoubleSeconds(request.age));
  info.set_session_id(request.session_id);
  info.set_priority(request.priority);
  return info;
}

v1::Session DescribeSession(const SessionSnapshot& session, const std::string& model) {
  v1::Session info;
  info.set_session_id(session.id);
  info.set_model(model);
  info.set_state(StateOf(session.state));
  info.set_tokens(session.tokens);
  info.set_turns(session.turns);
  info.set_kv_bytes_physical(session.kv_bytes_physical);
  info.set_kv_bytes_exclusive(session.kv_bytes_exclusive);
  info.set_kv_bytes_proportional(session.kv_bytes_proportional);
  info.set_state_bytes(session.state_bytes);
  info.set_spilled_bytes(session.spilled_bytes);
  info.set_idle_seconds(absl::ToDoubleSeconds(session.idle));
  info.set_expires_in_seconds(absl::ToDoubleSeconds(session.expires_in));
  return info;
}

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
