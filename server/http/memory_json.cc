#include "server/http/memory_json.h"

#include <algorithm>
#include <string>

#include "kvasir/v1/generation.pb.h"
#include "server/frontend/model_description.h"
#include "server/frontend/tenant_sums.h"

namespace kvasir {
namespace {

using nlohmann::ordered_json;

ordered_json ToJson(const RequestSnapshot& request) {
  return {{"request_id", request.id},
          {"tenant", request.tenant},
          {"session_id", request.session_id},
          {"state", request.state},
          {"prompt_tokens", request.prompt_tokens},
          {"cached_tokens", request.cached_tokens},
          {"computed_tokens", request.computed_tokens},
          {"generated_tokens", request.generated_tokens},
          {"kv_bytes_physical", request.kv_bytes_physical},
          {"kv_bytes_exclusive", request.kv_bytes_exclusive},
          {"kv_bytes_proportional", request.kv_bytes_proportional},
          {"state_bytes", request.state_bytes},
          {"kv_bytes_read", request.kv_bytes_read},
          {"kv_bytes_read_if_dense", request.kv_bytes_read_if_dense},
          {"age_seconds", absl::ToDoubleSeconds(request.age)}};
}

const char* StateName(SessionSnapshot::State state) {
  switch (state) {
    case SessionSnapshot::State::kBusy:
      return "busy";
    case SessionSnapshot::State::kIdle:
      return "idle";
    case SessionSnapshot::State::kSpilled:
      return "spilled";
    case SessionSnapshot::State::kEvicted:
      return "evicted";
    case SessionSnapshot::State::kRestoring:
      return "restoring";
  }
  return "";
}

ordered_json ToJson(const SessionSnapshot& session) {
  return {{"session_id", session.id},
          {"tenant", session.tenant},
          {"state", StateName(session.state)},
          {"tokens", session.tokens},
          {"turns", session.turns},
          {"kv_bytes_physical", session.kv_bytes_physical},
          {"kv_bytes_exclusive", session.kv_bytes_exclusive},
          {"kv_bytes_proportional", session.kv_bytes_proportional},
          {"state_bytes", session.state_bytes},
          {"spilled_bytes", session.spilled_bytes},
          {"idle_seconds", absl::ToDoubleSeconds(session.idle)}};
}

ordered_json ToJson(const v1::TenantStats& tenant) {
  return {{"tenant", tenant.tenant()},
          {"requests", tenant.requests()},
          {"sessions", tenant.sessions()},
          {"kv_bytes_physical", tenant.kv_bytes_physical()},
          {"kv_bytes_exclusive", tenant.kv_bytes_exclusive()},
          {"kv_bytes_proportional", tenant.kv_bytes_proportional()}};
}

// The first rows of the caller's; all tenants' for an operator.
template <typename Row>
ordered_json Rows(const std::vector<Row>& all, const Caller& caller) {
  ordered_json rows = ordered_json::array();
  for (const Row& row : all) {
    if (rows.size() == kMaxMemoryRows) break;
    if (caller.admin() || row.tenant == caller.tenant()) rows.push_back(ToJson(row));
  }
  return rows;
}

// What would tell a tenant when and how much others work.
void AddTotals(const EngineAccounts& accounts, const KvLayout& layout, ordered_json* out) {
  const EngineStats& stats = accounts.stats;
  (*out)["pool"] = {{"capacity_bytes", stats.kv_capacity_bytes},
                    {"live_bytes", stats.kv_live_bytes},
                    {"cached_bytes", stats.kv_cached_bytes},
                    {"free_bytes", stats.kv_free_bytes}};
  ordered_json& groups = (*out)["groups"] = ordered_json::array();
  for (size_t i = 0; i < accounts.groups.size(); ++i) {
    const KvGroup& group = layout.group(static_cast<int>(i));
    groups.push_back({{"kind", KvGroupKindName(group.kind)},
                      {"layers", group.layers.size()},
                      {"window_tokens", group.window},
                      {"block_bytes", group.block_bytes},
                      {"live_bytes", accounts.groups[i].live_bytes},
                      {"cached_bytes", accounts.groups[i].cached_bytes}});
  }
  (*out)["totals"] = {
      {"prompt_tokens", stats.prompt_tokens_total},
      {"cached_tokens", stats.cached_tokens_total},
      {"generated_tokens", stats.generated_tokens_total},
      {"steps", stats.steps_total},
      {"preemptions", stats.preemptions_total},
      {"evictions", stats.kv_evictions_total},
      {"kv_bytes_read", stats.kv_bytes_read_dense_total + stats.kv_bytes_read_sparse_total},
      {"kv_bytes_read_if_dense", stats.kv_bytes_read_if_dense_total}};
}

}  // namespace

ordered_json DescribeMemory(const ServedModel& served, const Caller& caller) {
  const v1::Model model = DescribeModel(served);
  const EngineAccounts accounts = served.engine->TakeAccounts();
  ordered_json out;
  out["model"] = model.name();
  out["chat"] = served.chat_template != nullptr;
  out["sharing"] = model.sharing();
  out["block_tokens"] = model.block_tokens();
  out["kv_bytes_per_token_resident"] = model.kv_bytes_per_token_resident();
  out["kv_bytes_per_token_read"] = model.kv_bytes_per_token_read();
  int running = 0, waiting = 0;
  for (const RequestSnapshot& request : accounts.requests) {
    if (!caller.admin() && request.tenant != caller.tenant()) continue;
    ++(absl::string_view(request.state) == "waiting" ? waiting : running);
  }
  out["running"] = running;
  out["waiting"] = waiting;
  if (caller.admin()) AddTotals(accounts, served.engine->kv_layout(), &out);
  ordered_json& tenants = out["tenants"] = ordered_json::array();
  for (const auto& [tenant, sums] : SumByTenant(accounts)) {
    if (caller.admin() || tenant == caller.tenant()) tenants.push_back(ToJson(sums));
  }
  out["requests"] = Rows(accounts.requests, caller);
  out["sessions"] = Rows(accounts.sessions, caller);
  return out;
}

}  // namespace kvasir
