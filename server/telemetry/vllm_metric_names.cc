#include "server/telemetry/vllm_metric_names.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "prometheus/metric_type.h"

namespace kvasir {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

struct Twin {
  const char* ours;
  const char* theirs;
};

// In vLLM's prefix-cache counters the unit is tokens as well. Its KV usage counts cached blocks
// that nobody uses as free, as our ratio of live bytes does. It has two names for the gaps between
// tokens, the second being the older.
constexpr Twin kTwins[] = {
    {"kvasir_requests_running", "vllm:num_requests_running"},
    {"kvasir_requests_waiting", "vllm:num_requests_waiting"},
    {"kvasir_kv_utilization_ratio", "vllm:kv_cache_usage_perc"},
    {"kvasir_kv_config_info", "vllm:cache_config_info"},
    {"kvasir_prompt_tokens_total", "vllm:prompt_tokens_total"},
    {"kvasir_prompt_tokens_total", "vllm:prefix_cache_queries_total"},
    {"kvasir_prompt_tokens_cached_total", "vllm:prompt_tokens_cached_total"},
    {"kvasir_prompt_tokens_cached_total", "vllm:prefix_cache_hits_total"},
    {"kvasir_generation_tokens_total", "vllm:generation_tokens_total"},
    {"kvasir_preemptions_total", "vllm:num_preemptions_total"},
    {"kvasir_requests_finished_total", "vllm:request_success_total"},
    {"kvasir_time_to_first_token_seconds", "vllm:time_to_first_token_seconds"},
    {"kvasir_inter_token_latency_seconds", "vllm:inter_token_latency_seconds"},
    {"kvasir_inter_token_latency_seconds", "vllm:time_per_output_token_seconds"},
    {"kvasir_request_duration_seconds", "vllm:e2e_request_latency_seconds"},
    {"kvasir_queue_time_seconds", "vllm:request_queue_time_seconds"},
    {"kvasir_prefill_time_seconds", "vllm:request_prefill_time_seconds"},
    {"kvasir_decode_time_seconds", "vllm:request_decode_time_seconds"},
    {"kvasir_request_prompt_tokens", "vllm:request_prompt_tokens"},
    {"kvasir_request_generation_tokens", "vllm:request_generation_tokens"},
    {"kvasir_step_batch_tokens", "vllm:iteration_tokens_total"},
};

// Labels that vLLM names otherwise; all that are not here are dropped.
constexpr Twin kLabels[] = {
    {"model", "model_name"},          {"reason", "finished_reason"}, {"block_size", "block_size"},
    {"num_blocks", "num_gpu_blocks"}, {"dtype", "cache_dtype"},
};

// vLLM's four ways to end.
std::string FinishedReason(const std::string& reason) {
  if (reason == "eos" || reason == "stop" || reason == "grammar") return "stop";
  if (reason == "length" || reason == "context_full") return "length";
  return reason == "error" ? "error" : "abort";
}

std::vector<ClientMetric::Label> TheirLabels(const MetricFamily& family,
                                             const ClientMetric& metric) {
  std::vector<ClientMetric::Label> labels;
  const bool keeps_reason = family.name == "kvasir_requests_finished_total";
  for (const ClientMetric::Label& label : metric.label) {
    for (const Twin& twin : kLabels) {
      if (label.name != twin.ours) continue;
      if (label.name == "reason") {
        if (keeps_reason) labels.push_back({twin.theirs, FinishedReason(label.value)});
      } else {
        labels.push_back({twin.theirs, label.value});
      }
    }
  }
  // vLLM numbers the engines of one model; here each model has one.
  labels.push_back({"engine", "0"});
  std::sort(labels.begin(), labels.end());
  return labels;
}

// Metrics that differ in dropped labels only are one: counts and gauges add up. Histograms have no
// such labels.
MetricFamily Renamed(const MetricFamily& family, const char* name) {
  MetricFamily renamed;
  renamed.name = name;
  renamed.help = family.help;
  renamed.type = family.type;
  for (const ClientMetric& metric : family.metric) {
    std::vector<ClientMetric::Label> labels = TheirLabels(family, metric);
    const auto same =
        std::find_if(renamed.metric.begin(), renamed.metric.end(),
                     [&](const ClientMetric& other) { return other.label == labels; });
    if (same == renamed.metric.end()) {
      renamed.metric.push_back(metric);
      renamed.metric.back().label = std::move(labels);
    } else {
      same->counter.value += metric.counter.value;
      same->gauge.value += metric.gauge.value;
    }
  }
  return renamed;
}

}  // namespace

std::vector<MetricFamily> UnderVllmNames(const std::vector<MetricFamily>& families) {
  std::vector<MetricFamily> renamed;
  for (const Twin& twin : kTwins) {
    for (const MetricFamily& family : families) {
      if (family.name == twin.ours) renamed.push_back(Renamed(family, twin.theirs));
    }
  }
  return renamed;
}

}  // namespace kvasir
