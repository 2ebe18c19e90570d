// Llama and what differs from it in a window, a bias or the temperature of its queries: Mistral,
// Ministral 3, Qwen 2.
#include <cmath>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "runtime/model/architectures/parts/decoder_config.h"
#include "runtime/model/architectures/parts/kv_sharing.h"
#include "runtime/model/architectures/parts/layer_types.h"
#include "runtime/model/architectures/parts/llama_names.h"
#include "runtime/model/architectures/parts/rope_config.h"
#include "runtime/model/architectures/registry.h"

namespace kvasir {
namespace {

// Settings of relatives that would change the results if they were ignored.
absl::Status RefuseForeign(const JsonFields& config) {
  for (const char* key : {"use_qk_norm", "qk_layernorm"}) {
    KVASIR_ASSIGN_OR_RETURN(const bool used, config.BoolOr(key, false));
    if (used) return RefuseKey(config, key, "false is");
  }
  for (const char* key : {"num_local_experts", "num_experts", "n_routed_experts"}) {
    KVASIR_ASSIGN_OR_RETURN(const int64_t experts, config.IntOr(key, 0, 0, INT32_MAX));
    if (experts > 1) return RefuseKey(config, key, "dense models are");
  }
  return absl::OkStatus();
}

absl::Status ReadBase(const JsonFields& config, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(ReadDecoder(config, DecoderDefaults(), spec));
  KVASIR_RETURN_IF_ERROR(RefuseForeign(config));
  KVASIR_ASSIGN_OR_RETURN(const bool attention_bias, config.BoolOr("attention_bias", false));
  SetAttentionBias(attention_bias, attention_bias, spec);
  KVASIR_ASSIGN_OR_RETURN(const bool mlp_bias, config.BoolOr("mlp_bias", false));
  for (LayerSpec& layer : spec->layers) layer.feed_forward.dense.bias = mlp_bias;
  KVASIR_ASSIGN_OR_RETURN(
      const RopeSpec rope,
      ReadRope(config, spec->head_dim(), spec->max_positions, {.partial_allowed = false}));
  spec->ropes = {rope};
  return ParseKvSharing(config, spec);
}

absl::Status ReadLlama(const JsonFields& config, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(ReadBase(config, spec));
  // The class has no windows; a config that asks for one is of another class.
  KVASIR_ASSIGN_OR_RETURN(const bool used, config.BoolOr("use_sliding_window", true));
  KVASIR_ASSIGN_OR_RETURN(const int window, ReadWindow(config, spec->max_positions));
  if (used && window > 0) {
    return RefuseKey(
        config, "sliding_window",
        absl::StrCat("set max_position_embeddings (", spec->max_positions, ") to at most ", window,
                     " to serve the context inside one window"));
  }
  return ReadLayerTypes(config, spec->num_layers(), {LayerType::kFull},
                        [](int) { return LayerType::kFull; })
      .status();
}

// A window in all layers, or where layer_types says.
absl::Status ReadMistral(const JsonFields& config, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(ReadBase(config, spec));
  if (!config.Has("layer_types")) return ReadWindowOfAllLayers(config, spec);
  KVASIR_ASSIGN_OR_RETURN(
      const std::vector<LayerType> types,
      ReadLayerTypes(config, spec->num_layers(), {LayerType::kFull, LayerType::kSliding}, nullptr));
  return ReadWindowsByType(config, types, spec);
}

absl::Status ReadMinistral3(const JsonFields& config, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(ReadMistral(config, spec));
  if (!config.Has("rope_parameters") || !config.At("rope_parameters").is_object()) {
    return absl::OkStatus();
  }
  const JsonFields rope(&config.At("rope_parameters"), config.file() + ": rope_parameters");
  KVASIR_ASSIGN_OR_RETURN(const double beta, rope.NumberOr("llama_4_scaling_beta", 0.0, 0.0, 1e3));
  KVASIR_ASSIGN_OR_RETURN(
      const int64_t original,
      rope.IntOr("original_max_position_embeddings", spec->max_positions, 1, kMaxPositions));
  ForEachAttention(spec, [&](int, AttentionSpec* attention) {
    attention->query_temperature_beta = static_cast<float>(beta);
    attention->query_temperature_positions = static_cast<int>(original);
  });
  return absl::OkStatus();
}

absl::Status ReadQwen2(const JsonFields& config, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(ReadBase(config, spec));
  SetAttentionBias(/*qkv=*/true, /*output=*/false, spec);
  return ReadSwitchedWindows(config, spec);
}

TensorNames Names(const ModelSpec&) { return LlamaNames(); }

// GGUF files of Mixtral go by Llama's name.
absl::Status CompleteLlama(const GgufReader& reader, nlohmann::json* config) {
  KVASIR_ASSIGN_OR_RETURN(const auto experts, reader.Integer("expert_count", INT32_MAX));
  if (experts.value_or(0) == 0) return absl::OkStatus();
  (*config)["architectures"] = {"MixtralForCausalLM"};
  (*config)["model_type"] = "mixtral";
  return reader.CopyExpertCounts(config);
}

// A factor of the angles' cos and sin, and the temperature of queries far behind.
absl::Status CompleteMistral3(const GgufReader& reader, nlohmann::json* config) {
  nlohmann::json& rope = (*config)["rope_parameters"];
  KVASIR_ASSIGN_OR_RETURN(const auto all, reader.Number("rope.scaling.yarn_log_multiplier"));
  if (all.value_or(0) != 0) {
    rope["mscale"] = 1.0;
    rope["mscale_all_dim"] = *all;
  }
  return reader.CopyNumber("attention.temperature_scale", "llama_4_scaling_beta", &rope);
}

void DescribeMistral3(const ModelSpec& spec, GgufKeys* keys) {
  const AttentionSpec& attention = spec.attention(0);
  if (attention.query_temperature_beta > 0) {
    keys->Number("attention.temperature_scale", attention.query_temperature_beta);
  }
  if (spec.ropes[0].scaling == RopeSpec::Scaling::kYarn && spec.ropes[0].attention_factor == 1) {
    keys->Number("rope.scaling.yarn_log_multiplier", 1);
  }
}

}  // namespace

std::vector<Architecture> LlamaArchitectures() {
  return {{"LlamaForCausalLM",
           "llama",
           ReadLlama,
           Names,
           false,
           {.name = "llama", .complete = CompleteLlama, .rope_pairs_side_by_side = true}},
          {"MistralForCausalLM", "mistral", ReadMistral, Names, false, {.name = "llama"}},
          {"Ministral3ForCausalLM",
           "ministral3",
           ReadMinistral3,
           Names,
           false,
           {.name = "mistral3",
            .complete = CompleteMistral3,
            .describe = DescribeMistral3,
            .rope_pairs_side_by_side = true}},
          {"Mistral3ForConditionalGeneration", "mistral3", ReadMinistral3, Names, true},
          {"Qwen2ForCausalLM", "qwen2", ReadQwen2, Names, false, {.name = "qwen2"}}};
}

}  // namespace kvasir
