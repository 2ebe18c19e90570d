// The daemon's checked configuration: what is left of file, environment and flags after defaults
// are filled in and every range and combination is checked. Deeper code does not check again. Plain
// values; pure functions, thread safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "runtime/engine/engine_config.h"
#include "runtime/grammar/grammar_limits.h"
#include "runtime/ops/cpu_target.h"
#include "runtime/ops/tensor.h"
#include "server/config/attention_policy.h"
#include "server/config/config_reader.h"
#include "server/config/host_port.h"
#include "server/config/speculation_policy.h"
#include "server/config/tenant_config.h"
#include "server/config/text_limits.h"

namespace kvasir {

enum class LogLevel { kDebug, kInfo, kWarning, kError };
enum class LogFormat { kText, kJson };

const char* ComputeTypeName(ComputeType type);  // "f32", "bf16", "int8"

struct ModelConfig {
  std::string name;  // unique
  std::string path;
  ComputeType compute_type = ComputeType::kBf16;
  std::string weights;  // as configured: "stored", "int4"
  std::optional<WeightFormat> quantize_to;
  int32_t default_max_tokens = 256;
  AttentionPolicy attention;
  SpeculationPolicy speculation;
  std::string chat_template_file;  // empty = the model's own
  std::string tool_format;         // empty = what the template tells
  std::string template_time;       // local time that templates see; empty = the real one
  GrammarLimits grammar;
  // kv_capacity_bytes 0 = automatic: kv_pool_plan fills it in after the weights are loaded.
  // Likewise max_context_tokens 0 = the model's own.
  EngineConfig engine;
};

struct DaemonConfig {
  std::vector<ModelConfig> models;  // at least one
  int threads = 1;                  // compute threads of all models together
  CpuTarget cpu_target = CpuTarget::kAuto;

  HostPort listen;
  absl::Duration drain_timeout;
  absl::Duration drain_grace;
  bool reflection = true;
  int32_t max_message_bytes = 0;
  int32_t max_connections = 0;
  int32_t max_concurrent_streams = 0;
  int32_t max_metadata_bytes = 0;
  absl::Duration handshake_timeout;
  TlsConfig tls;
  AuthenticationConfig authentication;
  std::vector<TenantConfig> tenants;

  std::optional<HostPort> http_listen;  // absent = off
  int32_t http_max_connections = 0;
  int32_t http_max_body_bytes = 0;
  absl::Duration http_idle_timeout;
  std::vector<std::string> http_cors_origins;

  TextLimits text;

  std::optional<HostPort> metrics_listen;  // absent = off
  bool vllm_metric_names = false;          // metrics.compat: vllm

  LogLevel log_level = LogLevel::kInfo;
  LogFormat log_format = LogFormat::kText;
};

// Fills every field that has a fixed default; what depends on the machine or the model (threads,
// capacity_bytes, max_context_tokens, max_idle_bytes) stays unset. Names of models come from their
// folders. Changes nothing that is set, so it is idempotent.
void FillDefaults(config::v1::Config* config);

// Checks a filled configuration. InvalidArgument: every fault found, one per line, each with where
// the value came from
// (`origins`), the value, the limit and the remedy.
absl::StatusOr<DaemonConfig> Validate(const config::v1::Config& config,
                                      const ConfigOrigins& origins);

}  // namespace kvasir
