#include "server/config/command_line.h"

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/flag_set.h"
#include "base/status_macros.h"
#include "hub/hub_reference.h"
#include "server/config/scalar.h"
#include "server/config/server_config.h"

namespace kvasir {
namespace {

using config::v1::Config;
using google::protobuf::Message;

absl::Status WrongForm(const ConfigOverride& override_, absl::string_view wanted) {
  return absl::InvalidArgumentError(
      absl::StrCat(override_.origin, " is '", override_.value, "', but must be ", wanted));
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

// Into the field that `path` ("kv_cache.capacity_bytes") names of `message`, which is `where` in
// the configuration: "", or "models[0].".
absl::Status SetField(const ConfigOverride& override_, absl::string_view value,
                      const std::string& where, absl::string_view path, Message* message,
                      ConfigOrigins* origins) {
  const std::vector<std::string> names = absl::StrSplit(path, '.');
  for (size_t i = 0; i + 1 < names.size(); ++i) {
    message = message->GetReflection()->MutableMessage(
        message, message->GetDescriptor()->FindFieldByName(names[i]));
  }
  const absl::Status status =
      SetScalar(*message->GetDescriptor()->FindFieldByName(names.back()), value,
                /*is_quoted=*/false, message);
  if (!status.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(override_.origin, status.message()));
  }
  (*origins)[absl::StrCat(where, path)] = override_.origin;
  return absl::OkStatus();
}

struct Setting {
  const char* name;
  const char* group;
  const char* value;  // how --help calls it
  const char* help;
  const char* default_text;
  bool repeatable;
  // Of the field in the configuration; behind kEachModel the same field of every model, behind
  // kNamedModel that of the model which "NAME=..." says. Without one it is --model.
  const char* path;
};

constexpr absl::string_view kEachModel = "models[].";
constexpr absl::string_view kNamedModel = "models[NAME].";

// Groups stand together. "model" comes before the settings that go to every model, for they are
// applied in this order.
constexpr Setting kSettings[] = {
    {"model", "Models", "NAME=DIR|DIR",
     "Serve DIR, a Hugging Face folder or GGUF file, under NAME (default: its own name). "
     "hf:ORG/REPO[@REVISION][:PATTERN] in place of DIR is downloaded from huggingface.co if it is "
     "not in the cache (see kvasir pull --help). May be repeated; a model of the file with that "
     "name gets the folder, others stay.",
     "", true, nullptr},
    {"compute_type", "Models", "f32|bf16|int8",
     "Arithmetic of the products with weights, for every model.", "bf16", false,
     "models[].compute_type"},
    {"weights", "Models", "stored|int4|q8_0|q4_0|q4_k",
     "What plain weights of every model become while they are loaded.", "stored", false,
     "models[].weights"},
    {"kv_capacity_bytes", "Models", "SIZE", "KV pool of each model, as in 4GiB.",
     "what the memory limit leaves after the weights", false, "models[].kv_cache.capacity_bytes"},
    {"max_context_tokens", "Models", "N", "Longest sequence, prompt and output together.",
     "the model's own", false, "models[].max_context_tokens"},
    {"chat_template", "Models", "NAME=FILE",
     "Jinja chat template of the model NAME, in place of its own. May be repeated.", "", true,
     "models[NAME].chat_template"},
    {"tool_format", "Models", "NAME=FORMAT",
     "Notation of the reasoning and tool calls of the model NAME: hermes, llama3, ..., or none. "
     "May be repeated.",
     "what its template tells", true, "models[NAME].tool_format"},
    {"template_time", "Models", "TIME",
     "Local time that chat templates see, as in 2026-11-28T09:30:00.", "the real one", false,
     "models[].template_time"},
    {"threads", "Models", "N", "Compute threads of all models together.",
     "one for each core this process may use", false, "threads"},
    {"cpu_target", "Models", "auto|avx512_bf16|avx512|avx2",
     "The newest instructions that may be used.", "auto", false, "cpu_target"},
    {"listen", "Server", "HOST:PORT", "Where gRPC listens; port 0 takes any free one.",
     "127.0.0.1:50051", false, "server.listen"},
    {"http_listen", "Server", "HOST:PORT|off", "Where the OpenAI API listens, in HTTP.",
     "127.0.0.1:8080", false, "http.listen"},
    {"anonymous", "Server", "auto|allow|refuse",
     "Calls without a credential; auto allows them without tenants on a loopback address.", "auto",
     false, "server.authentication.anonymous"},
    {"drain_timeout_seconds", "Server", "SECONDS", "How long SIGTERM lets running streams finish.",
     "30", false, "server.drain_timeout_seconds"},
    {"metrics_listen", "Metrics and logs", "HOST:PORT|off", "Where /metrics and /healthz listen.",
     "127.0.0.1:9464", false, "metrics.listen"},
    {"metrics_compat", "Metrics and logs", "none|vllm",
     "Repeat the main metrics under vLLM's names.", "none", false, "metrics.compat"},
    {"log_level", "Metrics and logs", "debug|info|warning|error",
     "Least severe messages to log, on stderr.", "info", false, "logging.level"},
    {"log_format", "Metrics and logs", "text|json", "One line per event either way.", "text", false,
     "logging.format"},
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

// Into the model that "NAME=VALUE" says.
absl::Status ApplyToNamedModel(const ConfigOverride& override_, absl::string_view form,
                               absl::string_view path, ConfigSource* source) {
  const size_t equals = override_.value.find('=');
  if (equals == 0 || equals == std::string::npos || equals + 1 == override_.value.size()) {
    return WrongForm(override_, form);
  }
  const std::string name = override_.value.substr(0, equals);
  Config& config = source->message;
  FillDefaults(&config);  // names of models that were given as folders
  for (int i = 0; i < config.models_size(); ++i) {
    if (config.models(i).name() != name) continue;
    return SetField(override_, override_.value.substr(equals + 1), absl::StrCat("models[", i, "]."),
                    path, config.mutable_models(i), &source->origins);
  }
  return absl::InvalidArgumentError(
      absl::StrCat(override_.origin, " names the model '", name, "', which is not configured"));
}

absl::Status Apply(const ConfigOverride& override_, ConfigSource* source) {
  const Setting& setting = *FindSetting(override_.setting);
  if (setting.path == nullptr) return ApplyModel(override_, source);
  absl::string_view path = setting.path;
  Config& config = source->message;
  if (absl::ConsumePrefix(&path, kNamedModel)) {
    return ApplyToNamedModel(override_, setting.value, path, source);
  }
  if (!absl::ConsumePrefix(&path, kEachModel)) {
    return SetField(override_, override_.value, "", path, &config, &source->origins);
  }
  for (int i = 0; i < config.models_size(); ++i) {
    KVASIR_RETURN_IF_ERROR(SetField(override_, override_.value, absl::StrCat("models[", i, "]."),
                                    path, config.mutable_models(i), &source->origins));
  }
  return absl::OkStatus();
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
    KVASIR_RETURN_IF_ERROR(Apply(override_, &source));
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
