// What /metrics says with metrics.compat: vllm.
#include "server/telemetry/vllm_metric_names.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/telemetry/metrics.h"

namespace kvasir {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// One finished request of 10 prompt tokens, 4 of them cached, for each tenant.
std::string ExpositionAfterRequests(bool vllm_names) {
  Metrics metrics({"acme"}, vllm_names);
  const std::unique_ptr<EngineObserver> observer = metrics.MakeEngineObserver("m", "gqa");
  for (const char* tenant : {"", "acme"}) {
    for (const FinishReason reason : {FinishReason::kEos, FinishReason::kStop}) {
      GenerationRequest request;
      request.tenant = tenant;
      FinishedEvent outcome;
      outcome.completions.resize(1);
      outcome.completions[0].reason = reason;
      outcome.usage.prompt_tokens = 10;
      outcome.usage.cached_tokens = 4;
      RequestSummary summary;
      summary.request = &request;
      summary.outcome = &outcome;
      observer->OnFirstToken(request, absl::Milliseconds(30));
      observer->OnFinished(summary);
    }
  }
  ModelFacts facts;
  facts.model = "m";
  facts.block_tokens = 32;
  facts.kv_element_type = "bf16";
  metrics.AddModel(facts, [] {
    EngineStats stats;
    stats.running = 3;
    stats.waiting = 5;
    stats.kv_capacity_bytes = 4096;
    stats.kv_live_bytes = 1024;
    stats.kv_block_bytes = 512;
    return stats;
  });
  return metrics.Exposition();
}

TEST(VllmMetricNames, AreThereOnlyWhenAskedFor) {
  EXPECT_THAT(ExpositionAfterRequests(false), Not(HasSubstr("vllm:")));
}

// What the gateway's endpoint picker reads, label by label.
TEST(VllmMetricNames, GiveTheGatewayItsFiveFigures) {
  const std::string text = ExpositionAfterRequests(true);
  EXPECT_THAT(text, HasSubstr("vllm:num_requests_running{engine=\"0\",model_name=\"m\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("vllm:num_requests_waiting{engine=\"0\",model_name=\"m\"} 5\n"));
  EXPECT_THAT(text, HasSubstr("vllm:kv_cache_usage_perc{engine=\"0\",model_name=\"m\"} 0.25\n"));
  EXPECT_THAT(text, HasSubstr("vllm:cache_config_info{block_size=\"32\",cache_dtype=\"bf16\","
                              "engine=\"0\",model_name=\"m\",num_gpu_blocks=\"8\"} 1\n"));
}

TEST(VllmMetricNames, AddTenantsAndReasonsUp) {
  const std::string text = ExpositionAfterRequests(true);
  EXPECT_THAT(text,
              HasSubstr("vllm:prefix_cache_queries_total{engine=\"0\",model_name=\"m\"} 40\n"));
  EXPECT_THAT(text, HasSubstr("vllm:prefix_cache_hits_total{engine=\"0\",model_name=\"m\"} 16\n"));
  EXPECT_THAT(text, HasSubstr("vllm:request_success_total{engine=\"0\",finished_reason=\"stop\","
                              "model_name=\"m\"} 4\n"));
}

TEST(VllmMetricNames, RepeatHistogramsBucketByBucket) {
  const std::string text = ExpositionAfterRequests(true);
  EXPECT_THAT(text, HasSubstr("# TYPE vllm:time_to_first_token_seconds histogram\n"));
  for (const char* edge : {"le=\"0.02\"} 0\n", "le=\"0.04\"} 4\n", "le=\"+Inf\"} 4\n"}) {
    EXPECT_THAT(
        text, HasSubstr(absl::StrCat(
                  "vllm:time_to_first_token_seconds_bucket{engine=\"0\",model_name=\"m\",", edge)));
  }
}

}  // namespace
}  // namespace kvasir
