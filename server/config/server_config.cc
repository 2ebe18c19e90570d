#include "server/config/server_config.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/civil_time.h"
#include "base/cpu_topology.h"
#include "server/config/config_checker.h"
#include "server/config/grammar_config.h"
#include "server/config/model_path.h"
#include "server/config/text_config.h"

namespace kvasir {
namespace {

constexpr size_t kMaxModelNameBytes = 128;
// A week: longer than any stall, drain or grace makes sense, and far below what overflows
// milliseconds in 32 bits.
constexpr double kMaxSeconds = 7 * 24 * 3600.0;
constexpr double kMaxSessionSeconds = 366 * 24 * 3600.0;
// Far above every machine; keeps sums of sizes inside int64.
constexpr int64_t kMaxBytes = int64_t{1} << 50;

bool IsModelName(const std::string& name) {
  if (name.empty() || name.size() > kMaxModelNameBytes) return false;
  for (const char c : name) {
    if (!absl::ascii_isalnum(c) && !absl::StrContains("._/-", absl::string_view(&c, 1)))
      return false;
  }
  return true;
}

void CheckModelName(const std::string& path, const std::string& name,
                    std::map<std::string, std::string>* first_use, ConfigChecker* check) {
  if (!IsModelName(name)) {
    check->Fault(path + ".name",
                 absl::StrCat("is '", name.substr(0, kMaxModelNameBytes), "', but must be 1 to ",
                              kMaxModelNameBytes,
                              " characters of [A-Za-z0-9._/-]; give the model such a name"));
  }
  const auto [first, is_new] = first_use->emplace(name, path);
  if (!is_new) {
    check->Fault(path + ".name", absl::StrCat("is '", name, "', which ", first->second,
                                              " has already; give each model its own name"));
  }
}

void CheckKvCache(const config::v1::KvCacheConfig& kv, const std::string& path,
                  EngineConfig* engine, ConfigChecker* check) {
  engine->kv_element_type = check->OneOf<KvElementType>(path + ".element_type", kv.element_type(),
                                                        {{"bf16", KvElementType::kBf16},
                                                         {"f32", KvElementType::kF32},
                                                         {"f16", KvElementType::kF16},
                                                         {"int8", KvElementType::kInt8}});
  engine->block_tokens = check->Range(path + ".block_tokens", kv.block_tokens(), 16, 512,
                                      "32 suits most, and it must be a multiple of 16");
  if (kv.block_tokens() % 16 != 0) {
    check->Fault(path + ".block_tokens",
                 absl::StrCat("is ", kv.block_tokens(), ", but must be a multiple of 16; ",
                              kv.block_tokens() / 16 * 16 + 16, " is the next one"));
  }
  if (kv.has_capacity_bytes()) {
    engine->kv_capacity_bytes =
        check->Range(path + ".capacity_bytes", kv.capacity_bytes(), int64_t{1}, kMaxBytes,
                     "remove it to use what the memory leaves beside the weights");
  }
  engine->prefix_cache = kv.prefix_cache();
  engine->snapshot_interval_tokens =
      check->Range(path + ".state_snapshot_interval_tokens", kv.state_snapshot_interval_tokens(),
                   16, 1 << 20, "512 is usual");
  engine->max_snapshots = check->Range(path + ".max_state_snapshots", kv.max_state_snapshots(), 0,
                                       65536, "each takes the bytes of a sequence's state");
  engine->k_columns = check->OneOf<KvColumns>(
      path + ".sparq_keys", kv.sparq_keys(),
      {{"off", KvColumns::kOff}, {"same", KvColumns::kSame}, {"int8", KvColumns::kInt8}});
}

void CheckScheduler(const config::v1::SchedulerConfig& scheduler, const std::string& path,
                    EngineConfig* engine, ConfigChecker* check) {
  engine->max_step_tokens =
      check->Range(path + ".max_step_tokens", scheduler.max_step_tokens(), 1, 65536,
                   "smaller steps keep streams smooth, larger ones fill prompts faster");
  const int32_t step_tokens = std::max(1, scheduler.max_step_tokens());
  engine->prefill_chunk_tokens =
      check->Range(path + ".prefill_chunk_tokens", scheduler.prefill_chunk_tokens(), 1, step_tokens,
                   "a chunk is part of a step of max_step_tokens");
  engine->max_running = check->Range(
      path + ".max_running", scheduler.max_running(), 1, std::min(4096, step_tokens),
      "every running sequence needs room for its token in each step of max_step_tokens");
  engine->max_waiting =
      check->Range(path + ".max_waiting", scheduler.max_waiting(), 1, 1'000'000,
                   "beyond it requests are refused at once, so that clients can go elsewhere");
  engine->max_waiting_tokens =
      check->Range(path + ".max_waiting_tokens", scheduler.max_waiting_tokens(), int64_t{1},
                   int64_t{1} << 40, "it bounds the prompts that wait, in tokens");
  engine->stream_outbox_events =
      check->Range(path + ".stream_outbox", scheduler.stream_outbox(), 2, 65536,
                   "it bounds what a slow reader holds in memory");
  engine->stall_limit =
      absl::Seconds(check->Range(path + ".stall_limit_seconds", scheduler.stall_limit_seconds(),
                                 0.001, kMaxSeconds, "a stream not read for this long is aborted"));
  constexpr char kPriceHint[] = "tenants take turns by the price of their tokens over their weight";
  engine->token_prices.input = check->Range(path + ".input_token_price",
                                            scheduler.input_token_price(), 0.01, 100.0, kPriceHint);
  engine->token_prices.output = check->Range(
      path + ".output_token_price", scheduler.output_token_price(), 0.01, 100.0, kPriceHint);
}

void CheckSessions(const config::v1::SessionsConfig& sessions, const std::string& path,
                   EngineConfig* engine, ConfigChecker* check) {
  engine->max_sessions = check->Range(path + ".max_sessions", sessions.max_sessions(), 0,
                                      10'000'000, "0 refuses sessions");
  engine->session_ttl = absl::Seconds(check->Range(path + ".ttl_seconds", sessions.ttl_seconds(),
                                                   0.001, kMaxSessionSeconds,
                                                   "a session unused for this long is forgotten"));
  if (sessions.has_max_idle_bytes()) {
    engine->max_idle_session_bytes =
        check->Range(path + ".max_idle_bytes", sessions.max_idle_bytes(), int64_t{1}, kMaxBytes,
                     "remove it to take half of the pool");
  }
  engine->spill_directory = sessions.spill_directory();
  engine->share_spill_directory = sessions.share_spill_directory();
  if (engine->share_spill_directory && engine->spill_directory.empty()) {
    check->Fault(path + ".share_spill_directory",
                 "is true without a directory; set spill_directory to one that all replicas have");
  }
  engine->max_spill_bytes =
      check->Range(path + ".max_spill_bytes", sessions.max_spill_bytes(), int64_t{0}, kMaxBytes,
                   "it bounds the files in spill_directory");
  engine->max_spill_queue_bytes =
      check->Range(path + ".max_spill_queue_bytes", sessions.max_spill_queue_bytes(), int64_t{0},
                   kMaxBytes, "it bounds the memory of sessions on their way to disk");
  engine->max_prefix_spill_bytes = check->Range(
      path + ".max_prefix_spill_bytes", sessions.max_prefix_spill_bytes(), int64_t{0}, kMaxBytes,
      "it bounds the files of prefix blocks in spill_directory; 0 writes none");
  if (engine->max_prefix_spill_bytes > 0 &&
      (engine->spill_directory.empty() || !engine->prefix_cache)) {
    check->Fault(path + ".max_prefix_spill_bytes",
                 engine->spill_directory.empty()
                     ? "is set without a directory; set spill_directory"
                     : "is set, but kv_cache.prefix_cache is false; there are no prefix blocks");
  }
}

// Two engines in one folder would each drop what it takes for leftovers of its own.
void CheckSpillDirectories(const std::vector<ModelConfig>& models, ConfigChecker* check) {
  std::map<std::string, size_t> first_use;
  for (size_t i = 0; i < models.size(); ++i) {
    const std::string& directory = models[i].engine.spill_directory;
    if (directory.empty()) continue;
    const auto [first, is_new] = first_use.emplace(NormalFolder(directory), i);
    if (!is_new) {
      check->Fault(absl::StrCat("models[", i, "].sessions.spill_directory"),
                   absl::StrCat("is '", directory, "', which models[", first->second,
                                "] uses already; give each model its own folder"));
    }
  }
}

ModelConfig CheckModel(const config::v1::ModelConfig& model, const std::string& path,
                       std::map<std::string, std::string>* first_use, ConfigChecker* check) {
  ModelConfig checked;
  checked.name = model.name();
  checked.path = model.path();
  if (model.path().empty()) {
    check->Fault(path,
                 "has no path; set path to a Hugging Face folder (config.json, *.safetensors, "
                 "tokenizer.json)");
  } else {
    CheckModelName(path, model.name(), first_use, check);
    CheckModelPath(path + ".path", model.path(), check);
  }
  checked.compute_type = check->OneOf<ComputeType>(
      path + ".compute_type", model.compute_type(),
      {{"bf16", ComputeType::kBf16}, {"f32", ComputeType::kF32}, {"int8", ComputeType::kInt8}});
  checked.weights = model.weights();
  checked.quantize_to =
      check->OneOf<std::optional<WeightFormat>>(path + ".weights", model.weights(),
                                                {{"stored", std::nullopt},
                                                 {"int4", WeightFormat::kInt4Group32},
                                                 {"q8_0", WeightFormat::kQ8_0},
                                                 {"q4_0", WeightFormat::kQ4_0},
                                                 {"q4_k", WeightFormat::kQ4_K}});
  checked.default_max_tokens =
      check->Range(path + ".default_max_tokens", model.default_max_tokens(), 1, 1 << 24,
                   "it holds for requests that do not say max_tokens");
  checked.chat_template_file = model.chat_template();
  checked.tool_format = model.tool_format();  // its name is checked where formats are known
  checked.template_time = model.template_time();
  absl::CivilSecond time;
  if (!checked.template_time.empty() && !absl::ParseCivilTime(checked.template_time, &time)) {
    check->Fault(path + ".template_time",
                 absl::StrCat("is '", checked.template_time,
                              "', but must be a local time such as 2026-11-28T09:30:00"));
  }
  checked.engine.model_name = model.name();
  if (model.has_max_context_tokens()) {
    checked.engine.max_context_tokens =
        check->Range(path + ".max_context_tokens", model.max_context_tokens(), 1, 1 << 24,
                     "remove it to take the model's own context");
  }
  CheckKvCache(model.kv_cache(), path + ".kv_cache", &checked.engine, check);
  CheckScheduler(model.scheduler(), path + ".scheduler", &checked.engine, check);
  CheckSessions(model.sessions(), path + ".sessions", &checked.engine, check);
  checked.grammar = CheckGrammar(model.grammar(), path + ".grammar", check);
  checked.attention = CheckModelAttention(
      model.attention(), checked.engine.k_columns != KvColumns::kOff, path + ".attention", check);
  checked.speculation = CheckModelSpeculation(model.speculation(), path + ".speculation", check);
  CheckModelPath(path + ".speculation.draft", checked.speculation.draft_model, check);
  checked.engine.draft_kv_capacity_bytes = checked.speculation.draft_kv_bytes;
  return checked;
}

HostPort CheckAddress(const std::string& path, const std::string& value, ConfigChecker* check) {
  absl::StatusOr<HostPort> address = ParseHostPort(value);
  if (address.ok()) return *std::move(address);
  check->Fault(path, address.status().message());
  return {};
}

void CheckServer(const config::v1::ServerConfig& server, DaemonConfig* checked,
                 ConfigChecker* check) {
  checked->listen = CheckAddress("server.listen", server.listen(), check);
  checked->drain_timeout =
      absl::Seconds(check->Range("server.drain_timeout_seconds", server.drain_timeout_seconds(),
                                 0.0, kMaxSeconds, "0 cancels running streams at once"));
  checked->drain_grace =
      absl::Seconds(check->Range("server.drain_grace_seconds", server.drain_grace_seconds(), 0.0,
                                 kMaxSeconds, "load balancers notice NOT_SERVING meanwhile"));
  checked->reflection = server.reflection();
  checked->max_message_bytes =
      check->Range("server.max_message_bytes", server.max_message_bytes(), 1024, 1 << 30,
                   "text needs little; 4MiB is gRPC's own limit");
  checked->max_connections =
      check->Range("server.max_connections", server.max_connections(), 1, 1'000'000,
                   "each takes two file descriptors and, idle, some 20 KiB");
  checked->max_concurrent_streams =
      check->Range("server.max_concurrent_streams", server.max_concurrent_streams(), 1, 1'000'000,
                   "it holds per connection");
  checked->max_metadata_bytes =
      check->Range("server.max_metadata_bytes", server.max_metadata_bytes(), 1024, 1 << 20,
                   "a key and some ids need little");
  checked->handshake_timeout = absl::Seconds(
      check->Range("server.handshake_timeout_seconds", server.handshake_timeout_seconds(), 0.1,
                   3600.0, "slow networks need some seconds"));
  checked->tls = CheckTls(server.tls(), check);
}

void CheckHttp(const config::v1::HttpConfig& http, DaemonConfig* checked, ConfigChecker* check) {
  if (http.listen() != "off") {
    checked->http_listen = CheckAddress("http.listen", http.listen(), check);
    if (checked->http_listen->port != 0 &&
        checked->http_listen->ToString() == checked->listen.ToString()) {
      check->Fault("http.listen",
                   absl::StrCat("is '", http.listen(),
                                "', which server.listen has already; give it its own port, or "
                                "'off'"));
    }
  }
  checked->http_max_connections =
      check->Range("http.max_connections", http.max_connections(), 1, 1'000'000,
                   "each takes a file descriptor and, idle, some 10 KiB");
  checked->http_max_body_bytes =
      check->Range("http.max_body_bytes", http.max_body_bytes(), 1024, 64 << 20,
                   "a prompt of 100,000 tokens has some 400 KiB");
  checked->http_idle_timeout =
      absl::Seconds(check->Range("http.idle_timeout_seconds", http.idle_timeout_seconds(), 1.0,
                                 86400.0, "clients keep connections for their next request"));
  constexpr int kMaxOrigins = 64;
  if (http.cors_origins_size() > kMaxOrigins) {
    check->Fault("http.cors_origins", absl::StrCat(http.cors_origins_size(),
                                                   " are too many, the limit is ", kMaxOrigins));
  }
  for (const std::string& origin : http.cors_origins()) {
    if (origin != "*" && (!absl::StrContains(origin, "://") || absl::EndsWith(origin, "/"))) {
      check->Fault("http.cors_origins",
                   absl::StrCat("has '", origin.substr(0, 128),
                                "', which is no origin; write https://chat.example, without a "
                                "path, or *"));
    }
    checked->http_cors_origins.push_back(origin);
  }
}

void FillModelDefaults(config::v1::ModelConfig* model) {
  const EngineConfig defaults;
  if (model->name().empty()) model->set_name(DefaultModelName(model->path()));
  if (model->compute_type().empty()) model->set_compute_type(ComputeTypeName(ComputeType::kBf16));
  if (model->weights().empty()) model->set_weights("stored");
  if (!model->has_default_max_tokens())
    model->set_default_max_tokens(ModelConfig().default_max_tokens);

  config::v1::KvCacheConfig* kv = model->mutable_kv_cache();
  // f32 compute is the oracle: a cache of bf16 would put its rounding back in.
  if (kv->element_type().empty()) {
    kv->set_element_type(model->compute_type() == ComputeTypeName(ComputeType::kF32) ? "f32"
                                                                                     : "bf16");
  }
  if (!kv->has_block_tokens()) kv->set_block_tokens(defaults.block_tokens);
  if (!kv->has_prefix_cache()) kv->set_prefix_cache(defaults.prefix_cache);
  if (kv->sparq_keys().empty()) kv->set_sparq_keys("off");
  if (!kv->has_state_snapshot_interval_tokens())
    kv->set_state_snapshot_interval_tokens(defaults.snapshot_interval_tokens);
  if (!kv->has_max_state_snapshots()) kv->set_max_state_snapshots(defaults.max_snapshots);

  config::v1::SchedulerConfig* scheduler = model->mutable_scheduler();
  if (!scheduler->has_max_step_tokens()) scheduler->set_max_step_tokens(defaults.max_step_tokens);
  if (!scheduler->has_prefill_chunk_tokens()) {
    // A chunk never exceeds a step, so a small step alone is a complete statement.
    scheduler->set_prefill_chunk_tokens(
        std::max(1, std::min(defaults.prefill_chunk_tokens, scheduler->max_step_tokens())));
  }
  if (!scheduler->has_max_running()) {
    scheduler->set_max_running(
        std::max(1, std::min(defaults.max_running, scheduler->max_step_tokens())));
  }
  if (!scheduler->has_max_waiting()) scheduler->set_max_waiting(defaults.max_waiting);
  if (!scheduler->has_max_waiting_tokens())
    scheduler->set_max_waiting_tokens(defaults.max_waiting_tokens);
  if (!scheduler->has_stream_outbox()) scheduler->set_stream_outbox(defaults.stream_outbox_events);
  if (!scheduler->has_stall_limit_seconds()) {
    scheduler->set_stall_limit_seconds(absl::ToDoubleSeconds(defaults.stall_limit));
  }
  if (!scheduler->has_input_token_price())
    scheduler->set_input_token_price(defaults.token_prices.input);
  if (!scheduler->has_output_token_price())
    scheduler->set_output_token_price(defaults.token_prices.output);

  FillGrammarDefaults(model->mutable_grammar());
  FillAttentionDefaults(model->mutable_attention());
  FillSpeculationDefaults(model->mutable_speculation());

  config::v1::SessionsConfig* sessions = model->mutable_sessions();
  if (!sessions->has_max_sessions()) sessions->set_max_sessions(defaults.max_sessions);
  if (!sessions->has_ttl_seconds())
    sessions->set_ttl_seconds(absl::ToDoubleSeconds(defaults.session_ttl));
  if (!sessions->has_max_spill_bytes()) sessions->set_max_spill_bytes(defaults.max_spill_bytes);
  if (!sessions->has_max_spill_queue_bytes())
    sessions->set_max_spill_queue_bytes(defaults.max_spill_queue_bytes);
  if (!sessions->has_max_prefix_spill_bytes())
    sessions->set_max_prefix_spill_bytes(defaults.max_prefix_spill_bytes);
}

}  // namespace

const char* ComputeTypeName(ComputeType type) {
  switch (type) {
    case ComputeType::kF32:
      return "f32";
    case ComputeType::kBf16:
      return "bf16";
    case ComputeType::kInt8:
      return "int8";
  }
  return "";
}

void FillDefaults(config::v1::Config* config) {
  for (config::v1::ModelConfig& model : *config->mutable_models()) FillModelDefaults(&model);

  config::v1::ServerConfig* server = config->mutable_server();
  // Loopback: nothing is open to the network unless the operator says so.
  if (server->listen().empty()) server->set_listen("127.0.0.1:50051");
  if (!server->has_drain_timeout_seconds()) server->set_drain_timeout_seconds(30);
  if (!server->has_drain_grace_seconds()) server->set_drain_grace_seconds(0);
  if (!server->has_reflection()) server->set_reflection(true);
  if (!server->has_max_message_bytes()) server->set_max_message_bytes(4 << 20);
  if (!server->has_max_connections()) server->set_max_connections(4096);
  if (!server->has_max_concurrent_streams()) server->set_max_concurrent_streams(1024);
  if (!server->has_max_metadata_bytes()) server->set_max_metadata_bytes(16 << 10);
  if (!server->has_handshake_timeout_seconds()) server->set_handshake_timeout_seconds(20);
  FillTenantDefaults(config);

  config::v1::HttpConfig* http = config->mutable_http();
  if (http->listen().empty()) http->set_listen("127.0.0.1:8080");
  if (!http->has_max_connections()) http->set_max_connections(4096);
  if (!http->has_max_body_bytes()) http->set_max_body_bytes(8 << 20);
  if (!http->has_idle_timeout_seconds()) http->set_idle_timeout_seconds(75);
  FillTextDefaults(config->mutable_text());

  if (config->cpu_target().empty()) config->set_cpu_target("auto");
  if (config->metrics().listen().empty()) config->mutable_metrics()->set_listen("127.0.0.1:9464");
  if (config->metrics().compat().empty()) config->mutable_metrics()->set_compat("none");
  if (config->logging().level().empty()) config->mutable_logging()->set_level("info");
  if (config->logging().format().empty()) config->mutable_logging()->set_format("text");
}

absl::StatusOr<DaemonConfig> Validate(const config::v1::Config& config,
                                      const ConfigOrigins& origins) {
  ConfigChecker check(origins);
  DaemonConfig checked;

  if (config.models().empty()) {
    check.Fault(
        "models",
        "is empty, so there is nothing to serve; add --model NAME=DIR, or models: in the file");
  }
  const int usable_cpus = UsableCpus();
  checked.threads = config.has_threads()
                        ? check.Range("threads", config.threads(), 1, 1024,
                                      absl::StrCat("this process may use ", usable_cpus, " CPUs"))
                        : usable_cpus;
  checked.cpu_target = check.OneOf<CpuTarget>("cpu_target", config.cpu_target(),
                                              {{"auto", CpuTarget::kAuto},
                                               {"avx512_bf16", CpuTarget::kAvx512Bf16},
                                               {"avx512", CpuTarget::kAvx512},
                                               {"avx2", CpuTarget::kAvx2}});
  std::map<std::string, std::string> first_use;  // model name -> its path in the config
  for (int i = 0; i < config.models_size(); ++i) {
    checked.models.push_back(
        CheckModel(config.models(i), absl::StrCat("models[", i, "]"), &first_use, &check));
    checked.models.back().engine.threads = checked.threads;
  }

  CheckSpillDirectories(checked.models, &check);
  CheckServer(config.server(), &checked, &check);
  std::vector<std::string> model_names;
  for (const ModelConfig& model : checked.models) model_names.push_back(model.name);
  checked.tenants = CheckTenants(config, model_names, &check);
  CheckHttp(config.http(), &checked, &check);
  checked.text = CheckText(config.text(), usable_cpus, &check);
  const bool loopback =
      checked.listen.IsLocal() && (!checked.http_listen || checked.http_listen->IsLocal());
  checked.authentication = CheckAuthentication(config, loopback, &check);
  for (ModelConfig& model : checked.models) {
    model.engine.scrub_freed_blocks = !checked.tenants.empty();
    model.engine.tenants = PoliciesOf(checked.tenants, checked.authentication);
  }
  if (config.metrics().listen() != "off") {
    checked.metrics_listen = CheckAddress("metrics.listen", config.metrics().listen(), &check);
    if (checked.listen.port != 0 &&
        checked.metrics_listen->ToString() == checked.listen.ToString()) {
      check.Fault(
          "metrics.listen",
          absl::StrCat("is '", config.metrics().listen(),
                       "', which server.listen has already; give it its own port, or 'off'"));
    }
    if (checked.http_listen && checked.http_listen->port != 0 &&
        checked.metrics_listen->ToString() == checked.http_listen->ToString()) {
      check.Fault("metrics.listen",
                  absl::StrCat("is '", config.metrics().listen(),
                               "', which http.listen has already; give it its own port, or 'off', "
                               "for http.listen serves /metrics too"));
    }
  }
  checked.vllm_metric_names = check.OneOf<bool>("metrics.compat", config.metrics().compat(),
                                                {{"none", false}, {"vllm", true}});
  checked.log_level = check.OneOf<LogLevel>("logging.level", config.logging().level(),
                                            {{"info", LogLevel::kInfo},
                                             {"debug", LogLevel::kDebug},
                                             {"warning", LogLevel::kWarning},
                                             {"error", LogLevel::kError}});
  checked.log_format =
      check.OneOf<LogFormat>("logging.format", config.logging().format(),
                             {{"text", LogFormat::kText}, {"json", LogFormat::kJson}});
  if (absl::Status status = check.status(); !status.ok()) return status;
  return checked;
}

}  // namespace kvasir
