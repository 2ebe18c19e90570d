// What a load run shows: percentiles of its latencies, rates, cache reuse and errors by code.
//
// Pure functions over the outcomes of requests; exact percentiles, because a run keeps every
// sample. No thread safety needed; owns its numbers.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "nlohmann/json.hpp"

namespace kvasir {

// One request as its client saw it.
struct RequestOutcome {
  absl::Status status;
  // The load generator stopped reading on purpose; counted apart from errors.
  bool cancelled_on_purpose = false;
  // From the request's due time (closed loop: when it was sent) to its first delta and to its end.
  // time_to_first_token is InfiniteDuration when no delta came.
  absl::Duration time_to_first_token = absl::InfiniteDuration();
  absl::Duration total;
  // How late it was sent: above zero only in an open loop whose streams were all taken.
  absl::Duration send_delay;
  // Between one delta and the next. A delta carries several tokens when the reader was slow, so
  // these are the pauses that a reader sees, not averages.
  std::vector<absl::Duration> gaps;
  int64_t prompt_tokens = 0;      // of the final message; 0 when there was none
  int64_t cached_tokens = 0;      // of prompt_tokens
  int64_t completion_tokens = 0;  // received, also by requests that failed
};

struct LatencySummary {
  int64_t count = 0;
  absl::Duration mean, p50, p90, p99, max;  // zero when count is 0
};

// The p-th quantile of sorted samples, p in [0, 1], between neighbours in proportion. Zero for
// none.
absl::Duration Quantile(const std::vector<absl::Duration>& sorted, double p);

// Sorts its copy of the samples.
LatencySummary Summarize(std::vector<absl::Duration> samples);

struct LatencyReport {
  int64_t requests = 0;
  int64_t succeeded = 0;
  int64_t cancelled_on_purpose = 0;
  std::map<std::string, int64_t> errors_by_code;  // "RESOURCE_EXHAUSTED" -> count
  std::string first_error;                        // message of one of them, "" if none
  absl::Duration duration;                        // of the whole run

  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t completion_tokens = 0;
  double requests_per_second = 0;           // succeeded
  double completion_tokens_per_second = 0;  // of all requests
  double prompt_tokens_per_second = 0;      // cached ones included
  double cached_ratio = 0;                  // cached_tokens / prompt_tokens; 0 without prompts

  // Only requests that succeeded or were cancelled on purpose.
  LatencySummary time_to_first_token;
  LatencySummary inter_token_latency;
  // Only requests that succeeded.
  LatencySummary total;
  absl::Duration max_send_delay;
};

LatencyReport MakeReport(const std::vector<RequestOutcome>& outcomes, absl::Duration duration);

// Scripts rely on the names; times are in seconds.
nlohmann::ordered_json ToJson(const LatencyReport& report);
// A small table for people, ends with a newline; times are in milliseconds.
std::string ToText(const LatencyReport& report);

}  // namespace kvasir
