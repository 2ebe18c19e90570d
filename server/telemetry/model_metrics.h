// Counts and times the events of one engine. All metrics are looked up once, at construction, so
// that an event costs an addition. Called from the engine thread; the registry it fills outlives it
// and may be scraped meanwhile. Its series end with it.
#pragma once

#include <array>
#include <map>
#include <string>
#include <vector>

#include "prometheus/counter.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "runtime/engine/engine_observer.h"
#include "server/telemetry/metric_series.h"
#include "server/telemetry/tenant_labels.h"

namespace kvasir {

class ModelMetrics : public EngineObserver {
 public:
  // `model` and `sharing` become labels. `registry` and `tenants` must outlive this.
  ModelMetrics(const std::string& model, const std::string& sharing, const TenantLabels* tenants,
               prometheus::Registry* registry);

  void OnScheduled(const GenerationRequest& request, int32_t cached_tokens,
                   absl::Duration queue_time) override;
  void OnFirstToken(const GenerationRequest& request, absl::Duration since_arrival) override;
  void OnTokens(const GenerationRequest& request, int32_t tokens, absl::Duration gap) override;
  void OnPreemption(const GenerationRequest& request, PreemptionReason reason) override;
  void OnCancelled(const GenerationRequest& request, CancelCause cause) override;
  void OnSlowReaderPause(const GenerationRequest& request) override;
  void OnFinished(const RequestSummary& summary) override;
  void OnTenantUsage(const std::string& tenant, const TenantUsage& before,
                     const TenantUsage& now) override;
  void OnStep(const StepSummary& step) override;
  void OnSessionTurn(int64_t session_bytes) override;
  void OnSessionEvicted(const char* reason) override;
  void OnSpillDamaged(const std::string& message) override;

 private:
  struct TenantCounters {
    prometheus::Counter* prompt_tokens;
    prometheus::Counter* cached_tokens;
    prometheus::Counter* generation_tokens;
    prometheus::Counter* kv_byte_seconds;
    prometheus::Gauge* running;
    prometheus::Gauge* waiting;
    prometheus::Gauge* kv_bytes;
    prometheus::Gauge* sessions;
    prometheus::Gauge* session_bytes;
    prometheus::Gauge* spill_bytes;

    // Adds what a tenant holds, or takes it back (sign -1): strangers share one label.
    void Add(const TenantUsage& usage, int sign);
  };

  size_t IndexOf(const std::string& tenant) {
    const size_t index = tenants_.IndexOf(tenant);
    if (index >= per_tenant_.size()) AddTenants();
    return index;
  }
  TenantCounters& CountersOf(const GenerationRequest& request) {
    return per_tenant_[IndexOf(request.tenant)];
  }
  // Gives every label that came since the last call its counters.
  void AddTenants();

  const std::string model_;
  const TenantLabels& tenants_;

  prometheus::Registry* const registry_;
  MetricSeries series_;

  // Indexed like TenantLabels::all(). Grows in the engine thread only.
  std::vector<TenantCounters> per_tenant_;
  // Under which label the gauges count a tenant that holds something: a reload may name it
  // meanwhile.
  std::map<std::string, size_t> shown_under_;
  prometheus::Family<prometheus::Counter>& finished_;
  prometheus::Family<prometheus::Counter>& session_evictions_;
  prometheus::Counter& preemptions_;
  std::array<prometheus::Counter*, 5> cancellations_;  // by CancelCause
  prometheus::Counter& slow_reader_pauses_;
  prometheus::Counter& spill_damaged_;

  prometheus::Histogram& time_to_first_token_;
  prometheus::Histogram& inter_token_latency_;
  prometheus::Histogram& request_duration_;
  prometheus::Histogram& queue_time_;
  prometheus::Histogram& prefill_time_;
  prometheus::Histogram& decode_time_;
  prometheus::Histogram& request_prompt_tokens_;
  prometheus::Histogram& request_generation_tokens_;
  prometheus::Histogram& step_batch_tokens_;
  prometheus::Histogram& step_schedule_;
  prometheus::Histogram& step_model_;
  prometheus::Histogram& step_sample_;
  prometheus::Histogram& step_output_;
  prometheus::Histogram& kv_request_peak_bytes_;
  prometheus::Histogram& kv_session_bytes_;
};

}  // namespace kvasir
