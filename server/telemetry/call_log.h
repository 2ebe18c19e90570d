// One log line for each refused call, whatever refused it, so that an operator whom a counter of
// refusals alarmed finds who it was. Everything is passed on to the metrics.
//
// Holds no text of clients beyond ids. At most kMaxLinesPerSecond lines: a flood of refused calls
// does not become one of log lines; how many were left out is said when the next second begins.
//
// Thread safe.
#pragma once

#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/frontend/call_observer.h"
#include "server/telemetry/logging.h"

namespace kvasir {

class CallLog : public CallObserver {
 public:
  static constexpr int kMaxLinesPerSecond = 20;

  // Both outlive this. `write` takes the fields of a line; tests give their own.
  using Write = void (*)(absl::string_view event, const std::vector<LogField>& fields);
  explicit CallLog(CallObserver* next, Write write = LogInfo) : next_(next), write_(write) {}

  void OnConnectionOpened() override { next_->OnConnectionOpened(); }
  void OnConnectionClosed() override { next_->OnConnectionClosed(); }
  void OnConnectionRefused() override { next_->OnConnectionRefused(); }
  void OnReload(const char* what, bool taken) override { next_->OnReload(what, taken); }
  void OnGenerateStarted() override { next_->OnGenerateStarted(); }
  void OnGenerateDone(const std::string& model, const std::string& tenant,
                      absl::StatusCode code) override {
    next_->OnGenerateDone(model, tenant, code);
  }
  void OnRefused(const RefusedCall& call) override;

 private:
  // Whether this second has room for a line; in `left_out`, how many had none before it began.
  bool TakeLine(absl::Time now, int64_t* left_out);

  CallObserver* const next_;
  const Write write_;

  absl::Mutex mutex_;
  absl::Time second_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  int lines_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t left_out_ ABSL_GUARDED_BY(mutex_) = 0;
};

// The fields of the line. Pure.
std::vector<LogField> RefusedCallFields(const RefusedCall& call);

}  // namespace kvasir
