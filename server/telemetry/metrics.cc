#include "server/telemetry/metrics.h"

#include <algorithm>
#include <new>
#include <sstream>
#include <utility>

#include "absl/status/status.h"
#include "prometheus/gauge.h"
#include "prometheus/text_serializer.h"
#include "server/telemetry/logging.h"
#include "server/telemetry/model_metrics.h"
#include "server/telemetry/process_metrics.h"
#include "server/telemetry/vllm_metric_names.h"

namespace kvasir {
namespace {

using prometheus::ClientMetric;
using prometheus::Counter;
using prometheus::MetricFamily;
using prometheus::MetricType;
using LabelPairs = std::vector<std::pair<std::string, std::string>>;

// What a call counts for when it names no model that is there.
constexpr char kUnknownModel[] = "unknown";

// One family under construction; all its metrics are of one type.
class FamilyBuilder {
 public:
  FamilyBuilder(const char* name, const char* help, MetricType type) {
    family_.name = name;
    family_.help = help;
    family_.type = type;
  }

  void Add(const LabelPairs& labels, double value) {
    ClientMetric metric;
    for (const auto& [name, text] : labels) metric.label.push_back({name, text});
    (family_.type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = value;
    family_.metric.push_back(std::move(metric));
  }

  MetricFamily Take() && { return std::move(family_); }

 private:
  MetricFamily family_;
};

double Ratio(int64_t part, int64_t whole) {
  return whole == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole);
}

// Metrics of one model that are one number of EngineStats each.
struct SimpleMetric {
  const char* name;
  const char* help;
  MetricType type;
  int64_t EngineStats::*value;
  double unit = 1;  // of the value, in that of the metric
};

constexpr SimpleMetric kSimpleMetrics[] = {
    {"kvasir_requests_running", "Sequences being generated", MetricType::Gauge,
     &EngineStats::running},
    {"kvasir_requests_waiting", "Requests waiting to be scheduled", MetricType::Gauge,
     &EngineStats::waiting},
    {"kvasir_waiting_tokens", "Prompt tokens of waiting requests", MetricType::Gauge,
     &EngineStats::waiting_tokens},
    {"kvasir_kv_pool_capacity_bytes", "Size of the KV pool: live + cached + free",
     MetricType::Gauge, &EngineStats::kv_capacity_bytes},
    {"kvasir_kv_block_bytes", "Size of one block of the KV pool", MetricType::Gauge,
     &EngineStats::kv_block_bytes},
    {"kvasir_spill_bytes", "Bytes of spilled sessions on disk", MetricType::Gauge,
     &EngineStats::spill_bytes},
    {"kvasir_prefix_spill_bytes", "Bytes of prefix blocks on disk", MetricType::Gauge,
     &EngineStats::prefix_spill_bytes},
    {"kvasir_prefix_spill_files", "Prefix blocks on disk, one file each", MetricType::Gauge,
     &EngineStats::prefix_spill_files},
    {"kvasir_prefix_spill_failures_total",
     "Prefix blocks that could not be written, read or removed, and files refused",
     MetricType::Counter, &EngineStats::prefix_spill_failed_total},
    {"kvasir_grammar_masks_total", "Masks of tokens that a grammar allows next, computed",
     MetricType::Counter, &EngineStats::grammar_masks_total},
    {"kvasir_grammar_mask_seconds_total",
     "Time that computing these masks took, most of it beside the forward pass",
     MetricType::Counter, &EngineStats::grammar_mask_nanoseconds_total, 1e-9},
    {"kvasir_grammar_forced_tokens_total",
     "Generated tokens that a grammar left no choice for, computed without a pass each",
     MetricType::Counter, &EngineStats::forced_tokens_total},
    {"kvasir_steps_total", "Engine steps", MetricType::Counter, &EngineStats::steps_total},
    {"kvasir_speculation_drafted_tokens_total", "Guessed tokens that steps checked",
     MetricType::Counter, &EngineStats::drafted_tokens_total},
    {"kvasir_speculation_accepted_tokens_total", "Guessed tokens that became part of a completion",
     MetricType::Counter, &EngineStats::accepted_tokens_total},
    {"kvasir_attention_kv_bytes_read_if_dense_total",
     "Bytes of K/V that attention would have read without SparQ", MetricType::Counter,
     &EngineStats::kv_bytes_read_if_dense_total},
    {"kvasir_weight_bytes_read_total",
     "Packed bytes of weights that steps read: of experts, of those that were chosen",
     MetricType::Counter, &EngineStats::weight_bytes_read_total},
    {"kvasir_state_bytes_read_total", "Bytes of recurrent states that steps read and replaced",
     MetricType::Counter, &EngineStats::state_bytes_read_total},
};

// Metrics of one model with one more label whose values are numbers of EngineStats.
struct SplitMetric {
  const char* name;
  const char* help;
  MetricType type;
  const char* label;
  std::vector<std::pair<const char*, int64_t EngineStats::*>> values;
};

const std::vector<SplitMetric>& SplitMetrics() {
  static const auto* const metrics = new std::vector<SplitMetric>{
      {"kvasir_kv_pool_bytes",
       "Bytes of the KV pool: live (held by requests and sessions), cached (findable, can be "
       "evicted), free",
       MetricType::Gauge,
       "state",
       {{"live", &EngineStats::kv_live_bytes},
        {"cached", &EngineStats::kv_cached_bytes},
        {"free", &EngineStats::kv_free_bytes}}},
      {"kvasir_kv_state_bytes",
       "Of kvasir_kv_pool_bytes, recurrent states: live (of requests and sessions), cached "
       "(snapshots); the rest is K/V",
       MetricType::Gauge,
       "state",
       {{"live", &EngineStats::kv_state_live_bytes},
        {"cached", &EngineStats::kv_state_cached_bytes}}},
      {"kvasir_sessions",
       "Sessions by state",
       MetricType::Gauge,
       "state",
       {{"busy", &EngineStats::sessions_busy},
        {"idle", &EngineStats::sessions_idle},
        {"spilled", &EngineStats::sessions_spilled},
        {"evicted", &EngineStats::sessions_evicted},
        {"restoring", &EngineStats::sessions_restoring}}},
      {"kvasir_kv_evictions_total",
       "Cached blocks given to others",
       MetricType::Counter,
       "reason",
       {{"capacity", &EngineStats::kv_evictions_total}}},
      {"kvasir_prefix_spill_blocks_total",
       "Prefix blocks on their way to disk and back: written when evicted, read when found again, "
       "pushed_out by newer ones, dropped (not written: queue full, or paused after a failure)",
       MetricType::Counter,
       "event",
       {{"written", &EngineStats::prefix_spill_written_total},
        {"read", &EngineStats::prefix_spill_read_total},
        {"pushed_out", &EngineStats::prefix_spill_pushed_out_total},
        {"dropped", &EngineStats::prefix_spill_dropped_total}}},
      {"kvasir_attention_kv_bytes_read_total",
       "Bytes of K/V that attention read, by path",
       MetricType::Counter,
       "path",
       {{"dense", &EngineStats::kv_bytes_read_dense_total},
        {"sparq", &EngineStats::kv_bytes_read_sparse_total}}},
  };
  return *metrics;
}

}  // namespace

Metrics::Metrics(const std::vector<std::string>& tenants, bool vllm_names)
    : tenants_(tenants),
      vllm_names_(vllm_names),
      connections_(prometheus::BuildGauge()
                       .Name("kvasir_connections")
                       .Help("Open connections of the gRPC port")
                       .Register(registry_)
                       .Add({})),
      connections_refused_(
          prometheus::BuildCounter()
              .Name("kvasir_connections_refused_total")
              .Help("Connections closed at once: over server.max_connections, or no descriptors")
              .Register(registry_)
              .Add({})),
      scrapes_unanswered_(
          prometheus::BuildCounter()
              .Name("kvasir_scrapes_unanswered_total")
              .Help("Scrapes that the system gave no memory for: answered with 503 instead")
              .Register(registry_)
              .Add({})),
      requests_(prometheus::BuildCounter()
                    .Name("kvasir_requests_total")
                    .Help("Generate calls that ended, by gRPC status code")
                    .Register(registry_)),
      rejected_(prometheus::BuildCounter()
                    .Name("kvasir_requests_rejected_total")
                    .Help("Calls refused, by why")
                    .Register(registry_)),
      reloads_(prometheus::BuildCounter()
                   .Name("kvasir_reloads_total")
                   .Help("Changed files that a reload took, or refused and kept the old set")
                   .Register(registry_)),
      loads_(prometheus::BuildCounter()
                 .Name("kvasir_model_loads_total")
                 .Help("Loads of models while the daemon serves, by how they ended")
                 .Register(registry_)),
      quotas_(prometheus::BuildGauge()
                  .Name("kvasir_tenant_quota")
                  .Help("Quotas that are set (tenants[].limits), each of one model")
                  .Register(registry_)) {
  // From zero on, so that the first one shows as an increase.
  for (const char* what : kReloads) {
    for (const char* result : {"taken", "refused"}) {
      reloads_.Add({{"what", what}, {"result", result}});
    }
  }
  for (const char* result : kLoadResults) loads_.Add({{"result", result}});
  prometheus::BuildGauge()
      .Name("kvasir_build_info")
      .Help("Version of the daemon; always 1")
      .Register(registry_)
      .Add({{"version", KVASIR_VERSION}, {"compiler", __VERSION__}})
      .Set(1);
}

std::unique_ptr<EngineObserver> Metrics::MakeEngineObserver(const std::string& model,
                                                            const std::string& sharing) {
  return std::make_unique<ModelMetrics>(model, sharing, &tenants_, &registry_);
}

void Metrics::AddModel(ModelFacts facts, std::function<EngineStats()> stats,
                       std::function<GrammarCounts()> grammars) {
  {
    absl::MutexLock lock(&calls_mutex_);
    removed_.erase(facts.model);
  }
  absl::MutexLock lock(&models_mutex_);
  models_.push_back({std::move(facts), std::move(stats), std::move(grammars)});
}

void Metrics::RemoveModel(const std::string& model) {
  {
    absl::MutexLock lock(&models_mutex_);
    models_.erase(std::remove_if(models_.begin(), models_.end(),
                                 [&](const Model& each) { return each.facts.model == model; }),
                  models_.end());
  }
  absl::MutexLock lock(&calls_mutex_);
  calls_of_models_.erase(model);
  removed_.insert(model);
}

void Metrics::SetQuotas(const TenantPolicies& policies) {
  absl::MutexLock lock(&quotas_mutex_);
  for (prometheus::Gauge* gauge : shown_quotas_) quotas_.Remove(gauge);
  shown_quotas_.clear();
  const auto show = [&](const std::string& tenant,
                        const TenantLimits& limits) ABSL_EXCLUSIVE_LOCKS_REQUIRED(quotas_mutex_) {
    for (const auto& [name, limit] : TenantLimits::kNames) {
      if (limits.*limit == TenantLimits::kUnlimited) continue;
      shown_quotas_.push_back(
          &quotas_.Add({{"tenant", tenants_.LabelOf(tenant)}, {"quota", name}}));
      shown_quotas_.back()->Set(static_cast<double>(limits.*limit));
    }
  };
  show("", policies.others.limits);
  for (const TenantPolicy& tenant : policies.named) show(tenant.id, tenant.limits);
}

void Metrics::OnReload(const char* what, bool taken) {
  reloads_.Add({{"what", what}, {"result", taken ? "taken" : "refused"}}).Increment();
}

void Metrics::OnModelLoad(const char* result) { loads_.Add({{"result", result}}).Increment(); }

void Metrics::OnGenerateStarted() { ++calls_in_flight_; }

void Metrics::OnGenerateDone(const std::string& model, const std::string& tenant,
                             absl::StatusCode code) {
  --calls_in_flight_;
  CountCall(requests_, model,
            {{"tenant", tenants_.LabelOf(tenant)}, {"code", absl::StatusCodeToString(code)}});
}

void Metrics::OnRefused(const RefusedCall& call) {
  CountCall(rejected_, call.model,
            {{"tenant", tenants_.LabelOf(call.tenant)},
             {"reason", RefusalReasonName(call.refusal.reason)}});
}

void Metrics::CountCall(prometheus::Family<Counter>& family, const std::string& model,
                        prometheus::Labels labels) {
  absl::MutexLock lock(&calls_mutex_);
  const std::string shown = model.empty() || removed_.count(model) > 0 ? kUnknownModel : model;
  labels["model"] = shown;
  calls_of_models_[shown].Add(family, labels).Increment();
}

void Metrics::CollectModels(std::vector<MetricFamily>* families) const {
  // One reading per engine and scrape, so that the figures of a scrape belong together as far as
  // atomics allow.
  std::vector<EngineStats> stats;
  stats.reserve(models_.size());
  for (const Model& model : models_) stats.push_back(model.stats());

  for (const SimpleMetric& metric : kSimpleMetrics) {
    FamilyBuilder family(metric.name, metric.help, metric.type);
    for (size_t i = 0; i < models_.size(); ++i) {
      family.Add({{"model", models_[i].facts.model}},
                 metric.unit * static_cast<double>(stats[i].*metric.value));
    }
    families->push_back(std::move(family).Take());
  }
  for (const SplitMetric& metric : SplitMetrics()) {
    FamilyBuilder family(metric.name, metric.help, metric.type);
    for (size_t i = 0; i < models_.size(); ++i) {
      for (const auto& [label, value] : metric.values) {
        family.Add({{"model", models_[i].facts.model}, {metric.label, label}},
                   static_cast<double>(stats[i].*value));
      }
    }
    families->push_back(std::move(family).Take());
  }

  FamilyBuilder grammars("kvasir_grammar_compilations_total",
                         "Constraints that requests brought: compiled already (reused), compiled, "
                         "or refused by the compiler",
                         MetricType::Counter);
  for (const Model& model : models_) {
    const GrammarCounts counts = model.grammars ? model.grammars() : GrammarCounts();
    for (const auto& [result, value] :
         {std::pair("reused", counts.reused), std::pair("compiled", counts.compiled),
          std::pair("refused", counts.refused)}) {
      grammars.Add({{"model", model.facts.model}, {"result", result}}, static_cast<double>(value));
    }
  }
  families->push_back(std::move(grammars).Take());

  FamilyBuilder utilization("kvasir_kv_utilization_ratio",
                            "Live bytes of the KV pool over its capacity, 0 to 1",
                            MetricType::Gauge);
  FamilyBuilder blocks("kvasir_kv_blocks", "Blocks of the KV pool by state", MetricType::Gauge);
  FamilyBuilder bytes_per_token(
      "kvasir_kv_bytes_per_token",
      "KV bytes of one token: resident in the pool, and read by each decode step",
      MetricType::Gauge);
  FamilyBuilder model_info("kvasir_model_info", "A served model; always 1", MetricType::Gauge);
  FamilyBuilder kv_config_info("kvasir_kv_config_info", "The KV pool of a model; always 1",
                               MetricType::Gauge);
  FamilyBuilder format_bytes("kvasir_model_weight_format_bytes",
                             "Packed weights in memory by the format that they are stored in",
                             MetricType::Gauge);
  FamilyBuilder limits("kvasir_model_limit",
                       "Limits that a model serves under, by the field of its configuration",
                       MetricType::Gauge);
  FamilyBuilder weight_bytes("kvasir_model_weight_bytes", "Packed weights in memory",
                             MetricType::Gauge);
  for (size_t i = 0; i < models_.size(); ++i) {
    const ModelFacts& facts = models_[i].facts;
    const EngineStats& now = stats[i];
    utilization.Add({{"model", facts.model}}, Ratio(now.kv_live_bytes, now.kv_capacity_bytes));
    blocks.Add({{"model", facts.model}, {"state", "live"}},
               Ratio(now.kv_live_bytes, now.kv_block_bytes));
    blocks.Add({{"model", facts.model}, {"state", "cached"}},
               Ratio(now.kv_cached_bytes, now.kv_block_bytes));
    blocks.Add({{"model", facts.model}, {"state", "free"}},
               Ratio(now.kv_free_bytes, now.kv_block_bytes));
    bytes_per_token.Add({{"model", facts.model}, {"sharing", facts.sharing}, {"kind", "resident"}},
                        static_cast<double>(facts.kv_bytes_per_token_resident));
    bytes_per_token.Add({{"model", facts.model}, {"sharing", facts.sharing}, {"kind", "read"}},
                        static_cast<double>(facts.kv_bytes_per_token_read));
    model_info.Add({{"model", facts.model},
                    {"architecture", facts.architecture},
                    {"sharing", facts.sharing},
                    {"compute_type", facts.compute_type},
                    {"parameters", std::to_string(facts.parameters)},
                    {"context_tokens", std::to_string(facts.context_tokens)}},
                   1);
    const int64_t num_blocks =
        now.kv_block_bytes == 0 ? 0 : now.kv_capacity_bytes / now.kv_block_bytes;
    kv_config_info.Add({{"model", facts.model},
                        {"block_size", std::to_string(facts.block_tokens)},
                        {"num_blocks", std::to_string(num_blocks)},
                        {"dtype", facts.kv_element_type},
                        {"sharing", facts.sharing}},
                       1);
    weight_bytes.Add({{"model", facts.model}}, static_cast<double>(facts.weight_bytes));
    for (const auto& [format, bytes] : facts.weight_format_bytes) {
      format_bytes.Add({{"model", facts.model}, {"format", format}}, static_cast<double>(bytes));
    }
    for (const auto& [limit, value] : facts.limits) {
      limits.Add({{"model", facts.model}, {"limit", limit}}, static_cast<double>(value));
    }
  }
  for (FamilyBuilder* family : {&utilization, &blocks, &bytes_per_token, &model_info,
                                &kv_config_info, &weight_bytes, &format_bytes, &limits}) {
    families->push_back(std::move(*family).Take());
  }
}

std::string Metrics::Exposition() const {
  try {
    std::vector<MetricFamily> families = registry_.Collect();
    {
      absl::ReaderMutexLock lock(&models_mutex_);
      if (!models_.empty()) CollectModels(&families);
    }
    if (vllm_names_) {
      for (MetricFamily& family : UnderVllmNames(families)) families.push_back(std::move(family));
    }
    for (MetricFamily& family : CollectProcessMetrics()) families.push_back(std::move(family));
    // A stream that gets no memory cuts the text off, and says so only to who asks.
    std::ostringstream out;
    prometheus::TextSerializer().Serialize(out, families);
    if (out.good()) return out.str();
  } catch (const std::bad_alloc&) {
  }
  scrapes_unanswered_.Increment();
  LogWarning("a scrape is not answered: there is no memory for its text", {});
  return "";
}

int64_t Metrics::SpillLosses() const {
  double losses = 0;
  for (const prometheus::MetricFamily& family : registry_.Collect()) {
    if (family.name != "kvasir_spill_damaged_total") continue;
    for (const prometheus::ClientMetric& metric : family.metric) losses += metric.counter.value;
  }
  return static_cast<int64_t>(losses);
}

}  // namespace kvasir
