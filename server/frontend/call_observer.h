// What front ends tell metrics and log about connections and calls; the engine's own events go
// through EngineObserver. Implementations are thread safe and never block.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "server/frontend/refused_call.h"

namespace kvasir {

class CallObserver {
 public:
  virtual ~CallObserver() = default;
  // A connection was taken; exactly one OnConnectionClosed follows.
  virtual void OnConnectionOpened() {}
  virtual void OnConnectionClosed() {}
  // A connection was closed at once: there are too many, or no descriptors left.
  virtual void OnConnectionRefused() {}
  // Files that changed, of `what` (Metrics::kReloads), were taken, or refused and the old kept.
  virtual void OnReload(const char* what, bool taken) {}
  // One Generate call began; exactly one OnGenerateDone follows.
  virtual void OnGenerateStarted() {}
  // One Generate call ended with this status; `model` is a served name, or "" when the call named
  // none that is served.
  virtual void OnGenerateDone(const std::string& model, const std::string& tenant,
                              absl::StatusCode code) = 0;
  // A call of any service was refused, at the door or by the engine.
  virtual void OnRefused(const RefusedCall& call) = 0;
};

}  // namespace kvasir
