#include "runtime/model/hf_config.h"

#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "runtime/model/architectures/registry.h"
#include "runtime/model/generation_config.h"
#include "runtime/model/json_fields.h"

namespace kvasir {
namespace {

absl::StatusOr<Architecture> ReadArchitecture(const JsonFields& config) {
  KVASIR_ASSIGN_OR_RETURN(const std::string model_type, config.StringOr("model_type", ""));
  std::string name;
  if (config.Has("architectures")) {
    const nlohmann::json& list = config.At("architectures");
    if (!list.is_array() || list.empty() || !list[0].is_string()) {
      return config.Wrong("architectures", "must be a list of names");
    }
    name = list[0].get<std::string>();
  }
  return FindArchitecture(config.file(), name, model_type);
}

absl::Status ParseConfig(const JsonFields& config, ModelSpec* spec) {
  KVASIR_ASSIGN_OR_RETURN(const Architecture architecture, ReadArchitecture(config));
  spec->architecture = architecture.name;
  // A model of text and pictures has its language model's config inside its own.
  if (config.Has("text_config") && !config.At("text_config").is_object()) {
    return config.Wrong("text_config", "must be an object or null");
  }
  nlohmann::json text;
  if (config.Has("text_config")) {
    text = config.At("text_config");
    if (config.Has("tie_word_embeddings")) {
      text["tie_word_embeddings"] = config.At("tie_word_embeddings");
    }
    for (const char* key : {"eos_token_id", "bos_token_id"}) {
      if (!text.contains(key) && config.Has(key)) text[key] = config.At(key);
    }
  }
  const bool nested = config.Has("text_config");
  const JsonFields fields(nested ? &text : &config.object(),
                          nested ? absl::StrCat(config.file(), ": text_config") : config.file());
  KVASIR_RETURN_IF_ERROR(architecture.read(fields, spec));
  if (architecture.inside_another) {
    spec->notes.push_back(absl::StrCat(architecture.name, ": only text is read and written"));
  }
  return ReadSpecialTokens(fields, spec);
}

absl::StatusOr<ModelSpec> ToSpec(const nlohmann::json& config,
                                 const nlohmann::json& generation_config) {
  ModelSpec spec;
  KVASIR_RETURN_IF_ERROR(ParseConfig(JsonFields(&config, "config.json"), &spec));
  KVASIR_RETURN_IF_ERROR(
      ReadGenerationConfig(JsonFields(&generation_config, "generation_config.json"), &spec));
  // The layout's own rules are the last word on the sharing table.
  const absl::StatusOr<KvLayout> layout =
      spec.MakeKvLayout(KvElementType::kBf16, KvLayoutSpec().block_tokens);
  if (!layout.ok() && !absl::IsUnimplemented(layout.status()))
    return absl::InvalidArgumentError(absl::StrCat("config.json: ", layout.status().message()));
  return spec;
}

}  // namespace

absl::StatusOr<ModelSpec> ParseHfConfig(absl::string_view config,
                                        absl::string_view generation_config) {
  KVASIR_ASSIGN_OR_RETURN(const nlohmann::json json,
                          ParseJsonObject(config, "config.json", kMaxConfigBytes));
  nlohmann::json generation_json = nlohmann::json::object();
  if (!generation_config.empty()) {
    KVASIR_ASSIGN_OR_RETURN(
        generation_json,
        ParseJsonObject(generation_config, "generation_config.json", kMaxConfigBytes));
  }
  return ToSpec(json, generation_json);
}

absl::StatusOr<ModelSpec> LoadHfConfig(const std::string& folder) {
  KVASIR_ASSIGN_OR_RETURN(const nlohmann::json config,
                          ReadJsonObject(absl::StrCat(folder, "/config.json"), kMaxConfigBytes));
  absl::StatusOr<nlohmann::json> generation_config =
      ReadJsonObject(absl::StrCat(folder, "/generation_config.json"), kMaxConfigBytes);
  if (absl::IsNotFound(generation_config.status())) generation_config = nlohmann::json::object();
  KVASIR_RETURN_IF_ERROR(generation_config.status());
  return ToSpec(config, *generation_config);
}

}  // namespace kvasir
