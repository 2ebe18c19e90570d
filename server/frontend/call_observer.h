// What the gRPC side tells the metrics about connections and calls; the engine's own events go
// through EngineObserver. Implementations are thread safe and never block.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace kvasir {

class CallObserver {
 public:
  virtual ~CallObserver() = default;
  // A connection was taken; exactly one OnConnectionClosed follows.
  virtual void OnConnectionOpened() {}
  virtual void OnConnectionClosed() {}
  // A connection was closed at once: there are too many, or no descriptors left.
  virtual void OnConnectionRefused() {}
  // One Generate call began; exactly one OnGenerateDone follows.
  virtual void OnGenerateStarted() {}
  // One Generate call ended with this status; `model` is a served name, or "" when the call named
  // none that is served.
  virtual void OnGenerateDone(const std::string& model, const std::string& tenant,
                              absl::StatusCode code) = 0;
  // A request was refused, at the door or by the engine for a tenant's quota; `reason` as in
  // RejectionReason (request_outcome.h).
  virtual void OnRejected(const std::string& model, const std::string& tenant,
                          const char* reason) = 0;
};

}  // namespace kvasir
