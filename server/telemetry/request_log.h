// One line per finished request: who, how many tokens, how much KV memory, how long, how it ended.
// Never its text. Borrows nothing; called from the engine thread, hands the line to the log's
// writer thread and returns.
#pragma once

#include <string>
#include <vector>

#include "runtime/engine/engine_observer.h"
#include "server/telemetry/logging.h"

namespace kvasir {

class RequestLog : public EngineObserver {
 public:
  explicit RequestLog(std::string model_name) : model_name_(std::move(model_name)) {}

  void OnFinished(const RequestSummary& summary) override;
  // Lost spill files are rare and each loses a session's cache, so each is a warning.
  void OnSpillDamaged(const std::string& message) override;
  void OnPrefixSpillFault(const std::string& message) override;
  // Those that the limits on the spill folder removed.
  void OnSessionEvicted(const char* reason) override;

 private:
  const std::string model_name_;
};

// The fields of that line.
std::vector<LogField> RequestLogFields(const std::string& model_name,
                                       const RequestSummary& summary);

}  // namespace kvasir
