// Percentiles and counts of a load run, with numbers small enough to work out by hand.
#include "client/latency_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace kvasir {
namespace {

using ::testing::HasSubstr;

TEST(QuantileTest, LiesBetweenNeighboursInProportion) {
  const std::vector<absl::Duration> sorted = {absl::Seconds(1), absl::Seconds(2), absl::Seconds(4)};
  EXPECT_EQ(Quantile(sorted, 0), absl::Seconds(1));
  EXPECT_EQ(Quantile(sorted, 0.5), absl::Seconds(2));
  EXPECT_EQ(Quantile(sorted, 0.75), absl::Seconds(3));
  EXPECT_EQ(Quantile(sorted, 1), absl::Seconds(4));
  EXPECT_EQ(Quantile({}, 0.5), absl::ZeroDuration());
  EXPECT_EQ(Quantile({absl::Seconds(7)}, 0.99), absl::Seconds(7));
}

TEST(SummarizeTest, SortsItsSamples) {
  std::vector<absl::Duration> samples;
  for (int i = 1; i <= 101; ++i) samples.push_back(absl::Milliseconds(i));
  std::shuffle(samples.begin(), samples.end(), std::mt19937(5));
  const LatencySummary summary = Summarize(samples);
  EXPECT_EQ(summary.count, 101);
  EXPECT_EQ(summary.mean, absl::Milliseconds(51));
  EXPECT_EQ(summary.p50, absl::Milliseconds(51));
  EXPECT_EQ(summary.p90, absl::Milliseconds(91));
  EXPECT_EQ(summary.p99, absl::Milliseconds(100));
  EXPECT_EQ(summary.max, absl::Milliseconds(101));
  EXPECT_EQ(Summarize({}).count, 0);
}

RequestOutcome Succeeded(int64_t milliseconds, int64_t cached_tokens) {
  RequestOutcome outcome;
  outcome.time_to_first_token = absl::Milliseconds(milliseconds);
  outcome.total = absl::Milliseconds(10 * milliseconds);
  outcome.gaps = {absl::Milliseconds(1), absl::Milliseconds(3)};
  outcome.prompt_tokens = 100;
  outcome.cached_tokens = cached_tokens;
  outcome.completion_tokens = 3;
  return outcome;
}

TEST(ReportTest, CountsTokensRatesAndEveryKindOfEnd) {
  RequestOutcome refused;
  refused.status = absl::ResourceExhaustedError("the queue is full");
  refused.time_to_first_token = absl::Milliseconds(1);  // must not enter the percentiles
  RequestOutcome cancelled = Succeeded(30, 0);
  cancelled.status = absl::CancelledError("stopped by the caller");
  cancelled.cancelled_on_purpose = true;
  cancelled.prompt_tokens = 0;

  const LatencyReport report = MakeReport(
      {Succeeded(10, 0), Succeeded(20, 64), refused, refused, cancelled}, absl::Seconds(2));
  EXPECT_EQ(report.requests, 5);
  EXPECT_EQ(report.succeeded, 2);
  EXPECT_EQ(report.cancelled_on_purpose, 1);
  EXPECT_EQ(report.errors_by_code, (std::map<std::string, int64_t>{{"RESOURCE_EXHAUSTED", 2}}));
  EXPECT_EQ(report.first_error, "the queue is full");
  EXPECT_EQ(report.prompt_tokens, 200);
  EXPECT_DOUBLE_EQ(report.cached_ratio, 0.32);
  EXPECT_EQ(report.completion_tokens, 9);
  EXPECT_DOUBLE_EQ(report.completion_tokens_per_second, 4.5);
  EXPECT_DOUBLE_EQ(report.requests_per_second, 1);
  EXPECT_EQ(report.time_to_first_token.count, 3);
  EXPECT_EQ(report.time_to_first_token.p50, absl::Milliseconds(20));
  EXPECT_EQ(report.inter_token_latency.count, 6);
  EXPECT_EQ(report.total.count, 2);
  EXPECT_EQ(report.total.max, absl::Milliseconds(200));
}

TEST(ReportTest, AnEmptyRunHasNoRatios) {
  const LatencyReport report = MakeReport({}, absl::ZeroDuration());
  EXPECT_EQ(report.requests, 0);
  EXPECT_EQ(report.cached_ratio, 0);
  EXPECT_EQ(report.requests_per_second, 0);
  EXPECT_FALSE(ToText(report).empty());
}

TEST(ReportTest, JsonAndTextNameWhatScriptsAndPeopleRead) {
  RequestOutcome refused;
  refused.status = absl::UnavailableError("draining");
  const LatencyReport report = MakeReport({Succeeded(10, 50), refused}, absl::Seconds(1));
  const nlohmann::ordered_json json = ToJson(report);
  EXPECT_EQ(json["succeeded"], 1);
  EXPECT_EQ(json["errors"]["UNAVAILABLE"], 1);
  EXPECT_EQ(json["first_error"], "draining");
  EXPECT_DOUBLE_EQ(json["cached_ratio"], 0.5);
  EXPECT_DOUBLE_EQ(json["time_to_first_token_seconds"]["p99"], 0.010);
  EXPECT_EQ(json["inter_token_latency_seconds"]["count"], 2);
  const std::string text = ToText(report);
  EXPECT_THAT(text, HasSubstr("1 UNAVAILABLE"));
  EXPECT_THAT(text, HasSubstr("50.0 % from cache"));
  EXPECT_THAT(text, HasSubstr("time to first token"));
}

}  // namespace
}  // namespace kvasir
