#include "client/latency_report.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/call_error.h"

namespace kvasir {
namespace {

double PerSecond(int64_t count, absl::Duration duration) {
  return duration > absl::ZeroDuration() ? count / absl::ToDoubleSeconds(duration) : 0;
}

nlohmann::ordered_json ToJson(const LatencySummary& summary) {
  return {{"count", summary.count},
          {"mean", absl::ToDoubleSeconds(summary.mean)},
          {"p50", absl::ToDoubleSeconds(summary.p50)},
          {"p90", absl::ToDoubleSeconds(summary.p90)},
          {"p99", absl::ToDoubleSeconds(summary.p99)},
          {"max", absl::ToDoubleSeconds(summary.max)}};
}

void AppendRow(const char* name, const LatencySummary& summary, std::string* text) {
  absl::StrAppendFormat(
      text, "  %-22s %8d %9.2f %9.2f %9.2f %9.2f %9.2f\n", name, summary.count,
      absl::ToDoubleMilliseconds(summary.mean), absl::ToDoubleMilliseconds(summary.p50),
      absl::ToDoubleMilliseconds(summary.p90), absl::ToDoubleMilliseconds(summary.p99),
      absl::ToDoubleMilliseconds(summary.max));
}

}  // namespace

absl::Duration Quantile(const std::vector<absl::Duration>& sorted, double p) {
  if (sorted.empty()) return absl::ZeroDuration();
  const double rank = std::clamp(p, 0.0, 1.0) * static_cast<double>(sorted.size() - 1);
  const size_t below = static_cast<size_t>(rank);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (rank - std::floor(rank)) * (sorted[above] - sorted[below]);
}

LatencySummary Summarize(std::vector<absl::Duration> samples) {
  LatencySummary summary;
  summary.count = static_cast<int64_t>(samples.size());
  if (samples.empty()) return summary;
  std::sort(samples.begin(), samples.end());
  absl::Duration sum;
  for (const absl::Duration sample : samples) sum += sample;
  summary.mean = sum / static_cast<double>(samples.size());
  summary.p50 = Quantile(samples, 0.5);
  summary.p90 = Quantile(samples, 0.9);
  summary.p99 = Quantile(samples, 0.99);
  summary.max = samples.back();
  return summary;
}

LatencyReport MakeReport(const std::vector<RequestOutcome>& outcomes, absl::Duration duration) {
  LatencyReport report;
  report.requests = static_cast<int64_t>(outcomes.size());
  report.duration = duration;
  std::vector<absl::Duration> first_token, gaps, total;
  for (const RequestOutcome& outcome : outcomes) {
    report.prompt_tokens += outcome.prompt_tokens;
    report.cached_tokens += outcome.cached_tokens;
    report.completion_tokens += outcome.completion_tokens;
    report.max_send_delay = std::max(report.max_send_delay, outcome.send_delay);
    if (outcome.status.ok()) {
      ++report.succeeded;
      total.push_back(outcome.total);
    } else if (outcome.cancelled_on_purpose) {
      ++report.cancelled_on_purpose;
    } else {
      ++report.errors_by_code[std::string(CodeName(outcome.status.code()))];
      if (report.first_error.empty()) report.first_error = std::string(outcome.status.message());
      continue;  // how soon a refusal came is not a latency of the service
    }
    if (outcome.time_to_first_token != absl::InfiniteDuration())
      first_token.push_back(outcome.time_to_first_token);
    gaps.insert(gaps.end(), outcome.gaps.begin(), outcome.gaps.end());
  }
  report.requests_per_second = PerSecond(report.succeeded, duration);
  report.completion_tokens_per_second = PerSecond(report.completion_tokens, duration);
  report.prompt_tokens_per_second = PerSecond(report.prompt_tokens, duration);
  if (report.prompt_tokens > 0) {
    report.cached_ratio =
        static_cast<double>(report.cached_tokens) / static_cast<double>(report.prompt_tokens);
  }
  report.time_to_first_token = Summarize(std::move(first_token));
  report.inter_token_latency = Summarize(std::move(gaps));
  report.total = Summarize(std::move(total));
  return report;
}

nlohmann::ordered_json ToJson(const LatencyReport& report) {
  nlohmann::ordered_json errors = nlohmann::ordered_json::object();
  for (const auto& [code, count] : report.errors_by_code) errors[code] = count;
  nlohmann::ordered_json json = {
      {"requests", report.requests},
      {"succeeded", report.succeeded},
      {"cancelled_on_purpose", report.cancelled_on_purpose},
      {"errors", std::move(errors)},
      {"duration_seconds", absl::ToDoubleSeconds(report.duration)},
      {"requests_per_second", report.requests_per_second},
      {"prompt_tokens", report.prompt_tokens},
      {"cached_tokens", report.cached_tokens},
      {"cached_ratio", report.cached_ratio},
      {"completion_tokens", report.completion_tokens},
      {"prompt_tokens_per_second", report.prompt_tokens_per_second},
      {"completion_tokens_per_second", report.completion_tokens_per_second},
      {"time_to_first_token_seconds", ToJson(report.time_to_first_token)},
      {"inter_token_latency_seconds", ToJson(report.inter_token_latency)},
      {"total_seconds", ToJson(report.total)},
      {"max_send_delay_seconds", absl::ToDoubleSeconds(report.max_send_delay)}};
  if (!report.first_error.empty()) json["first_error"] = report.first_error;
  return json;
}

std::string ToText(const LatencyReport& report) {
  std::string text = absl::StrFormat("%d requests in %.2f s: %d ok (%.2f/s)", report.requests,
                                     absl::ToDoubleSeconds(report.duration), report.succeeded,
                                     report.requests_per_second);
  if (report.cancelled_on_purpose > 0)
    absl::StrAppend(&text, ", ", report.cancelled_on_purpose, " cancelled on purpose");
  for (const auto& [code, count] : report.errors_by_code)
    absl::StrAppend(&text, ", ", count, " ", code);
  absl::StrAppendFormat(&text,
                        "\n%d prompt tokens (%.1f %% from cache), %d generated: %.0f prompt and "
                        "%.0f generated tokens/s\n",
                        report.prompt_tokens, 100 * report.cached_ratio, report.completion_tokens,
                        report.prompt_tokens_per_second, report.completion_tokens_per_second);
  absl::StrAppendFormat(&text, "  %-22s %8s %9s %9s %9s %9s %9s\n", "milliseconds", "samples",
                        "mean", "p50", "p90", "p99", "max");
  AppendRow("time to first token", report.time_to_first_token, &text);
  AppendRow("inter-token latency", report.inter_token_latency, &text);
  AppendRow("whole request", report.total, &text);
  if (report.max_send_delay > absl::ZeroDuration()) {
    absl::StrAppendFormat(&text, "sent up to %.1f ms late, for all streams were taken\n",
                          absl::ToDoubleMilliseconds(report.max_send_delay));
  }
  if (!report.first_error.empty())
    absl::StrAppend(&text, "first error: ", report.first_error, "\n");
  return text;
}

}  // namespace kvasir
