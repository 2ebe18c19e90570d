#include "server/telemetry/request_log.h"

#include "absl/strings/match.h"
#include "server/frontend/request_outcome.h"

namespace kvasir {

std::vector<LogField> RequestLogFields(const std::string& model_name,
                                       const RequestSummary& summary) {
  const GenerationRequest& request = *summary.request;
  const FinishedEvent& outcome = *summary.outcome;
  const RequestUsage& usage = outcome.usage;
  std::vector<LogField> fields = {
      {"id", request.id},
      {"tenant", request.tenant.empty() ? "anonymous" : request.tenant},
      {"model", model_name},
      {"prompt_tokens", usage.prompt_tokens},
      {"cached_tokens", usage.cached_tokens},
      {"completion_tokens", usage.completion_tokens},
      {"kv_peak_bytes", usage.kv_bytes_peak},
      {"preemptions", usage.preemptions},
      {"queue_seconds", absl::ToDoubleSeconds(usage.queue_time)},
      {"ttft_seconds", absl::ToDoubleSeconds(usage.time_to_first_token)},
      {"total_seconds", absl::ToDoubleSeconds(usage.total_time)},
      {"finish", OutcomeReason(outcome)},
      {"code", absl::StatusCodeToString(outcome.status.code())},
  };
  if (!request.session_id.empty()) fields.emplace_back("session", request.session_id);
  return fields;
}

void RequestLog::OnFinished(const RequestSummary& summary) {
  LogInfo("request finished", RequestLogFields(model_name_, summary));
}

void RequestLog::OnPrefixSpillFault(const std::string& message) {
  LogWarning("prefix blocks on disk", {{"model", model_name_}, {"reason", message}});
}

void RequestLog::OnSpillDamaged(const std::string& message) {
  LogWarning("spilled session is lost", {{"model", model_name_}, {"reason", message}});
}

void RequestLog::OnSessionEvicted(const char* reason) {
  // The others cost a recomputation at most of what stood in memory.
  if (!absl::StartsWith(reason, "spill_")) return;
  LogInfo("a session's K/V is not on the disk",
          {{"model", model_name_}, {"reason", std::string(reason)}});
}

}  // namespace kvasir
