#include "server/telemetry/metrics.h"

#include <map>
#include <set>
#include <sstream>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kvasir {
namespace {

// The exposition as a map: `name{labels}` -> value. Checks the format on the way.
std::map<std::string, double> Read(const Metrics& metrics) {
  std::map<std::string, double> values;
  std::set<std::string> families;
  for (absl::string_view line : absl::StrSplit(metrics.Exposition(), '\n', absl::SkipEmpty())) {
    if (absl::StartsWith(line, "# TYPE ")) {
      const std::vector<std::string> words = absl::StrSplit(line, ' ');
      EXPECT_TRUE(families.insert(words[2]).second) << "two families: " << line;
    }
    if (absl::StartsWith(line, "#")) continue;
    const size_t space = line.rfind(' ');
    EXPECT_TRUE(
        values
            .emplace(std::string(line.substr(0, space)), std::stod(std::string(line.substr(space))))
            .second)
        << "two values: " << line;
  }
  return values;
}

EngineStats SomeStats() {
  EngineStats stats;
  stats.running = 3;
  stats.waiting = 5;
  stats.waiting_tokens = 700;
  stats.kv_capacity_bytes = 4096;
  stats.kv_live_bytes = 1024;
  stats.kv_cached_bytes = 2048;
  stats.kv_free_bytes = 1024;
  stats.kv_block_bytes = 512;
  stats.steps_total = 11;
  stats.kv_bytes_read_dense_total = 90;
  stats.kv_bytes_read_sparse_total = 9;
  stats.kv_bytes_read_if_dense_total = 120;
  stats.kv_state_live_bytes = 33;
  stats.kv_state_cached_bytes = 22;
  stats.state_bytes_read_total = 55;
  stats.weight_bytes_read_total = 56;
  stats.kv_evictions_total = 4;
  stats.sessions_idle = 2;
  stats.spill_bytes = 77;
  return stats;
}

ModelFacts FactsOf(const std::string& model) {
  ModelFacts facts;
  facts.model = model;
  facts.architecture = "LlamaForCausalLM";
  facts.sharing = "gqa+cla";
  facts.compute_type = "bf16";
  facts.kv_element_type = "bf16";
  facts.weight_format_bytes = {{"q4_k", 4000}, {"f32", 30}};
  facts.block_tokens = 32;
  facts.kv_bytes_per_token_resident = 1024;
  facts.kv_bytes_per_token_read = 2048;
  facts.limits = {{"max_running", 64}, {"max_spill_bytes", 1 << 30}};
  return facts;
}

FinishedEvent Outcome(absl::Status status, FinishReason reason) {
  FinishedEvent outcome;
  outcome.status = std::move(status);
  outcome.completions.resize(1);
  outcome.completions[0].reason = reason;
  outcome.usage.prompt_tokens = 10;
  outcome.usage.cached_tokens = 4;
  outcome.usage.completion_tokens = 7;
  outcome.usage.kv_bytes_peak = 100'000;
  outcome.usage.time_to_first_token = absl::Milliseconds(30);
  outcome.usage.total_time = absl::Seconds(2);
  return outcome;
}

TEST(MetricsTest, AModelThatGoesTakesItsSeriesAlong) {
  Metrics metrics({"acme"});
  const auto add = [&](const char* model) {
    ModelFacts facts;
    facts.model = model;
    metrics.AddModel(facts, SomeStats);
    metrics.OnGenerateStarted();
    metrics.OnGenerateDone(model, "acme", absl::StatusCode::kOk);
    metrics.OnRefused({.model = model, .tenant = "", .refusal = {RefusalReason::kQueueFull}});
    std::unique_ptr<EngineObserver> observer = metrics.MakeEngineObserver(model, "gqa");
    observer->OnSessionEvicted("ttl");
    observer->OnSpillDamaged("checksum");
    return observer;
  };
  const auto stays = add("stays");
  const std::map<std::string, double> before = Read(metrics);
  for (int i = 0; i < 3; ++i) {
    std::unique_ptr<EngineObserver> goes = add("goes");
    EXPECT_GT(Read(metrics).size(), before.size());
    EXPECT_EQ(metrics.SpillLosses(), 2);
    metrics.RemoveModel("goes");
    goes = nullptr;
    std::map<std::string, double> after = Read(metrics);
    // A call that ends later must not bring it back.
    metrics.OnGenerateStarted();
    metrics.OnGenerateDone("goes", "acme", absl::StatusCode::kCancelled);
    EXPECT_EQ(Read(metrics).count(
                  R"(kvasir_requests_total{code="CANCELLED",model="unknown",tenant="acme"})"),
              1u);
    for (const auto& [name, value] : Read(metrics)) {
      EXPECT_EQ(name.find("goes"), std::string::npos) << name;
    }
    for (const auto& [name, value] : before) EXPECT_EQ(after.count(name), 1u) << name;
  }
}

TEST(Metrics, CountsTheLifeOfARequest) {
  Metrics metrics({});
  const std::unique_ptr<EngineObserver> observer = metrics.MakeEngineObserver("m", "gqa");
  GenerationRequest request;
  observer->OnScheduled(request, 4, absl::Milliseconds(2));
  observer->OnFirstToken(request, absl::Milliseconds(30));
  observer->OnTokens(request, 1, absl::ZeroDuration());
  observer->OnTokens(request, 1, absl::Milliseconds(15));
  observer->OnTokens(request, 4, absl::Milliseconds(80));
  StepSummary step;
  step.prefill_tokens = 10;
  step.decode_tokens = 2;
  step.model_time = absl::Milliseconds(3);
  observer->OnStep(step);
  const FinishedEvent outcome = Outcome(absl::OkStatus(), FinishReason::kLength);
  RequestSummary summary;
  summary.request = &request;
  summary.outcome = &outcome;
  summary.prefill_time = absl::Milliseconds(28);
  summary.decode_time = absl::Milliseconds(1970);
  observer->OnFinished(summary);

  std::map<std::string, double> values = Read(metrics);
  const auto expect = [&](const std::string& key, double value) {
    ASSERT_EQ(values.count(key), 1u) << key;
    EXPECT_DOUBLE_EQ(values[key], value) << key;
  };
  expect("kvasir_queue_time_seconds_count{model=\"m\"}", 1);
  expect("kvasir_time_to_first_token_seconds_sum{model=\"m\"}", 0.03);
  expect("kvasir_time_to_first_token_seconds_bucket{model=\"m\",le=\"0.02\"}", 0);
  expect("kvasir_time_to_first_token_seconds_bucket{model=\"m\",le=\"0.04\"}", 1);
  // The first token has no gap; one gap of 15 ms, four of 20 ms.
  expect("kvasir_inter_token_latency_seconds_count{model=\"m\"}", 5);
  expect("kvasir_inter_token_latency_seconds_bucket{model=\"m\",le=\"0.01\"}", 0);
  expect("kvasir_inter_token_latency_seconds_bucket{model=\"m\",le=\"0.025\"}", 5);
  expect("kvasir_generation_tokens_total{model=\"m\",tenant=\"anonymous\"}", 6);
  expect("kvasir_prompt_tokens_total{model=\"m\",tenant=\"anonymous\"}", 10);
  expect("kvasir_prompt_tokens_cached_total{model=\"m\",tenant=\"anonymous\"}", 4);
  expect("kvasir_requests_finished_total{model=\"m\",reason=\"length\",tenant=\"anonymous\"}", 1);
  expect("kvasir_request_duration_seconds_sum{model=\"m\"}", 2);
  expect("kvasir_prefill_time_seconds_sum{model=\"m\"}", 0.028);
  expect("kvasir_decode_time_seconds_count{model=\"m\"}", 1);
  expect("kvasir_step_batch_tokens_sum{model=\"m\"}", 12);
  expect("kvasir_step_duration_seconds_sum{model=\"m\",phase=\"model\"}", 0.003);
  // 100000 bytes: above 64 KiB, below 256 KiB.
  expect("kvasir_kv_request_peak_bytes_bucket{model=\"m\",sharing=\"gqa\",le=\"65536\"}", 0);
  expect("kvasir_kv_request_peak_bytes_bucket{model=\"m\",sharing=\"gqa\",le=\"262144\"}", 1);
}

TEST(Metrics, CountsWhatGoesWrong) {
  Metrics metrics({});
  const std::unique_ptr<EngineObserver> observer = metrics.MakeEngineObserver("m", "gqa");
  GenerationRequest request;
  observer->OnPreemption(request, PreemptionReason::kKvExhausted);
  for (CancelCause cause : {CancelCause::kClient, CancelCause::kAbort, CancelCause::kDeadline,
                            CancelCause::kSlowReader, CancelCause::kShutdown}) {
    observer->OnCancelled(request, cause);
  }
  observer->OnSlowReaderPause(request);
  observer->OnSessionTurn(70'000);
  observer->OnSessionEvicted("ttl");
  observer->OnSpillDamaged("checksum");
  for (const absl::Status& status : {absl::CancelledError(""), absl::DeadlineExceededError(""),
                                     absl::ResourceExhaustedError(""), absl::InternalError("")}) {
    FinishedEvent outcome = Outcome(status, FinishReason::kCancelled);
    outcome.usage.time_to_first_token = absl::ZeroDuration();
    RequestSummary summary;
    summary.request = &request;
    summary.outcome = &outcome;
    observer->OnFinished(summary);
  }
  metrics.OnGenerateDone("m", "", absl::StatusCode::kOk);
  metrics.OnGenerateDone("m", "", absl::StatusCode::kDeadlineExceeded);
  metrics.OnGenerateDone("", "", absl::StatusCode::kNotFound);
  metrics.OnRefused({.model = "m", .tenant = "", .refusal = {RefusalReason::kQueueFull}});

  const std::map<std::string, double> values = Read(metrics);
  for (const char* key :
       {"kvasir_preemptions_total{model=\"m\",reason=\"kv_exhausted\"}",
        "kvasir_cancellations_total{cause=\"client\",model=\"m\"}",
        "kvasir_cancellations_total{cause=\"abort\",model=\"m\"}",
        "kvasir_cancellations_total{cause=\"deadline\",model=\"m\"}",
        "kvasir_cancellations_total{cause=\"slow_reader\",model=\"m\"}",
        "kvasir_cancellations_total{cause=\"shutdown\",model=\"m\"}",
        "kvasir_slow_reader_pauses_total{model=\"m\"}",
        "kvasir_session_evictions_total{model=\"m\",reason=\"ttl\"}",
        "kvasir_spill_damaged_total{model=\"m\"}",
        "kvasir_kv_session_bytes_count{model=\"m\",sharing=\"gqa\"}",
        "kvasir_requests_finished_total{model=\"m\",reason=\"cancelled\",tenant=\"anonymous\"}",
        "kvasir_requests_finished_total{model=\"m\",reason=\"deadline\",tenant=\"anonymous\"}",
        "kvasir_requests_finished_total{model=\"m\",reason=\"slow_reader\",tenant=\"anonymous\"}",
        "kvasir_requests_finished_total{model=\"m\",reason=\"error\",tenant=\"anonymous\"}",
        "kvasir_requests_total{code=\"OK\",model=\"m\",tenant=\"anonymous\"}",
        "kvasir_requests_total{code=\"DEADLINE_EXCEEDED\",model=\"m\",tenant=\"anonymous\"}",
        "kvasir_requests_total{code=\"NOT_FOUND\",model=\"unknown\",tenant=\"anonymous\"}",
        "kvasir_requests_rejected_total{model=\"m\",reason=\"queue_full\",tenant=\"anonymous\"}"}) {
    const auto found = values.find(key);
    ASSERT_NE(found, values.end()) << key;
    EXPECT_EQ(found->second, 1) << key;
  }
  // Requests that never reached a first token say nothing about prefill.
  EXPECT_EQ(values.at("kvasir_prefill_time_seconds_count{model=\"m\"}"), 0);
}

TEST(Metrics, ReadsEnginesAtScrapeTime) {
  Metrics metrics({});
  EngineStats first = SomeStats();
  EngineStats second;
  metrics.AddModel(
      FactsOf("a"), [&] { return first; },
      [] { return GrammarCounts{.reused = 5, .compiled = 3, .refused = 1}; });
  metrics.AddModel(FactsOf("b"), [&] { return second; });
  std::map<std::string, double> values = Read(metrics);
  EXPECT_EQ(values.at("kvasir_requests_running{model=\"a\"}"), 3);
  EXPECT_EQ(values.at("kvasir_requests_running{model=\"b\"}"), 0);
  EXPECT_EQ(values.at("kvasir_requests_waiting{model=\"a\"}"), 5);
  EXPECT_EQ(values.at("kvasir_grammar_compilations_total{model=\"a\",result=\"reused\"}"), 5);
  EXPECT_EQ(values.at("kvasir_grammar_compilations_total{model=\"a\",result=\"compiled\"}"), 3);
  EXPECT_EQ(values.at("kvasir_grammar_compilations_total{model=\"a\",result=\"refused\"}"), 1);
  EXPECT_EQ(values.at("kvasir_waiting_tokens{model=\"a\"}"), 700);
  EXPECT_EQ(values.at("kvasir_kv_pool_bytes{model=\"a\",state=\"live\"}"), 1024);
  EXPECT_EQ(values.at("kvasir_kv_pool_bytes{model=\"a\",state=\"cached\"}"), 2048);
  EXPECT_EQ(values.at("kvasir_kv_pool_bytes{model=\"a\",state=\"free\"}"), 1024);
  EXPECT_EQ(values.at("kvasir_kv_pool_capacity_bytes{model=\"a\"}"), 4096);
  EXPECT_EQ(values.at("kvasir_kv_blocks{model=\"a\",state=\"cached\"}"), 4);
  EXPECT_EQ(values.at("kvasir_kv_utilization_ratio{model=\"a\"}"), 0.25);
  EXPECT_EQ(values.at("kvasir_kv_utilization_ratio{model=\"b\"}"), 0);  // not NaN
  EXPECT_EQ(values.at("kvasir_model_weight_format_bytes{model=\"a\",format=\"q4_k\"}"), 4000);
  EXPECT_EQ(values.at("kvasir_model_weight_format_bytes{model=\"b\",format=\"f32\"}"), 30);
  EXPECT_EQ(
      values.at("kvasir_kv_bytes_per_token{model=\"a\",sharing=\"gqa+cla\",kind=\"resident\"}"),
      1024);
  EXPECT_EQ(values.at("kvasir_kv_bytes_per_token{model=\"a\",sharing=\"gqa+cla\",kind=\"read\"}"),
            2048);
  EXPECT_EQ(values.at("kvasir_kv_evictions_total{model=\"a\",reason=\"capacity\"}"), 4);
  EXPECT_EQ(values.at("kvasir_attention_kv_bytes_read_total{model=\"a\",path=\"dense\"}"), 90);
  EXPECT_EQ(values.at("kvasir_attention_kv_bytes_read_total{model=\"a\",path=\"sparq\"}"), 9);
  EXPECT_EQ(values.at("kvasir_attention_kv_bytes_read_if_dense_total{model=\"a\"}"), 120);
  EXPECT_EQ(values.at("kvasir_kv_state_bytes{model=\"a\",state=\"live\"}"), 33);
  EXPECT_EQ(values.at("kvasir_kv_state_bytes{model=\"a\",state=\"cached\"}"), 22);
  EXPECT_EQ(values.at("kvasir_state_bytes_read_total{model=\"a\"}"), 55);
  EXPECT_EQ(values.at("kvasir_weight_bytes_read_total{model=\"a\"}"), 56);
  EXPECT_EQ(values.at("kvasir_sessions{model=\"a\",state=\"idle\"}"), 2);
  EXPECT_EQ(values.at("kvasir_spill_bytes{model=\"a\"}"), 77);
  EXPECT_EQ(values.at("kvasir_model_limit{model=\"a\",limit=\"max_running\"}"), 64);
  EXPECT_EQ(values.at("kvasir_model_limit{model=\"a\",limit=\"max_spill_bytes\"}"), 1 << 30);
  EXPECT_EQ(
      values.at(
          "kvasir_kv_config_info{model=\"a\",block_size=\"32\",num_blocks=\"8\",dtype=\"bf16\","
          "sharing=\"gqa+cla\"}"),
      1);
  first.running = 9;
  EXPECT_EQ(Read(metrics).at("kvasir_requests_running{model=\"a\"}"), 9);
  metrics.RemoveModels();
  EXPECT_EQ(Read(metrics).count("kvasir_requests_running{model=\"a\"}"), 0u);
}

TEST(Metrics, ShowsTheProcess) {
  const std::map<std::string, double> values = Read(Metrics({}));
  EXPECT_GT(values.at("process_resident_memory_bytes"), 1 << 20);
  EXPECT_GT(values.at("process_virtual_memory_bytes"), values.at("process_resident_memory_bytes"));
  EXPECT_GE(values.at("process_cpu_seconds_total"), 0);
  EXPECT_GE(values.at("process_open_fds"), 3);
  EXPECT_GT(values.at("process_max_fds"), values.at("process_open_fds"));
  EXPECT_GE(values.at("process_threads"), 1);
  EXPECT_GT(values.at("kvasir_usable_memory_bytes"), values.at("process_resident_memory_bytes"));
  EXPECT_GE(values.at("kvasir_usable_cpus"), 1);
  const double now = absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch());
  EXPECT_LT(values.at("process_start_time_seconds"), now + 2);
  EXPECT_GT(values.at("process_start_time_seconds"), now - 3600);
}

TEST(Metrics, UnknownTenantsDoNotGrowTheExposition) {
  Metrics metrics({"acme"});
  const std::unique_ptr<EngineObserver> observer = metrics.MakeEngineObserver("m", "gqa");
  const FinishedEvent outcome = Outcome(absl::OkStatus(), FinishReason::kEos);
  const auto finish = [&](const std::string& tenant) {
    GenerationRequest request;
    request.tenant = tenant;
    observer->OnTokens(request, 1, absl::Milliseconds(1));
    RequestSummary summary;
    summary.request = &request;
    summary.outcome = &outcome;
    observer->OnFinished(summary);
    metrics.OnGenerateDone("m", tenant, absl::StatusCode::kOk);
    metrics.OnRefused({.model = "m", .tenant = tenant, .refusal = {RefusalReason::kQueueFull}});
  };
  for (const char* tenant : {"", "acme", "stranger"}) finish(tenant);
  const size_t series = Read(metrics).size();
  for (int i = 0; i < 100'000; ++i) finish(absl::StrCat("tenant-", i));
  const std::map<std::string, double> values = Read(metrics);
  EXPECT_EQ(values.size(), series);
  EXPECT_EQ(values.at("kvasir_requests_total{code=\"OK\",model=\"m\",tenant=\"other\"}"), 100'001);
  EXPECT_EQ(values.at("kvasir_requests_total{code=\"OK\",model=\"m\",tenant=\"acme\"}"), 1);
  EXPECT_EQ(values.at("kvasir_prompt_tokens_total{model=\"m\",tenant=\"other\"}"), 1'000'010);
}

TEST(Metrics, TenantsThatComeByAReloadGetTheirLabel) {
  Metrics metrics({"acme"});
  const std::unique_ptr<EngineObserver> observer = metrics.MakeEngineObserver("m", "gqa");
  GenerationRequest request;
  request.tenant = "late";
  observer->OnTokens(request, 2, absl::Milliseconds(1));
  metrics.AddTenants({"late", "acme"});
  observer->OnTokens(request, 3, absl::Milliseconds(1));
  const std::map<std::string, double> values = Read(metrics);
  EXPECT_EQ(values.at("kvasir_generation_tokens_total{model=\"m\",tenant=\"other\"}"), 2);
  EXPECT_EQ(values.at("kvasir_generation_tokens_total{model=\"m\",tenant=\"late\"}"), 3);
}

TEST(Metrics, CountsCallsInFlight) {
  Metrics metrics({});
  metrics.OnGenerateStarted();
  metrics.OnGenerateStarted();
  EXPECT_EQ(metrics.generate_calls_in_flight(), 2);
  metrics.OnGenerateDone("m", "", absl::StatusCode::kOk);
  metrics.OnGenerateDone("m", "", absl::StatusCode::kCancelled);
  EXPECT_EQ(metrics.generate_calls_in_flight(), 0);
}

TEST(Metrics, ShowsWhatTenantsHoldAndStrangersAsOne) {
  Metrics metrics({"acme"});
  const std::unique_ptr<EngineObserver> observer = metrics.MakeEngineObserver("m", "gqa");
  const TenantUsage nothing;
  const TenantUsage some = {.running = 2,
                            .waiting = 3,
                            .kv_bytes = 4096,
                            .sessions = 5,
                            .session_bytes = 1024,
                            .spilled_bytes = 77,
                            .kv_byte_seconds = 1.5};
  TenantUsage less = some;
  less.kv_bytes = 1024;
  less.kv_byte_seconds = 4;
  observer->OnTenantUsage("acme", nothing, some);
  observer->OnTenantUsage("acme", some, less);
  observer->OnTenantUsage("stranger", nothing, some);
  observer->OnTenantUsage("late", nothing, some);
  std::map<std::string, double> values = Read(metrics);
  const auto value = [&](const std::string& name, const std::string& tenant) {
    return values.at("kvasir_" + name + "{model=\"m\",tenant=\"" + tenant + "\"}");
  };
  EXPECT_EQ(value("kv_tenant_bytes", "acme"), 1024);
  EXPECT_EQ(value("kv_byte_seconds_total", "acme"), 4);
  EXPECT_EQ(value("tenant_sessions", "acme"), 5);
  EXPECT_EQ(value("tenant_session_bytes", "acme"), 1024);
  EXPECT_EQ(value("tenant_spill_bytes", "acme"), 77);
  EXPECT_EQ(value("kv_tenant_bytes", "other"), 8192);
  EXPECT_EQ(value("kv_byte_seconds_total", "other"), 3);
  EXPECT_EQ(value("kv_tenant_bytes", "anonymous"), 0);
  EXPECT_EQ(values.at("kvasir_tenant_requests{model=\"m\",state=\"running\",tenant=\"acme\"}"), 2);
  EXPECT_EQ(values.at("kvasir_tenant_requests{model=\"m\",state=\"waiting\",tenant=\"other\"}"), 6);

  // A reload names one of the strangers: what it holds moves to its own label.
  metrics.AddTenants({"late"});
  observer->OnTenantUsage("late", some, less);
  values = Read(metrics);
  EXPECT_EQ(value("kv_tenant_bytes", "other"), 4096);
  EXPECT_EQ(value("kv_tenant_bytes", "late"), 1024);
  TenantUsage gone;
  gone.kv_byte_seconds = 9;
  for (const char* tenant : {"acme", "late"}) observer->OnTenantUsage(tenant, less, gone);
  observer->OnTenantUsage("stranger", some, gone);
  for (const auto& [series, number] : Read(metrics)) {
    if (series.find("kvasir_tenant_") == 0 || series.find("kvasir_kv_tenant_bytes") == 0)
      EXPECT_EQ(number, 0) << series;
  }
}

TEST(Metrics, ShowsTheQuotasThatAreSet) {
  Metrics metrics({"acme", "free"});
  TenantPolicies policies;
  policies.others.limits.max_sessions = 3;
  policies.named.resize(2);
  policies.named[0].id = "acme";
  policies.named[0].limits.max_kv_bytes = 1 << 20;
  policies.named[1].id = "free";
  metrics.SetQuotas(policies);
  const auto quotas = [&] {
    std::map<std::string, double> shown;
    for (const auto& [series, value] : Read(metrics)) {
      if (series.find("kvasir_tenant_quota{") == 0) shown.emplace(series, value);
    }
    return shown;
  };
  EXPECT_EQ(quotas(),
            (std::map<std::string, double>{
                {"kvasir_tenant_quota{quota=\"max_sessions\",tenant=\"anonymous\"}", 3},
                {"kvasir_tenant_quota{quota=\"max_kv_bytes\",tenant=\"acme\"}", 1 << 20}}));
  metrics.SetQuotas({});
  EXPECT_THAT(quotas(), testing::IsEmpty());
}

}  // namespace
}  // namespace kvasir
