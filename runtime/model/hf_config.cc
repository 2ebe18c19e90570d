#include "runtime/model/hf_config.h"

#include <algorithm>
#include <filesystem>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "runtime/model/json_fields.h"
#include "runtime/model/kv_sharing.h"

namespace kvasir {
namespace {

// Bounds that real models are far from and that keep every product below 2^63 and every index in an
// int.
constexpr int64_t kMaxHidden = 1 << 17;
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxHeads = 1024;
constexpr int64_t kMaxHeadDim = 256;  // of the attention kernels
constexpr int64_t kMaxIntermediate = 1 << 20;
constexpr int64_t kMaxVocab = 1 << 21;  // the tokenizer's bound too
constexpr int64_t kMaxPositions = 1 << 24;
constexpr size_t kMaxEosTokens = 64;

struct Family {
  const char* architecture;
  const char* model_type;
  bool qkv_bias;  // of q, k and v, without a key of the config
};

constexpr Family kFamilies[] = {{"LlamaForCausalLM", "llama", false},
                                {"MistralForCausalLM", "mistral", false},
                                {"Qwen2ForCausalLM", "qwen2", true}};

absl::StatusOr<Family> ParseFamily(const JsonFields& config) {
  KVASIR_ASSIGN_OR_RETURN(const std::string model_type, config.StringOr("model_type", ""));
  std::string architecture;
  if (config.Has("architectures")) {
    const nlohmann::json& list = config.At("architectures");
    if (!list.is_array() || list.empty() || !list[0].is_string()) {
      return config.Wrong("architectures", "must be a list of names");
    }
    architecture = list[0].get<std::string>();
  }
  for (const Family& family : kFamilies) {
    const bool fits = architecture.empty() ? model_type == family.model_type
                                           : architecture == family.architecture;
    if (fits) return family;
  }
  return absl::UnimplementedError(absl::StrCat(
      config.file(), ": architecture \"", architecture.empty() ? model_type : architecture,
      "\" is not supported; ",
      absl::StrJoin(
          kFamilies, ", ",
          [](std::string* out, const Family& family) { out->append(family.architecture); }),
      " are"));
}

absl::Status Refuse(const JsonFields& config, const char* key, absl::string_view supported) {
  return absl::UnimplementedError(absl::StrCat(
      config.file(), ": ", key, " = ",
      config.At(key).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).substr(0, 100),
      " is not supported; ", supported));
}

// Features that would change the results if they were ignored.
absl::Status RefuseUnsupported(const JsonFields& config, const ModelSpec& spec) {
  KVASIR_ASSIGN_OR_RETURN(const std::string activation, config.StringOr("hidden_act", "silu"));
  if (activation != "silu" && activation != "swish") return Refuse(config, "hidden_act", "silu is");
  if (config.Has("quantization_config")) {
    return Refuse(config, "quantization_config",
                  "use the unquantised checkpoint (int8 is made while loading)");
  }
  KVASIR_ASSIGN_OR_RETURN(const double rotary,
                          config.NumberOr("partial_rotary_factor", 1.0, 0.0, 1.0));
  if (rotary != 1.0) return Refuse(config, "partial_rotary_factor", "1 is");
  for (const char* key : {"use_qk_norm", "qk_layernorm"}) {
    KVASIR_ASSIGN_OR_RETURN(const bool used, config.BoolOr(key, false));
    if (used) return Refuse(config, key, "false is");
  }
  for (const char* key : {"num_local_experts", "num_experts", "n_routed_experts"}) {
    KVASIR_ASSIGN_OR_RETURN(const int64_t experts, config.IntOr(key, 0, 0, INT32_MAX));
    if (experts > 1) return Refuse(config, key, "dense models are");
  }
  if (config.Has("layer_types")) {
    const nlohmann::json& types = config.At("layer_types");
    if (!types.is_array() ||
        !std::all_of(types.begin(), types.end(),
                     [](const nlohmann::json& type) { return type == "full_attention"; })) {
      return Refuse(config, "layer_types", "full_attention in every layer is");
    }
  }
  if (config.Has("sliding_window")) {
    KVASIR_ASSIGN_OR_RETURN(const bool used, config.BoolOr("use_sliding_window", true));
    KVASIR_ASSIGN_OR_RETURN(const int64_t window, config.Int("sliding_window", 1, INT32_MAX));
    if (used && window < spec.max_positions) {
      return Refuse(
          config, "sliding_window",
          absl::StrCat("set max_position_embeddings (", spec.max_positions, ") to at most ", window,
                       " to serve the context inside one window"));
    }
  }
  return absl::OkStatus();
}

absl::Status ParseSizes(const JsonFields& config, ModelSpec* spec) {
  KVASIR_ASSIGN_OR_RETURN(spec->hidden_size, config.Int("hidden_size", 1, kMaxHidden));
  KVASIR_ASSIGN_OR_RETURN(spec->num_layers, config.Int("num_hidden_layers", 1, kMaxLayers));
  KVASIR_ASSIGN_OR_RETURN(spec->num_query_heads, config.Int("num_attention_heads", 1, kMaxHeads));
  KVASIR_ASSIGN_OR_RETURN(spec->intermediate_size,
                          config.Int("intermediate_size", 1, kMaxIntermediate));
  KVASIR_ASSIGN_OR_RETURN(spec->vocab_size, config.Int("vocab_size", 1, kMaxVocab));
  KVASIR_ASSIGN_OR_RETURN(spec->max_positions,
                          config.Int("max_position_embeddings", 1, kMaxPositions));
  if (config.Has("head_dim")) {
    KVASIR_ASSIGN_OR_RETURN(spec->head_dim, config.Int("head_dim", 2, kMaxHeadDim));
  } else {
    if (spec->hidden_size % spec->num_query_heads != 0) {
      return config.Wrong("num_attention_heads",
                          absl::StrCat("must divide hidden_size (", spec->hidden_size,
                                       ") when head_dim is not given"));
    }
    spec->head_dim = spec->hidden_size / spec->num_query_heads;
  }
  if (spec->head_dim % 2 != 0 || spec->head_dim < 2 || spec->head_dim > kMaxHeadDim) {
    return absl::InvalidArgumentError(
        absl::StrCat(config.file(), ": head_dim (or hidden_size / num_attention_heads) is ",
                     spec->head_dim, ", must be even, from 2 to ", kMaxHeadDim));
  }
  KVASIR_ASSIGN_OR_RETURN(const double epsilon, config.NumberOr("rms_norm_eps", 1e-6, 1e-12, 0.1));
  spec->rms_norm_eps = static_cast<float>(epsilon);
  return absl::OkStatus();
}

absl::StatusOr<double> ParseTheta(const JsonFields& fields, double fallback) {
  return fields.NumberOr("rope_theta", fallback, 1.0, 1e12);
}

absl::Status ParseRope(const JsonFields& config, ModelSpec* spec) {
  RopeSpec& rope = spec->rope;
  KVASIR_ASSIGN_OR_RETURN(double theta, ParseTheta(config, 10000.0));
  // Newer writers put everything about RoPE, theta included, into rope_parameters.
  const char* key = config.Has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  if (config.Has(key)) {
    if (!config.At(key).is_object()) return config.Wrong(key, "must be an object or null");
    const JsonFields scaling(&config.At(key), absl::StrCat(config.file(), ": ", key));
    KVASIR_ASSIGN_OR_RETURN(theta, ParseTheta(scaling, theta));
    // "type" is the name that older writers used.
    const char* type_key = scaling.Has("rope_type") ? "rope_type" : "type";
    KVASIR_ASSIGN_OR_RETURN(const std::string type, scaling.StringOr(type_key, ""));
    constexpr double kMaxFactor = 1e4;
    if (type == "linear" || type == "llama3") {
      KVASIR_ASSIGN_OR_RETURN(const double factor, scaling.Number("factor", 1.0, kMaxFactor));
      rope.factor = static_cast<float>(factor);
      rope.scaling = type == "linear" ? RopeSpec::Scaling::kLinear : RopeSpec::Scaling::kLlama3;
    } else if (type.empty() && key == absl::string_view("rope_scaling")) {
      return scaling.Wrong("rope_type", "must name the kind of scaling");
    } else if (!type.empty() && type != "default") {
      return Refuse(scaling, type_key, "default, linear and llama3 are");
    }
    if (type == "llama3") {
      KVASIR_ASSIGN_OR_RETURN(const double low,
                              scaling.Number("low_freq_factor", 1e-3, kMaxFactor));
      KVASIR_ASSIGN_OR_RETURN(const double high,
                              scaling.Number("high_freq_factor", 1e-3, kMaxFactor));
      if (high <= low) {
        return scaling.Wrong("high_freq_factor",
                             absl::StrCat("must be greater than low_freq_factor (", low, ")"));
      }
      rope.low_freq_factor = static_cast<float>(low);
      rope.high_freq_factor = static_cast<float>(high);
      KVASIR_ASSIGN_OR_RETURN(rope.original_max_positions,
                              scaling.Int("original_max_position_embeddings", 1, kMaxPositions));
    }
  }
  rope.theta = static_cast<float>(theta);
  return absl::OkStatus();
}

// Adds the ids that are not there yet: config.json and generation_config.json usually repeat each
// other.
absl::Status AddEosTokens(const JsonFields& fields, ModelSpec* spec) {
  if (!fields.Has("eos_token_id")) return absl::OkStatus();
  KVASIR_ASSIGN_OR_RETURN(const std::vector<int> ids,
                          fields.IntList("eos_token_id", kMaxEosTokens, 0, spec->vocab_size - 1));
  for (const int id : ids) {
    std::vector<int>& known = spec->eos_token_ids;
    if (std::find(known.begin(), known.end(), id) == known.end()) known.push_back(id);
  }
  return absl::OkStatus();
}

absl::Status ParseBosToken(const JsonFields& fields, ModelSpec* spec) {
  if (!fields.Has("bos_token_id") || spec->bos_token_id) return absl::OkStatus();
  KVASIR_ASSIGN_OR_RETURN(spec->bos_token_id, fields.Int("bos_token_id", 0, spec->vocab_size - 1));
  return absl::OkStatus();
}

absl::Status ParseGenerationConfig(const JsonFields& fields, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(AddEosTokens(fields, spec));
  KVASIR_RETURN_IF_ERROR(ParseBosToken(fields, spec));
  if (fields.Has("temperature")) {
    KVASIR_ASSIGN_OR_RETURN(spec->default_temperature, fields.Number("temperature", 0.0, 100.0));
  }
  if (fields.Has("top_p")) {
    KVASIR_ASSIGN_OR_RETURN(spec->default_top_p, fields.Number("top_p", 0.0, 1.0));
  }
  if (fields.Has("top_k")) {
    KVASIR_ASSIGN_OR_RETURN(spec->default_top_k, fields.Int("top_k", 0, INT32_MAX));
  }
  return absl::OkStatus();
}

absl::Status ParseConfig(const JsonFields& config, ModelSpec* spec) {
  KVASIR_ASSIGN_OR_RETURN(const Family family, ParseFamily(config));
  spec->architecture = family.architecture;
  KVASIR_RETURN_IF_ERROR(ParseSizes(config, spec));
  KVASIR_RETURN_IF_ERROR(RefuseUnsupported(config, *spec));
  KVASIR_ASSIGN_OR_RETURN(spec->tied_embeddings, config.BoolOr("tie_word_embeddings", false));
  // Llama's key covers all four products of attention; Qwen2 has biases on three, always.
  KVASIR_ASSIGN_OR_RETURN(spec->attention_output_bias, config.BoolOr("attention_bias", false));
  spec->attention_bias = spec->attention_output_bias || family.qkv_bias;
  KVASIR_ASSIGN_OR_RETURN(spec->mlp_bias, config.BoolOr("mlp_bias", false));
  KVASIR_RETURN_IF_ERROR(ParseRope(config, spec));
  KVASIR_RETURN_IF_ERROR(ParseKvSharing(config, spec));
  KVASIR_RETURN_IF_ERROR(AddEosTokens(config, spec));
  return ParseBosToken(config, spec);
}

absl::StatusOr<ModelSpec> ToSpec(const nlohmann::json& config,
                                 const nlohmann::json& generation_config) {
  ModelSpec spec;
  KVASIR_RETURN_IF_ERROR(ParseConfig(JsonFields(&config, "config.json"), &spec));
  KVASIR_RETURN_IF_ERROR(
      ParseGenerationConfig(JsonFields(&generation_config, "generation_config.json"), &spec));
  // The layout's own rules are the last word on the sharing table.
  const absl::StatusOr<KvLayout> layout =
      spec.MakeKvLayout(KvElementType::kBf16, KvLayoutSpec().block_tokens);
  if (!layout.ok())
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
  nlohmann::json generation_config = nlohmann::json::object();
  const std::string generation_path = absl::StrCat(folder, "/generation_config.json");
  std::error_code ignored;
  if (std::filesystem::exists(generation_path, ignored)) {
    KVASIR_ASSIGN_OR_RETURN(generation_config, ReadJsonObject(generation_path, kMaxConfigBytes));
  }
  return ToSpec(config, generation_config);
}

}  // namespace kvasir
