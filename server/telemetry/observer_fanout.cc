#include "server/telemetry/observer_fanout.h"

#include <utility>

namespace kvasir {

ObserverFanout::ObserverFanout(std::vector<std::unique_ptr<EngineObserver>> observers)
    : observers_(std::move(observers)) {}

void ObserverFanout::OnScheduled(const GenerationRequest& request, int32_t cached_tokens,
                                 absl::Duration queue_time) {
  for (const auto& observer : observers_) observer->OnScheduled(request, cached_tokens, queue_time);
}

void ObserverFanout::OnFirstToken(const GenerationRequest& request, absl::Duration since_arrival) {
  for (const auto& observer : observers_) observer->OnFirstToken(request, since_arrival);
}

void ObserverFanout::OnTokens(const GenerationRequest& request, int32_t tokens,
                              absl::Duration gap) {
  for (const auto& observer : observers_) observer->OnTokens(request, tokens, gap);
}

void ObserverFanout::OnPreemption(const GenerationRequest& request, PreemptionReason reason) {
  for (const auto& observer : observers_) observer->OnPreemption(request, reason);
}

void ObserverFanout::OnCancelled(const GenerationRequest& request, CancelCause cause) {
  for (const auto& observer : observers_) observer->OnCancelled(request, cause);
}

void ObserverFanout::OnSlowReaderPause(const GenerationRequest& request) {
  for (const auto& observer : observers_) observer->OnSlowReaderPause(request);
}

void ObserverFanout::OnFinished(const RequestSummary& summary) {
  for (const auto& observer : observers_) observer->OnFinished(summary);
}

void ObserverFanout::OnTenantUsage(const std::string& tenant, const TenantUsage& before,
                                   const TenantUsage& now) {
  for (const auto& observer : observers_) observer->OnTenantUsage(tenant, before, now);
}

void ObserverFanout::OnStep(const StepSummary& step) {
  for (const auto& observer : observers_) observer->OnStep(step);
}

void ObserverFanout::OnSessionTurn(int64_t session_bytes) {
  for (const auto& observer : observers_) observer->OnSessionTurn(session_bytes);
}

void ObserverFanout::OnSessionEvicted(const char* reason) {
  for (const auto& observer : observers_) observer->OnSessionEvicted(reason);
}

void ObserverFanout::OnSpillDamaged(const std::string& message) {
  for (const auto& observer : observers_) observer->OnSpillDamaged(message);
}

void ObserverFanout::OnPrefixSpillFault(const std::string& message) {
  for (const auto& observer : observers_) observer->OnPrefixSpillFault(message);
}

}  // namespace kvasir
