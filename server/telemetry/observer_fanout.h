// Passes every engine event to several observers in order: metrics and the request log of one
// model. Owns them; constant after construction; as thread safe as they are.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "runtime/engine/engine_observer.h"

namespace kvasir {

class ObserverFanout : public EngineObserver {
 public:
  explicit ObserverFanout(std::vector<std::unique_ptr<EngineObserver>> observers);

  void OnScheduled(const GenerationRequest& request, int32_t cached_tokens,
                   absl::Duration queue_time) override;
  void OnFirstToken(const GenerationRequest& request, absl::Duration since_arrival) override;
  void OnTokens(const GenerationRequest& request, int32_t tokens, absl::Duration gap) override;
  void OnPreemption(const GenerationRequest& request, PreemptionReason reason) override;
  void OnCancelled(const GenerationRequest& request, CancelCause cause) override;
  void OnSlowReaderPause(const GenerationRequest& request) override;
  void OnFinished(const RequestSummary& summary) override;
  void OnTenantUsage(const std::string& tenant, const TenantUsage& before,
                     const TenantUsage& now) override;
  void OnStep(const StepSummary& step) override;
  void OnSessionTurn(int64_t session_bytes) override;
  void OnSessionEvicted(const char* reason) override;
  void OnSpillDamaged(const std::string& message) override;
  void OnPrefixSpillFault(const std::string& message) override;

 private:
  const std::vector<std::unique_ptr<EngineObserver>> observers_;
};

}  // namespace kvasir
