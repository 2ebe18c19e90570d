#include "server/telemetry/call_log.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "base/steady_time.h"

namespace kvasir {

std::vector<LogField> RefusedCallFields(const RefusedCall& call) {
  std::vector<LogField> fields = {
      {"method", call.method},
      {"id", call.request_id},
      {"tenant", call.tenant.empty() ? "anonymous" : call.tenant},
      {"reason", RefusalReasonName(call.refusal.reason)},
      {"code", absl::StatusCodeToString(call.code)},
  };
  if (!call.model.empty()) fields.emplace_back("model", call.model);
  if (!call.refusal.limit.empty()) fields.emplace_back("limit", call.refusal.limit);
  if (!call.field.empty()) fields.emplace_back("field", call.field);
  if (call.refusal.retry_after) {
    fields.emplace_back("retry_after_seconds", absl::ToDoubleSeconds(*call.refusal.retry_after));
  }
  return fields;
}

bool CallLog::TakeLine(absl::Time now, int64_t* left_out) {
  absl::MutexLock lock(&mutex_);
  if (now - second_ >= absl::Seconds(1)) {
    second_ = now;
    lines_ = 0;
    *left_out = std::exchange(left_out_, 0);
  }
  if (lines_ < kMaxLinesPerSecond) {
    ++lines_;
    return true;
  }
  ++left_out_;
  return false;
}

void CallLog::OnRefused(const RefusedCall& call) {
  next_->OnRefused(call);
  int64_t left_out = 0;
  const bool shown = TakeLine(SteadyNow(), &left_out);
  if (left_out > 0) write_("calls refused, left out of the log", {{"count", left_out}});
  if (shown) write_("call refused", RefusedCallFields(call));
}

}  // namespace kvasir
