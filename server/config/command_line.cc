#include "server/config/command_line.h"

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/flag_set.h"
#include "base/status_macros.h"
#include "hub/hub_reference.h"
#include "server/config/server_config.h"

namespace kvasir {
namespace {

using config::v1::Config;

absl::Status WrongForm(const ConfigOverride& override_, absl::string_view wanted) {
  return absl::InvalidArgumentError(
      absl::StrCat(override_.origin, " is '", override_.value, "', but must be ", wanted));
}

absl::StatusOr<int32_t> WholeNumber(const ConfigOverride& override_) {
  int32_t value = 0;
  if (!absl::SimpleAtoi(override_.value, &value)) return WrongForm(override_, "a whole number");
  return value;
}

// "NAME=DIR" or "DIR", or a name on a hub in place of DIR: gives the model of that name the folder,
// or adds a model.
absl::Status ApplyModel(const ConfigOverride& override_, ConfigSource* source) {
  const size_t equals = override_.value.find('=');
  const bool named = equals != std::string::npos && !IsHubReference(override_.value);
  const std::string name = named ? override_.value.substr(0, equals) : "";
  const std::string path = named ? override_.value.substr(equals + 1) : override_.value;
  if (path.empty() || (named && name.empty())) {
    return WrongForm(override_,
                     "NAME=DIR or DIR, as in tale=/models/tale-7m or qwen=hf:Qwen/Qwen3-0.6B");
  }
  Config& config = source->message;
  int index = 0;
  while (index < config.models_size() && !(named && config.models(index).name() == name)) ++index;
  if (index == config.models_size()) config.add_models()->set_name(name);
  config.mutable_models(index)->set_path(path);

  const std::string field = absl::StrCat("models[", index, "]");
  source->origins.try_emplace(field, override_.origin);
  source->origins[field + ".path"] = override_.origin;
  if (named) source->origins.try_emplace(field + ".name", override_.origin);
  return absl::OkStatus();
}

// Calls set(model) for every model and remembers where `field` came from.
template <typename Set>
absl::Status ForEachModel(const ConfigOverride& override_, const char* field, ConfigSource* source,
                          Set set) {
  for (int i = 0; i < source->message.models_size(); ++i) {
    set(source->message.mutable_models(i));
    source->origins[absl::StrCat("models[", i, "].", field)] = override_.origin;
  }
  return absl::OkStatus();
}

absl::Status ApplyComputeType(const ConfigOverride& override_, ConfigSource* source) {
  return ForEachModel(override_, "compute_type", source, [&](config::v1::ModelConfig* model) {
    model->set_compute_type(override_.value);
  });
}

absl::Status ApplyWeights(const ConfigOverride& override_, ConfigSource* source) {
  return ForEachModel(override_, "weights", source,
                      [&](config::v1::ModelConfig* model) { model->set_weights(override_.value); });
}

absl::Status ApplyKvCapacity(const ConfigOverride& override_, ConfigSource* source) {
  absl::StatusOr<int64_t> bytes = ParseByteSize(override_.value);
  if (!bytes.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(override_.origin, ": ", bytes.status().message()));
  }
  return ForEachModel(override_, "kv_cache.capacity_bytes", source,
                      [&](config::v1::ModelConfig* model) {
                        model->mutable_kv_cache()->set_capacity_bytes(*bytes);
                      });
}

absl::Status ApplyMaxContext(const ConfigOverride& override_, ConfigSource* source) {
  KVASIR_ASSIGN_OR_RETURN(const int32_t tokens, WholeNumber(override_));
  return ForEachModel(override_, "max_context_tokens", source, [&](config::v1::ModelConfig* model) {
    model->set_max_context_tokens(tokens);
  });
}

// "NAME=VALUE": a field of the model of that name. `form`: what VALUE is.
template <typename Set>
absl::Status ForNamedModel(const ConfigOverride& override_, absl::string_view field,
                           absl::string_view form, ConfigSource* source, Set set) {
  const size_t equals = override_.value.find('=');
  if (equals == 0 || equals == std::string::npos || equals + 1 == override_.value.size()) {
    return WrongForm(override_, absl::StrCat("NAME=", form));
  }
  const std::string name = override_.value.substr(0, equals);
  Config& config = source->message;
  FillDefaults(&config);  // names of models that were given as folders
  for (int i = 0; i < config.models_size(); ++i) {
    if (config.models(i).name() != name) continue;
    set(config.mutable_models(i), override_.value.substr(equals + 1));
    source->origins[absl::StrCat("models[", i, "].", field)] = override_.origin;
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat(override_.origin, " names the model '", name, "', which is not configured"));
}

absl::Status ApplyChatTemplate(const ConfigOverride& override_, ConfigSource* source) {
  return ForNamedModel(override_, "chat_template", "FILE, as in tale=/templates/chatml.jinja",
                       source, [](config::v1::ModelConfig* model, std::string value) {
                         model->set_chat_template(std::move(value));
                       });
}

absl::Status ApplyToolFormat(const ConfigOverride& override_, ConfigSource* source) {
  return ForNamedModel(override_, "tool_format", "FORMAT, as in tale=hermes", source,
                       [](config::v1::ModelConfig* model, std::string value) {
                         model->set_tool_format(std::move(value));
                       });
}

absl::Status ApplyTemplateTime(const ConfigOverride& override_, ConfigSource* source) {
  return ForEachModel(override_, "template_time", source, [&](config::v1::ModelConfig* model) {
    model->set_template_time(override_.value);
  });
}

absl::Status ApplyThreads(const ConfigOverride& override_, ConfigSource* source) {
  KVASIR_ASSIGN_OR_RETURN(const int32_t threads, WholeNumber(override_));
  source->message.set_threads(threads);
  source->origins["threads"] = override_.origin;
  return absl::OkStatus();
}

absl::Status ApplyCpuTarget(const ConfigOverride& override_, ConfigSource* source) {
  source->message.set_cpu_target(override_.value);
  source->origins["cpu_target"] = override_.origin;
  return absl::OkStatus();
}

absl::Status ApplyListen(const ConfigOverride& override_, ConfigSource* source) {
  source->message.mutable_server()->set_listen(override_.value);
  source->origins["server.listen"] = override_.origin;
  return absl::OkStatus();
}

absl::Status ApplyAnonymous(const ConfigOverride& override_, ConfigSource* source) {
  source->message.mutable_server()->mutable_authentication()->set_anonymous(override_.value);
  source->origins["server.authentication.anonymous"] = override_.origin;
  return absl::OkStatus();
}

absl::Status ApplyHttpListen(const ConfigOverride& override_, ConfigSource* source) {
  source->message.mutable_http()->set_listen(override_.value);
  source->origins["http.listen"] = override_.origin;
  return absl::OkStatus();
}

absl::Status ApplyMetricsListen(const ConfigOverride& override_, ConfigSource* source) {
  source->message.mutable_metrics()->set_listen(override_.value);
  source->origins["metrics.listen"] = override_.origin;
  return absl::OkStatus();
}

absl::Status ApplyMetricsCompat(const ConfigOverride& override_, ConfigSource* source) {
  source->message.mutable_metrics()->set_compat(override_.value);
  source->origins["metrics.compat"] = override_.origin;
  return absl::OkStatus();
}

absl::Status ApplyDrainTimeout(const ConfigOverride& override_, ConfigSource* source) {
  const absl::StatusOr<double> seconds = ParseSeconds(override_.value);
  if (!seconds.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(override_.origin, ": ", seconds.status().message()));
  }
  source->message.mutable_server()->set_drain_timeout_seconds(*seconds);
  source->origins["server.drain_timeout_seconds"] = override_.origin;
  return absl::OkStatus();
}

absl::Status ApplyLogLevel(const ConfigOverride& override_, ConfigSource* source) {
  source->message.mutable_logging()->set_level(override_.value);
  source->origins["logging.level"] = override_.origin;
  return absl::OkStatus();
}

absl::Status ApplyLogFormat(const ConfigOverride& override_, ConfigSource* source) {
  source->message.mutable_logging()->set_format(override_.value);
  source->origins["logging.format"] = override_.origin;
  return absl::OkStatus();
}

struct Setting {
  const char* name;
  const char* group;
  const char* value;  // how --help calls it
  const char* help;
  const char* default_text;
  bool repeatable;
  absl::Status (*apply)(const ConfigOverride&, ConfigSource*);
};

// Groups stand together. "model" comes before the settings that go to every model, for they are
// applied in this order.
constexpr Setting kSettings[] = {
    {"model", "Models", "NAME=DIR|DIR",
     "Serve DIR, a Hugging Face folder or GGUF file, under NAME (default: its own name). "
     "hf:ORG/REPO[@REVISION][:PATTERN] in place of DIR is downloaded from huggingface.co if it is "
     "not in the cache (see kvasir pull --help). May be repeated; a model of the file with that "
     "name gets the folder, others stay.",
     "", true, ApplyModel},
    {"compute_type", "Models", "f32|bf16|int8",
     "Arithmetic of the products with weights, for every model.", "bf16", false, ApplyComputeType},
    {"weights", "Models", "stored|int4|q8_0|q4_0|q4_k",
     "What plain weights of every model become while they are loaded.", "stored", false,
     ApplyWeights},
    {"kv_capacity_bytes", "Models", "SIZE", "KV pool of each model, as in 4GiB.",
     "what the memory limit leaves after the weights", false, ApplyKvCapacity},
    {"max_context_tokens", "Models", "N", "Longest sequence, prompt and output together.",
     "the model's own", false, ApplyMaxContext},
    {"chat_template", "Models", "NAME=FILE",
     "Jinja chat template of the model NAME, in place of its own. May be repeated.", "", true,
     ApplyChatTemplate},
    {"tool_format", "Models", "NAME=FORMAT",
     "Notation of the reasoning and tool calls of the model NAME: hermes, llama3, ..., or none. "
     "May be repeated.",
     "what its template tells", true, ApplyToolFormat},
    {"template_time", "Models", "TIME",
     "Local time that chat templates see, as in 2026-11-28T09:30:00.", "the real one", false,
     ApplyTemplateTime},
    {"threads", "Models", "N", "Compute threads of all models together.",
     "the CPUs this process may use", false, ApplyThreads},
    {"cpu_target", "Models", "auto|avx512_bf16|avx512|avx2",
     "The newest instructions that may be used.", "auto", false, ApplyCpuTarget},
    {"listen", "Server", "HOST:PORT", "Where gRPC listens; port 0 takes any free one.",
     "127.0.0.1:50051", false, ApplyListen},
    {"http_listen", "Server", "HOST:PORT|off", "Where the OpenAI API listens, in HTTP.",
     "127.0.0.1:8080", false, ApplyHttpListen},
    {"anonymous", "Server", "auto|allow|refuse",
     "Calls without a credential; auto allows them without tenants on a loopback address.", "auto",
     false, ApplyAnonymous},
    {"drain_timeout_seconds", "Server", "SECONDS", "How long SIGTERM lets running streams finish.",
     "30", false, ApplyDrainTimeout},
    {"metrics_listen", "Metrics and logs", "HOST:PORT|off", "Where /metrics and /healthz listen.",
     "127.0.0.1:9464", false, ApplyMetricsListen},
    {"metrics_compat", "Metrics and logs", "none|vllm",
     "Repeat the main metrics under vLLM's names.", "none", false, ApplyMetricsCompat},
    {"log_level", "Metrics and logs", "debug|info|warning|error",
     "Least severe messages to log, on stderr.", "info", false, ApplyLogLevel},
    {"log_format", "Metrics and logs", "text|json", "One line per event either way.", "text", false,
     ApplyLogFormat},
};

struct ActionFlag {
  const char* name;
  Invocation::Action action;
  const char* help;
};

// Of several, the last in this order counts.
constexpr ActionFlag kActions[] = {
    {"check_config", Invocation::Action::kCheckConfig,
     "Check the configuration, print OK or its faults, and exit."},
    {"print_config", Invocation::Action::kPrintConfig,
     "Print the effective configuration as YAML, and exit."},
    {"version", Invocation::Action::kVersion, "Print the version, and exit."},
    {"help", Invocation::Action::kHelp, "Print this, and exit."},
};

constexpr char kConfigFlag[] = "config";

std::string EnvironmentName(absl::string_view flag) {
  return absl::StrCat("KVASIR_", absl::AsciiStrToUpper(flag));
}

constexpr char kLostSessionsFlag[] = "report_lost_sessions";
constexpr char kLostSessionsHelp[] =
    "End with exit code 6 when a drain could not keep every session in its spill directory.";

const Setting* FindSetting(absl::string_view name) {
  for (const Setting& setting : kSettings) {
    if (name == setting.name) return &setting;
  }
  return nullptr;
}

// The flags as they stand.
struct RawFlags {
  Invocation::Action action = Invocation::Action::kServe;
  std::string config_file;  // empty = none
  bool report_lost_sessions = false;
  std::vector<std::string> values[std::size(kSettings)];  // of each setting
};

absl::StatusOr<RawFlags> ReadFlags(const std::vector<std::string>& arguments) {
  RawFlags flags;
  FlagSet set;
  set.Add(kConfigFlag, "FILE", "", &flags.config_file);
  for (size_t i = 0; i < std::size(kSettings); ++i) {
    set.Add(kSettings[i].name, kSettings[i].value, kSettings[i].help, &flags.values[i]);
  }
  set.Add(kLostSessionsFlag, kLostSessionsHelp, &flags.report_lost_sessions);
  bool wanted[std::size(kActions)] = {};
  for (size_t i = 0; i < std::size(kActions); ++i) {
    set.Add(kActions[i].name, kActions[i].help, &wanted[i]);
  }
  KVASIR_ASSIGN_OR_RETURN(const std::vector<std::string> words, set.Parse(arguments));
  if (!words.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("'", words[0],
                                                   "' is not a flag; models are given as --model ",
                                                   words[0], ", see kvasird --help"));
  }
  for (size_t i = 0; i < std::size(kSettings); ++i) {
    if (kSettings[i].repeatable || flags.values[i].size() <= 1) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("--", kSettings[i].name, " is given twice; remove one"));
  }
  for (size_t i = 0; i < std::size(kActions); ++i) {
    if (wanted[i]) flags.action = kActions[i].action;
  }
  return flags;
}

// The overrides of one setting: its flags, else its environment variable.
void AddOverrides(const Setting& setting, const std::vector<std::string>& flag_values,
                  const EnvironmentLookup& environment, std::vector<ConfigOverride>* overrides) {
  for (const std::string& value : flag_values) {
    overrides->push_back({setting.name, value, absl::StrCat("flag --", setting.name)});
  }
  if (!flag_values.empty()) return;
  const std::string variable = EnvironmentName(setting.name);
  const std::optional<std::string> value = environment(variable);
  // An empty variable is how shells and container files say "not set".
  if (!value.has_value() || value->empty()) return;
  const std::string origin = absl::StrCat("environment variable ", variable);
  if (!setting.repeatable) {
    overrides->push_back({setting.name, *value, origin});
    return;
  }
  for (absl::string_view part : absl::StrSplit(*value, ',', absl::SkipEmpty())) {
    overrides->push_back({setting.name, std::string(part), origin});
  }
}

void AppendFlagHelp(absl::string_view flag, absl::string_view help, absl::string_view notes,
                    std::string* out) {
  absl::StrAppend(out, "  ", flag, "\n      ", help, "\n");
  if (!notes.empty()) absl::StrAppend(out, "      ", notes, "\n");
}

}  // namespace

EnvironmentLookup ProcessEnvironment() {
  return [](const std::string& name) -> std::optional<std::string> {
    const char* value = std::getenv(name.c_str());
    if (value == nullptr) return std::nullopt;
    return value;
  };
}

absl::StatusOr<Invocation> ParseCommandLine(const std::vector<std::string>& arguments,
                                            const EnvironmentLookup& environment) {
  KVASIR_ASSIGN_OR_RETURN(const RawFlags flags, ReadFlags(arguments));
  Invocation invocation;
  invocation.action = flags.action;
  invocation.report_lost_sessions = flags.report_lost_sessions;
  invocation.config_file = flags.config_file.empty()
                               ? environment(EnvironmentName(kConfigFlag)).value_or("")
                               : flags.config_file;
  for (size_t i = 0; i < std::size(kSettings); ++i) {
    AddOverrides(kSettings[i], flags.values[i], environment, &invocation.overrides);
  }
  return invocation;
}

absl::StatusOr<ConfigSource> ResolveConfig(const Invocation& invocation) {
  ConfigSource source;
  if (!invocation.config_file.empty()) {
    KVASIR_ASSIGN_OR_RETURN(source, ReadConfigFile(invocation.config_file));
  }
  for (const ConfigOverride& override_ : invocation.overrides) {
    KVASIR_RETURN_IF_ERROR(FindSetting(override_.setting)->apply(override_, &source));
  }
  FillDefaults(&source.message);
  return source;
}

std::string HelpText() {
  std::string text =
      "kvasird serves large language models from CPUs over gRPC.\n\n"
      "Usage: kvasird --model NAME=DIR [flags]\n"
      "       kvasird --config FILE [flags]\n\n"
      "Precedence: flag, environment variable, file, default. The file has more settings than "
      "there are flags.\n\n"
      "Configuration\n";
  AppendFlagHelp("--config FILE", "YAML or JSON; deploy/config/kvasird.yaml explains every field.",
                 "environment: KVASIR_CONFIG", &text);
  AppendFlagHelp(absl::StrCat("--", kLostSessionsFlag), kLostSessionsHelp, "", &text);
  for (const ActionFlag& action : kActions)
    AppendFlagHelp(absl::StrCat("--", action.name), action.help, "", &text);

  const char* group = "";
  for (const Setting& setting : kSettings) {
    if (absl::string_view(group) != setting.group)
      absl::StrAppend(&text, "\n", setting.group, "\n");
    group = setting.group;
    std::string notes = absl::StrCat("environment: ", EnvironmentName(setting.name),
                                     setting.repeatable ? " (comma-separated)" : "");
    if (*setting.default_text != '\0')
      notes = absl::StrCat("default: ", setting.default_text, "; ", notes);
    AppendFlagHelp(absl::StrCat("--", setting.name, " ", setting.value), setting.help, notes,
                   &text);
  }
  absl::StrAppend(
      &text,
      "\nSignals: the first SIGTERM or SIGINT drains, the second stops at once.\n"
      "Exit codes: 0 clean, 2 bad configuration or flags, 3 a model cannot be loaded, "
      "4 cannot listen,\n"
      "5 the KV pools do not fit into the memory, 6 sessions lost by the drain (if asked for),\n"
      "7 a model on a hub cannot be downloaded now.\n");
  return text;
}

}  // namespace kvasir
