#include "server/grpc/admin_service.h"

#include <algorithm>
#include <map>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/steady_time.h"
#include "server/frontend/account_messages.h"
#include "server/grpc/list_query.h"
#include "server/grpc/unary_call.h"

namespace kvasir {
namespace {

// What a tenant sees: its own requests and sessions. Totals of the pool and of the counters would
// tell it when and how much others work, so they stay 0.
v1::ModelStats DescribeOwnStats(const ServedModel& served, const std::string& tenant) {
  const EngineAccounts accounts = served.engine->TakeAccounts();
  v1::ModelStats out;
  out.set_model(served.name);
  out.set_kv_block_bytes(accounts.stats.kv_block_bytes);
  out.set_block_tokens(served.engine->kv_layout().block_tokens());
  for (const RequestSnapshot& request : accounts.requests) {
    if (request.tenant != tenant) continue;
    if (absl::string_view(request.state) == "waiting") {
      out.set_waiting(out.waiting() + 1);
    } else {
      out.set_running(out.running() + 1);
    }
  }
  for (const SessionSnapshot& session : accounts.sessions) {
    if (session.tenant != tenant) continue;
    out.set_sessions(out.sessions() + 1);
    if (session.state == SessionSnapshot::State::kBusy) {
      out.set_sessions_busy(out.sessions_busy() + 1);
    } else if (session.state == SessionSnapshot::State::kSpilled) {
      out.set_sessions_spilled(out.sessions_spilled() + 1);
    }
  }
  const std::map<std::string, v1::TenantStats> tenants = SumByTenant(accounts);
  if (const auto own = tenants.find(tenant); own != tenants.end()) {
    *out.add_tenants() = own->second;
  }
  return out;
}

v1::ModelStats DescribeStats(const ServedModel& served) {
  const EngineAccounts accounts = served.engine->TakeAccounts();
  const EngineStats& stats = accounts.stats;
  v1::ModelStats out;
  out.set_model(served.name);
  out.set_running(static_cast<int32_t>(stats.running));
  out.set_waiting(static_cast<int32_t>(stats.waiting));
  out.set_sessions(static_cast<int32_t>(stats.sessions_busy + stats.sessions_idle +
                                        stats.sessions_spilled + stats.sessions_evicted +
                                        stats.sessions_restoring));
  out.set_sessions_busy(static_cast<int32_t>(stats.sessions_busy));
  out.set_sessions_spilled(static_cast<int32_t>(stats.sessions_spilled));
  out.set_kv_capacity_bytes(stats.kv_capacity_bytes);
  out.set_kv_live_bytes(stats.kv_live_bytes);
  out.set_kv_cached_bytes(stats.kv_cached_bytes);
  out.set_kv_free_bytes(stats.kv_free_bytes);
  out.set_kv_state_live_bytes(stats.kv_state_live_bytes);
  out.set_kv_state_cached_bytes(stats.kv_state_cached_bytes);
  out.set_kv_block_bytes(stats.kv_block_bytes);
  out.set_block_tokens(served.engine->kv_layout().block_tokens());
  out.set_prompt_tokens_total(stats.prompt_tokens_total);
  out.set_cached_tokens_total(stats.cached_tokens_total);
  out.set_generated_tokens_total(stats.generated_tokens_total);
  out.set_preemptions_total(stats.preemptions_total);
  out.set_steps_total(stats.steps_total);
  out.set_kv_bytes_read_total(stats.kv_bytes_read_dense_total + stats.kv_bytes_read_sparse_total);
  for (const auto& [tenant, sums] : SumByTenant(accounts)) *out.add_tenants() = sums;
  return out;
}

// Whether the caller may have models come and go, and this daemon can.
absl::Status CheckMayControlModels(const Caller& caller, const ModelControl* control) {
  if (!caller.admin()) {
    return absl::PermissionDeniedError(
        "only a tenant with admin: true in the daemon's configuration may load and unload models");
  }
  if (control == nullptr) {
    return absl::UnimplementedError("the models of this daemon neither come nor go");
  }
  return absl::OkStatus();
}

// None where the message has none.
absl::StatusOr<std::optional<absl::Duration>> UnloadTimeout(const v1::UnloadModelRequest& wanted) {
  if (!wanted.has_timeout_seconds()) return std::nullopt;
  constexpr double kMaxSeconds = 86400;
  const double seconds = wanted.timeout_seconds();
  // Written so that NaN fails.
  if (!(seconds >= 0 && seconds <= kMaxSeconds)) {
    return BadFieldError("timeout_seconds",
                         absl::StrCat(seconds, " is outside the range 0 to ", kMaxSeconds,
                                      "; 0 ends what runs at once"));
  }
  return absl::Seconds(seconds);
}

}  // namespace

grpc::ServerUnaryReactor* AdminService::GetStats(grpc::CallbackServerContext* context,
                                                 const grpc::ByteBuffer* request,
                                                 grpc::ByteBuffer* reply) {
  const auto get = [this](const v1::GetStatsRequest&,
                          const Caller& caller) -> absl::StatusOr<v1::GetStatsResponse> {
    v1::GetStatsResponse answer;
    for (const ServedModelRef& served : environment_.models->AllOf(caller)) {
      *answer.add_models() =
          caller.admin() ? DescribeStats(*served) : DescribeOwnStats(*served, caller.tenant());
    }
    answer.set_draining(environment_.draining->load());
    answer.set_uptime_seconds(absl::ToDoubleSeconds(SteadyNow() - started_));
    answer.set_version(version_);
    return answer;
  };
  return AnswerOn<v1::GetStatsRequest>(environment_, context, request, reply, get);
}

grpc::ServerUnaryReactor* AdminService::ListRequests(grpc::CallbackServerContext* context,
                                                     const grpc::ByteBuffer* request,
                                                     grpc::ByteBuffer* reply) {
  const auto list = [this](const v1::ListRequestsRequest& wanted,
                           const Caller& caller) -> absl::StatusOr<v1::ListRequestsResponse> {
    KVASIR_ASSIGN_OR_RETURN(const size_t rows, ListRows(wanted.limit()));
    KVASIR_ASSIGN_OR_RETURN(const std::vector<ServedModelRef> models,
                            ListedModels(*environment_.models, wanted.model(), caller));
    const TenantScope scope = caller.admin() ? TenantScope() : TenantScope(caller.tenant());
    std::vector<v1::RequestInfo> infos;
    int total = 0;
    for (const ServedModelRef& served : models) {
      int in_model = 0;
      for (const RequestSnapshot& snapshot : served->engine->ListRequests(scope, rows, &in_model)) {
        infos.push_back(DescribeRequest(snapshot, served->name));
      }
      total += in_model;
    }
    // Each model's list is sorted; together they are not.
    std::stable_sort(infos.begin(), infos.end(), [](const auto& a, const auto& b) {
      return a.kv_bytes_physical() > b.kv_bytes_physical();
    });
    infos.resize(std::min(infos.size(), rows));
    v1::ListRequestsResponse answer;
    answer.set_total(total);
    for (v1::RequestInfo& info : infos) *answer.add_requests() = std::move(info);
    return answer;
  };
  return AnswerOn<v1::ListRequestsRequest>(environment_, context, request, reply, list);
}

grpc::ServerUnaryReactor* AdminService::Drain(grpc::CallbackServerContext* context,
                                              const grpc::ByteBuffer* request,
                                              grpc::ByteBuffer* reply) {
  const auto drain = [this](const v1::DrainRequest&,
                            const Caller& caller) -> absl::StatusOr<v1::DrainResponse> {
    if (!caller.admin()) {
      return absl::PermissionDeniedError(
          "only a tenant with admin: true in the daemon's configuration may drain it; SIGTERM does "
          "the same");
    }
    start_drain_();
    return v1::DrainResponse();
  };
  return AnswerNow<v1::DrainRequest>(environment_, context, request, reply, drain);
}

grpc::ServerUnaryReactor* AdminService::LoadModel(grpc::CallbackServerContext* context,
                                                  const grpc::ByteBuffer* request,
                                                  grpc::ByteBuffer* reply) {
  const auto load = [this](const v1::LoadModelRequest& wanted, const Caller& caller,
                           const auto& end) -> absl::Status {
    KVASIR_RETURN_IF_ERROR(CheckMayControlModels(caller, environment_.model_control));
    const LoadOrder order = {
        .name = wanted.name(), .path = wanted.path(), .options = wanted.options()};
    v1::LoadModelResponse answer;
    if (wanted.wait()) {
      answer.set_state(v1::MODEL_STATE_READY);
      return environment_.model_control->Load(order, [end, answer](const absl::Status& status) {
        end(status.ok() ? absl::StatusOr<v1::LoadModelResponse>(answer) : status);
      });
    }
    KVASIR_RETURN_IF_ERROR(
        environment_.model_control->Load(order, [](const absl::Status& status) {}));
    answer.set_state(v1::MODEL_STATE_LOADING);
    end(answer);
    return absl::OkStatus();
  };
  return AnswerLater<v1::LoadModelRequest, v1::LoadModelResponse>(environment_, context, request,
                                                                  reply, load);
}

grpc::ServerUnaryReactor* AdminService::UnloadModel(grpc::CallbackServerContext* context,
                                                    const grpc::ByteBuffer* request,
                                                    grpc::ByteBuffer* reply) {
  const auto unload = [this](const v1::UnloadModelRequest& wanted, const Caller& caller,
                             const auto& end) -> absl::Status {
    KVASIR_RETURN_IF_ERROR(CheckMayControlModels(caller, environment_.model_control));
    KVASIR_ASSIGN_OR_RETURN(const std::optional<absl::Duration> timeout, UnloadTimeout(wanted));
    if (wanted.name().empty()) return BadFieldError("name", "is empty; say which model to unload");
    return environment_.model_control->Unload(
        wanted.name(), timeout, [end](const absl::StatusOr<UnloadReport>& report) {
          if (!report.ok()) return end(report.status());
          v1::UnloadModelResponse answer;
          answer.set_requests_aborted(static_cast<int32_t>(report->requests_aborted));
          answer.set_sessions_kept(static_cast<int32_t>(report->sessions_kept));
          answer.set_sessions_lost(static_cast<int32_t>(report->sessions_lost));
          answer.set_seconds(absl::ToDoubleSeconds(report->took));
          end(answer);
        });
  };
  return AnswerLater<v1::UnloadModelRequest, v1::UnloadModelResponse>(environment_, context,
                                                                      request, reply, unload);
}

}  // namespace kvasir
