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
#include "base/thread_placement.h"
#include "server/config/config_checker.h"
#include "server/config/model_path.h"
#include "server/config/settings.h"

namespace kvasir {
namespace {

constexpr size_t kMaxModelNameBytes = 128;

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
  engine->block_tokens = kv.block_tokens();
  if (kv.block_tokens() % 16 != 0) {
    check->Fault(path + ".block_tokens",
                 absl::StrCat("is ", kv.block_tokens(), ", but must be a multiple of 16; ",
                              kv.block_tokens() / 16 * 16 + 16, " is the next one"));
  }
  engine->kv_capacity_bytes = kv.capacity_bytes();
  engine->prefix_cache = kv.prefix_cache();
  engine->snapshot_interval_tokens = kv.state_snapshot_interval_tokens();
  engine->max_snapshots = kv.max_state_snapshots();
  engine->k_columns = check->OneOf<KvColumns>(
      path + ".sparq_keys", kv.sparq_keys(),
      {{"off", KvColumns::kOff}, {"same", KvColumns::kSame}, {"int8", KvColumns::kInt8}});
}

void CheckScheduler(const config::v1::SchedulerConfig& scheduler, const std::string& path,
                    EngineConfig* engine, ConfigChecker* check) {
  engine->max_step_tokens = scheduler.max_step_tokens();
  const int32_t step_tokens = std::max(1, scheduler.max_step_tokens());
  engine->prefill_chunk_tokens =
      check->Range(path + ".prefill_chunk_tokens", scheduler.prefill_chunk_tokens(), 1, step_tokens,
                   "a chunk is part of a step of max_step_tokens");
  engine->max_running = check->Range(
      path + ".max_running", scheduler.max_running(), 1, std::min(4096, step_tokens),
      "every running sequence needs room for its token in each step of max_step_tokens");
  engine->max_waiting = static_cast<int32_t>(scheduler.max_waiting());
  engine->max_waiting_tokens = scheduler.max_waiting_tokens();
  engine->stream_outbox_events = scheduler.stream_outbox();
  engine->stall_limit = absl::Seconds(scheduler.stall_limit_seconds());
  engine->token_prices.input = scheduler.input_token_price();
  engine->token_prices.output = scheduler.output_token_price();
}

void CheckSessions(const config::v1::SessionsConfig& sessions, const std::string& path,
                   EngineConfig* engine, ConfigChecker* check) {
  engine->max_sessions = sessions.max_sessions();
  engine->session_ttl = absl::Seconds(sessions.ttl_seconds());
  engine->max_idle_session_bytes = sessions.max_idle_bytes();
  engine->spill_directory = sessions.spill_directory();
  engine->share_spill_directory = sessions.share_spill_directory();
  if (engine->share_spill_directory && engine->spill_directory.empty()) {
    check->Fault(path + ".share_spill_directory",
                 "is true without a directory; set spill_directory to one that all replicas have");
  }
  engine->max_spill_bytes = sessions.max_spill_bytes();
  engine->max_spill_queue_bytes = sessions.max_spill_queue_bytes();
  engine->max_prefix_spill_bytes = sessions.max_prefix_spill_bytes();
  if (engine->max_prefix_spill_bytes > 0 &&
      (engine->spill_directory.empty() || !engine->prefix_cache)) {
    check->Fault(path + ".max_prefix_spill_bytes",
                 engine->spill_directory.empty()
                     ? "is set without a directory; set spill_directory"
                     : "is set, but kv_cache.prefix_cache is false; there are no prefix blocks");
  }
}

GrammarLimits LimitsOf(const config::v1::GrammarConfig& grammar) {
  GrammarLimits limits;
  limits.max_source_bytes = grammar.max_source_bytes();
  limits.max_symbols = grammar.max_symbols();
  limits.max_lexer_states = grammar.max_lexer_states();
  limits.compile_fuel = grammar.compile_fuel();
  limits.step_fuel = grammar.step_fuel();
  limits.max_step_items = grammar.max_step_items();
  limits.max_compile_time = absl::Seconds(grammar.max_compile_seconds());
  limits.max_waiting = grammar.max_waiting();
  limits.max_compiled = grammar.max_compiled();
  return limits;
}

// `usable_cpus`: what the numbers of threads follow when they are absent.
TextLimits LimitsOf(const config::v1::TextConfig& text, int usable_cpus) {
  TextLimits limits;
  limits.threads = text.has_threads() ? text.threads() : std::clamp(usable_cpus / 4, 2, 8);
  limits.long_threads =
      text.has_long_threads() ? text.long_threads() : std::clamp(usable_cpus / 8, 1, 4);
  limits.max_waiting = static_cast<size_t>(text.max_waiting());
  limits.max_waiting_bytes = static_cast<size_t>(text.max_waiting_bytes());
  return limits;
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
                                                 {"int4", WeightFormat::kInt4Zero32},
                                                 {"q8_0", WeightFormat::kQ8_0},
                                                 {"q4_0", WeightFormat::kQ4_0},
                                                 {"q4_k", WeightFormat::kQ4_K}});
  checked.default_max_tokens = model.default_max_tokens();
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
  checked.engine.max_context_tokens = model.max_context_tokens();
  CheckKvCache(model.kv_cache(), path + ".kv_cache", &checked.engine, check);
  CheckScheduler(model.scheduler(), path + ".scheduler", &checked.engine, check);
  CheckSessions(model.sessions(), path + ".sessions", &checked.engine, check);
  checked.grammar = LimitsOf(model.grammar());
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
  checked->drain_timeout = absl::Seconds(server.drain_timeout_seconds());
  checked->drain_grace = absl::Seconds(server.drain_grace_seconds());
  checked->reflection = server.reflection();
  checked->max_message_bytes = server.max_message_bytes();
  checked->max_connections = server.max_connections();
  checked->max_concurrent_streams = server.max_concurrent_streams();
  checked->max_metadata_bytes = server.max_metadata_bytes();
  checked->handshake_timeout = absl::Seconds(server.handshake_timeout_seconds());
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
  checked->http_max_connections = http.max_connections();
  checked->http_max_body_bytes = http.max_body_bytes();
  checked->http_idle_timeout = absl::Seconds(http.idle_timeout_seconds());
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

// Defaults that follow from other fields.
void FillModelDefaults(config::v1::ModelConfig* model) {
  if (model->name().empty()) model->set_name(DefaultModelName(model->path()));
  // What bounds another field is a complete statement alone: the stated default gives way to it.
  const bool chunk_is_given = model->scheduler().has_prefill_chunk_tokens();
  const bool running_is_given = model->scheduler().has_max_running();
  const bool compression_is_given = model->attention().has_compression();
  FillStatedDefaults(model);

  config::v1::SchedulerConfig* scheduler = model->mutable_scheduler();
  const int32_t step_tokens = std::max(1, scheduler->max_step_tokens());
  if (!chunk_is_given) {
    scheduler->set_prefill_chunk_tokens(std::min(scheduler->prefill_chunk_tokens(), step_tokens));
  }
  if (!running_is_given)
    scheduler->set_max_running(std::min(scheduler->max_running(), step_tokens));
  config::v1::AttentionConfig* attention = model->mutable_attention();
  if (!compression_is_given) {
    attention->set_compression(std::min(attention->compression(), attention->max_compression()));
  }
  // f32 compute is the oracle: a cache of bf16 would put its rounding back in.
  config::v1::KvCacheConfig* kv = model->mutable_kv_cache();
  if (kv->element_type().empty()) {
    kv->set_element_type(model->compute_type() == ComputeTypeName(ComputeType::kF32) ? "f32"
                                                                                     : "bf16");
  }
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
  FillStatedDefaults(config);
}

absl::StatusOr<DaemonConfig> Validate(const config::v1::Config& config,
                                      const ConfigOrigins& origins) {
  ConfigChecker check(origins);
  CheckStatedRanges(config, "", &check);
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
                        : PlanThreads().threads;
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
  checked.text = LimitsOf(config.text(), usable_cpus);
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
