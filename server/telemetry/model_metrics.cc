#include "server/telemetry/model_metrics.h"

#include "server/frontend/request_outcome.h"

namespace kvasir {
namespace {

using prometheus::BuildCounter;
using prometheus::BuildGauge;
using prometheus::BuildHistogram;
using prometheus::Counter;
using prometheus::Family;
using prometheus::Gauge;
using prometheus::Histogram;
using prometheus::Labels;
using prometheus::Registry;
using Buckets = Histogram::BucketBoundaries;

// The edges of vLLM's histograms, so that panels and SLO queries made for it port over; a CPU needs
// the long tail.
const Buckets& TimeToFirstTokenEdges() {
  static const Buckets* const edges =
      new Buckets{.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
                  1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560};
  return *edges;
}

const Buckets& InterTokenEdges() {
  // vLLM begins at 10 ms; small models on a CPU are faster, so three finer edges stand in front.
  static const Buckets* const edges =
      new Buckets{.001, .0025, .005, .01, .025, .05, .075, .1, .15, .2, .3,
                  .4,   .5,    .75,  1,   2.5,  5,   7.5,  10, 20,  40, 80};
  return *edges;
}

const Buckets& RequestTimeEdges() {
  // vLLM begins at 0.3 s; queue and prefill of small models end earlier, so finer edges stand in
  // front.
  static const Buckets* const edges =
      new Buckets{.005, .01, .025, .05, .1, .3, .5, .8,  1,   1.5, 2,   2.5,  5,
                  10,   15,  20,   30,  40, 50, 60, 120, 240, 480, 960, 1920, 7680};
  return *edges;
}

const Buckets& TokenCountEdges() {
  static const Buckets* const edges = new Buckets{
      1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000};
  return *edges;
}

const Buckets& BatchTokenEdges() {
  static const Buckets* const edges =
      new Buckets{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};
  return *edges;
}

const Buckets& StepTimeEdges() {
  // From a scheduling pass (tens of microseconds) to a large prefill step, about 1-2.5-5 per
  // decade.
  static const Buckets* const edges =
      new Buckets{.00001, .000025, .00005, .0001, .00025, .0005, .001, .0025, .005,
                  .01,    .025,    .05,    .1,    .25,    .5,    1,    2.5,   10};
  return *edges;
}

const Buckets& KvBytesEdges() {
  // Powers of 4 from one block of a small model to a long context of a large one (64 KiB to 64
  // GiB).
  static const Buckets* const edges = [] {
    auto* powers = new Buckets;
    for (double bytes = 64.0 * 1024; bytes <= 64.0 * 1024 * 1024 * 1024; bytes *= 4)
      powers->push_back(bytes);
    return powers;
  }();
  return *edges;
}

// Registering a family that another model registered already gives the same one.
Family<Counter>& CounterFamily(Registry* registry, const char* name, const char* help) {
  return BuildCounter().Name(name).Help(help).Register(*registry);
}

Family<Gauge>& GaugeFamily(Registry* registry, const char* name, const char* help) {
  return BuildGauge().Name(name).Help(help).Register(*registry);
}

Histogram& MakeHistogram(MetricSeries* series, Registry* registry, const char* name,
                         const char* help, const Labels& labels, const Buckets& edges) {
  return series->Add(BuildHistogram().Name(name).Help(help).Register(*registry), labels, edges);
}

Histogram& StepPhase(MetricSeries* series, Registry* registry, const std::string& model,
                     const char* phase) {
  return MakeHistogram(series, registry, "kvasir_step_duration_seconds",
                       "Time of one engine step, by phase", {{"model", model}, {"phase", phase}},
                       StepTimeEdges());
}

}  // namespace

ModelMetrics::ModelMetrics(const std::string& model, const std::string& sharing,
                           const TenantLabels* tenants, Registry* registry)
    : model_(model),
      tenants_(*tenants),
      registry_(registry),
      finished_(CounterFamily(registry, "kvasir_requests_finished_total",
                              "Requests that left an engine, by how they ended")),
      session_evictions_(CounterFamily(registry, "kvasir_session_evictions_total",
                                       "Idle sessions whose KV left the pool")),
      preemptions_(series_.Add(
          CounterFamily(registry, "kvasir_preemptions_total",
                        "Sequences whose blocks were taken for others and computed again"),
          {{"model", model}, {"reason", "kv_exhausted"}})),
      slow_reader_pauses_(
          series_.Add(CounterFamily(registry, "kvasir_slow_reader_pauses_total",
                                    "Times that a sequence paused because its stream was not read"),
                      {{"model", model}})),
      spill_damaged_(series_.Add(
          CounterFamily(registry, "kvasir_spill_damaged_total",
                        "Spilled sessions lost: not written, not readable, damaged, or of another "
                        "model"),
          {{"model", model}})),
      time_to_first_token_(MakeHistogram(&series_, registry, "kvasir_time_to_first_token_seconds",
                                         "Arrival of a request to its first token",
                                         {{"model", model}}, TimeToFirstTokenEdges())),
      inter_token_latency_(MakeHistogram(&series_, registry, "kvasir_inter_token_latency_seconds",
                                         "Every gap between two tokens of a sequence",
                                         {{"model", model}}, InterTokenEdges())),
      request_duration_(MakeHistogram(&series_, registry, "kvasir_request_duration_seconds",
                                      "Arrival of a request to its end", {{"model", model}},
                                      RequestTimeEdges())),
      queue_time_(MakeHistogram(&series_, registry, "kvasir_queue_time_seconds",
                                "Arrival of a request to its first scheduling", {{"model", model}},
                                RequestTimeEdges())),
      prefill_time_(MakeHistogram(&series_, registry, "kvasir_prefill_time_seconds",
                                  "First scheduling to first token", {{"model", model}},
                                  RequestTimeEdges())),
      decode_time_(MakeHistogram(&series_, registry, "kvasir_decode_time_seconds",
                                 "First token to the end", {{"model", model}}, RequestTimeEdges())),
      request_prompt_tokens_(MakeHistogram(&series_, registry, "kvasir_request_prompt_tokens",
                                           "Prompt tokens per request", {{"model", model}},
                                           TokenCountEdges())),
      request_generation_tokens_(
          MakeHistogram(&series_, registry, "kvasir_request_generation_tokens",
                        "Generated tokens per request", {{"model", model}}, TokenCountEdges())),
      step_batch_tokens_(MakeHistogram(&series_, registry, "kvasir_step_batch_tokens",
                                       "Tokens per engine step, decode and prefill",
                                       {{"model", model}}, BatchTokenEdges())),
      step_schedule_(StepPhase(&series_, registry, model, "schedule")),
      step_model_(StepPhase(&series_, registry, model, "model")),
      step_sample_(StepPhase(&series_, registry, model, "sample")),
      step_output_(StepPhase(&series_, registry, model, "output")),
      kv_request_peak_bytes_(MakeHistogram(&series_, registry, "kvasir_kv_request_peak_bytes",
                                           "Most KV pool bytes that a request held at once",
                                           {{"model", model}, {"sharing", sharing}},
                                           KvBytesEdges())),
      kv_session_bytes_(MakeHistogram(&series_, registry, "kvasir_kv_session_bytes",
                                      "KV pool bytes of a session at the end of a turn",
                                      {{"model", model}, {"sharing", sharing}}, KvBytesEdges())) {
  Family<Counter>& cancellations = CounterFamily(registry, "kvasir_cancellations_total",
                                                 "Requests ended before they were done, by cause");
  for (size_t cause = 0; cause < cancellations_.size(); ++cause) {
    cancellations_[cause] = &series_.Add(
        cancellations,
        {{"model", model}, {"cause", CancelCauseName(static_cast<CancelCause>(cause))}});
  }

  AddTenants();
}

void ModelMetrics::AddTenants() {
  // The registry finds a family again by its name.
  Family<Counter>& prompt =
      CounterFamily(registry_, "kvasir_prompt_tokens_total", "Prompt tokens of finished requests");
  Family<Counter>& cached = CounterFamily(
      registry_, "kvasir_prompt_tokens_cached_total",
      "Of the prompt tokens, those whose K/V came from the prefix cache or a session");
  Family<Counter>& generated =
      CounterFamily(registry_, "kvasir_generation_tokens_total", "Tokens generated");
  Family<Counter>& byte_seconds = CounterFamily(registry_, "kvasir_kv_byte_seconds_total",
                                                "kvasir_kv_tenant_bytes integrated over time");
  Family<Gauge>& requests =
      GaugeFamily(registry_, "kvasir_tenant_requests",
                  "Requests of a tenant: running (scheduled at least once), waiting (not yet)");
  Family<Gauge>& kv_bytes =
      GaugeFamily(registry_, "kvasir_kv_tenant_bytes",
                  "KV pool bytes that a tenant's requests and idle sessions hold; blocks that they "
                  "share count once, and over all tenants they sum to the live bytes");
  Family<Gauge>& sessions = GaugeFamily(registry_, "kvasir_tenant_sessions",
                                        "Sessions of a tenant, wherever their KV is");
  Family<Gauge>& session_bytes = GaugeFamily(
      registry_, "kvasir_tenant_session_bytes",
      "KV pool bytes of a tenant's idle sessions; blocks that forks share count for each");
  Family<Gauge>& spill_bytes = GaugeFamily(registry_, "kvasir_tenant_spill_bytes",
                                           "Bytes of a tenant's spilled sessions on disk");
  const std::vector<std::string> all = tenants_.all();
  for (size_t i = per_tenant_.size(); i < all.size(); ++i) {
    const Labels labels = {{"model", model_}, {"tenant", all[i]}};
    const auto in_state = [&](const char* state) {
      return &series_.Add(requests, {{"model", model_}, {"tenant", all[i]}, {"state", state}});
    };
    per_tenant_.push_back({.prompt_tokens = &series_.Add(prompt, labels),
                           .cached_tokens = &series_.Add(cached, labels),
                           .generation_tokens = &series_.Add(generated, labels),
                           .kv_byte_seconds = &series_.Add(byte_seconds, labels),
                           .running = in_state("running"),
                           .waiting = in_state("waiting"),
                           .kv_bytes = &series_.Add(kv_bytes, labels),
                           .sessions = &series_.Add(sessions, labels),
                           .session_bytes = &series_.Add(session_bytes, labels),
                           .spill_bytes = &series_.Add(spill_bytes, labels)});
  }
}

void ModelMetrics::OnScheduled(const GenerationRequest& request, int32_t cached_tokens,
                               absl::Duration queue_time) {
  queue_time_.Observe(absl::ToDoubleSeconds(queue_time));
}

void ModelMetrics::OnFirstToken(const GenerationRequest& request, absl::Duration since_arrival) {
  time_to_first_token_.Observe(absl::ToDoubleSeconds(since_arrival));
}

void ModelMetrics::OnTokens(const GenerationRequest& request, int32_t tokens, absl::Duration gap) {
  CountersOf(request).generation_tokens->Increment(tokens);
  // A sequence's first token has no gap before it.
  if (gap <= absl::ZeroDuration()) return;
  const double seconds_per_token = absl::ToDoubleSeconds(gap) / tokens;
  for (int32_t i = 0; i < tokens; ++i) inter_token_latency_.Observe(seconds_per_token);
}

void ModelMetrics::OnPreemption(const GenerationRequest& request, PreemptionReason reason) {
  preemptions_.Increment();
}

void ModelMetrics::OnCancelled(const GenerationRequest& request, CancelCause cause) {
  cancellations_[static_cast<size_t>(cause)]->Increment();
}

void ModelMetrics::OnSlowReaderPause(const GenerationRequest& request) {
  slow_reader_pauses_.Increment();
}

void ModelMetrics::OnFinished(const RequestSummary& summary) {
  const RequestUsage& usage = summary.outcome->usage;
  TenantCounters& counters = CountersOf(*summary.request);
  counters.prompt_tokens->Increment(usage.prompt_tokens);
  counters.cached_tokens->Increment(usage.cached_tokens);
  series_
      .Add(finished_, {{"model", model_},
                       {"tenant", tenants_.LabelOf(summary.request->tenant)},
                       {"reason", OutcomeReason(*summary.outcome)}})
      .Increment();
  request_duration_.Observe(absl::ToDoubleSeconds(usage.total_time));
  request_prompt_tokens_.Observe(usage.prompt_tokens);
  request_generation_tokens_.Observe(usage.completion_tokens);
  kv_request_peak_bytes_.Observe(static_cast<double>(usage.kv_bytes_peak));
  // A request that ended before its first token has neither phase.
  if (usage.time_to_first_token > absl::ZeroDuration()) {
    prefill_time_.Observe(absl::ToDoubleSeconds(summary.prefill_time));
    decode_time_.Observe(absl::ToDoubleSeconds(summary.decode_time));
  }
}

void ModelMetrics::TenantCounters::Add(const TenantUsage& usage, int sign) {
  running->Increment(static_cast<double>(sign * usage.running));
  waiting->Increment(static_cast<double>(sign * usage.waiting));
  kv_bytes->Increment(static_cast<double>(sign * usage.kv_bytes));
  sessions->Increment(static_cast<double>(sign * usage.sessions));
  session_bytes->Increment(static_cast<double>(sign * usage.session_bytes));
  spill_bytes->Increment(static_cast<double>(sign * usage.spilled_bytes));
}

void ModelMetrics::OnTenantUsage(const std::string& tenant, const TenantUsage& before,
                                 const TenantUsage& now) {
  const size_t index = IndexOf(tenant);
  const auto shown = shown_under_.emplace(tenant, index).first;
  per_tenant_[shown->second].Add(before, -1);
  per_tenant_[index].Add(now, 1);
  per_tenant_[index].kv_byte_seconds->Increment(now.kv_byte_seconds - before.kv_byte_seconds);
  shown->second = index;
  if (now.holds_nothing()) shown_under_.erase(shown);
}

void ModelMetrics::OnStep(const StepSummary& step) {
  step_batch_tokens_.Observe(step.prefill_tokens + step.decode_tokens);
  step_schedule_.Observe(absl::ToDoubleSeconds(step.schedule_time));
  step_model_.Observe(absl::ToDoubleSeconds(step.model_time));
  step_sample_.Observe(absl::ToDoubleSeconds(step.sample_time));
  step_output_.Observe(absl::ToDoubleSeconds(step.output_time));
}

void ModelMetrics::OnSessionTurn(int64_t session_bytes) {
  kv_session_bytes_.Observe(static_cast<double>(session_bytes));
}

void ModelMetrics::OnSessionEvicted(const char* reason) {
  series_.Add(session_evictions_, {{"model", model_}, {"reason", reason}}).Increment();
}

void ModelMetrics::OnSpillDamaged(const std::string& message) { spill_damaged_.Increment(); }

}  // namespace kvasir
