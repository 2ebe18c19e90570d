// Everything that /metrics shows: the registry, the counters of calls, and gauges read from the
// engines at scrape time.
//
// Events of one engine are counted by its ModelMetrics (model_metrics.h). Thread safe; models come
// and go. A scrape takes no lock of an engine: stats()
// reads atomics, and each histogram's own mutex is held for the copy of its buckets only.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/gauge.h"
#include "prometheus/labels.h"
#include "prometheus/metric_family.h"
#include "prometheus/registry.h"
#include "runtime/engine/engine.h"
#include "runtime/grammar/grammar_counts.h"
#include "server/frontend/call_observer.h"
#include "server/telemetry/metric_series.h"
#include "server/telemetry/tenant_labels.h"

namespace kvasir {

// What does not change about a served model.
struct ModelFacts {
  std::string model;  // served name
  std::string architecture;
  std::string sharing;  // "gqa+cla"
  std::string compute_type;
  std::string kv_element_type;
  int64_t parameters = 0;
  int64_t weight_bytes = 0;
  std::map<std::string, int64_t> weight_format_bytes;  // by format
  int64_t context_tokens = 0;
  int64_t block_tokens = 0;
  int64_t kv_bytes_per_token_resident = 0;
  int64_t kv_bytes_per_token_read = 0;
  std::map<std::string, int64_t> limits;  // of its configuration, by the field's name
};

class Metrics : public CallObserver {
 public:
  // `tenants`: those of the configuration; see TenantLabels. `vllm_names`: repeat the main families
  // under vLLM's names as well (vllm_metric_names.h).
  explicit Metrics(const std::vector<std::string>& tenants, bool vllm_names = false);

  // The observer that counts the events of one engine. `sharing` is ModelFacts::sharing. Lives no
  // longer than this. The model's series end with it, so there is one at a time for a name.
  std::unique_ptr<EngineObserver> MakeEngineObserver(const std::string& model,
                                                     const std::string& sharing);

  // Shows the facts and the engine's gauges. `stats` is called at every scrape, from the thread of
  // the scrape, until this object dies or RemoveModel() or RemoveModels() returns.
  // `grammars` likewise, when the model has a compiler of constraints.
  void AddModel(ModelFacts facts, std::function<EngineStats()> stats,
                std::function<GrammarCounts()> grammars = nullptr);

  // Forgets a model and every series of it but those of its engine observer, which end with that.
  // Calls of it that end later count for the model "unknown".
  void RemoveModel(const std::string& model);

  // What OnReload counts, and how a load of a model ends.
  static constexpr const char* kReloads[] = {"configuration", "grpc_tls", "http_tls"};
  static constexpr const char* kLoadResults[] = {"ready", "failed", "cancelled"};
  // A load at run time ended; `result` is one of kLoadResults.
  void OnModelLoad(const char* result);

  // Tenants that a reload of the configuration named.
  void AddTenants(const std::vector<std::string>& tenants) { tenants_.Add(tenants); }

  // Shows the quotas that are set, in the place of those before. Anonymous callers have those of
  // `policies.others`.
  void SetQuotas(const TenantPolicies& policies);

  // Sessions lost on their way to disk or back so far, of all models: kvasir_spill_damaged_total.
  int64_t SpillLosses() const;

  // Forgets the engines; call with the endpoint stopped, before they die.
  void RemoveModels() {
    absl::MutexLock lock(&models_mutex_);
    models_.clear();
  }

  void OnConnectionOpened() override { connections_.Increment(); }
  void OnConnectionClosed() override { connections_.Decrement(); }
  void OnConnectionRefused() override { connections_refused_.Increment(); }
  void OnReload(const char* what, bool taken) override;
  void OnGenerateStarted() override;
  void OnGenerateDone(const std::string& model, const std::string& tenant,
                      absl::StatusCode code) override;
  void OnRefused(const RefusedCall& call) override;

  // Generate calls that have started and not ended, streams that still deliver included.
  int64_t generate_calls_in_flight() const { return calls_in_flight_; }

  // Every family once, in Prometheus' text format. Empty when the system has no memory for it,
  // which is logged.
  std::string Exposition() const;

 private:
  struct Model {
    ModelFacts facts;
    std::function<EngineStats()> stats;
    std::function<GrammarCounts()> grammars;  // may be null
  };

  void CollectModels(std::vector<prometheus::MetricFamily>* families) const
      ABSL_SHARED_LOCKS_REQUIRED(models_mutex_);
  // Counts a call in a family with a series for each model; `labels`: the others.
  void CountCall(prometheus::Family<prometheus::Counter>& family, const std::string& model,
                 prometheus::Labels labels);

  TenantLabels tenants_;
  const bool vllm_names_;
  prometheus::Registry registry_;
  prometheus::Gauge& connections_;
  prometheus::Counter& connections_refused_;
  prometheus::Counter& scrapes_unanswered_;
  prometheus::Family<prometheus::Counter>& requests_;
  prometheus::Family<prometheus::Counter>& rejected_;
  prometheus::Family<prometheus::Counter>& reloads_;
  prometheus::Family<prometheus::Counter>& loads_;
  prometheus::Family<prometheus::Gauge>& quotas_;
  absl::Mutex quotas_mutex_;
  std::vector<prometheus::Gauge*> shown_quotas_ ABSL_GUARDED_BY(quotas_mutex_);

  mutable absl::Mutex models_mutex_;
  std::vector<Model> models_ ABSL_GUARDED_BY(models_mutex_);

  absl::Mutex calls_mutex_;
  std::map<std::string, MetricSeries> calls_of_models_ ABSL_GUARDED_BY(calls_mutex_);
  std::set<std::string> removed_ ABSL_GUARDED_BY(calls_mutex_);  // and not added again

  std::atomic<int64_t> calls_in_flight_{0};
};

}  // namespace kvasir
