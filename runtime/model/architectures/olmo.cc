// OLMo 2 and 3: norms behind each sub-layer and none before, one norm over all heads of q and of k;
// in the third three windowed layers to a full one, whose rope alone is scaled.
#include <optional>
#include <vector>

#include "base/status_macros.h"
#include "runtime/model/architectures/parts/decoder_config.h"
#include "runtime/model/architectures/parts/kv_sharing.h"
#include "runtime/model/architectures/parts/layer_types.h"
#include "runtime/model/architectures/parts/llama_names.h"
#include "runtime/model/architectures/parts/rope_config.h"
#include "runtime/model/architectures/registry.h"

namespace kvasir {
namespace {

constexpr RopeDefaults kRope = {.theta = 500000.0, .partial_allowed = false};

absl::Status ReadBase(const JsonFields& config, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(ReadDecoder(config, {.norm = {NormKind::kRms, 1e-5f}}, spec));
  KVASIR_ASSIGN_OR_RETURN(const bool bias, config.BoolOr("attention_bias", false));
  SetAttentionBias(bias, bias, spec);
  const NormSpec norm = spec->layers[0].norm;
  ForEachAttention(spec, [&](int, AttentionSpec* attention) {
    attention->qk_norm = {QkNormSpec::Span::kWhole, norm};
  });
  for (LayerSpec& layer : spec->layers) layer.placement = NormPlacement::kPost;
  return ParseKvSharing(config, spec);
}

absl::Status ReadOlmo2(const JsonFields& config, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(ReadBase(config, spec));
  KVASIR_ASSIGN_OR_RETURN(const RopeSpec rope,
                          ReadRope(config, spec->head_dim(), spec->max_positions, kRope));
  spec->ropes = {rope};
  return absl::OkStatus();
}

absl::Status ReadOlmo3(const JsonFields& config, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(ReadBase(config, spec));
  KVASIR_ASSIGN_OR_RETURN(
      const std::vector<LayerType> types,
      ReadLayerTypes(
          config, spec->num_layers(), {LayerType::kFull, LayerType::kSliding},
          [](int layer) { return (layer + 1) % 4 == 0 ? LayerType::kFull : LayerType::kSliding; }));
  KVASIR_RETURN_IF_ERROR(ReadWindowsByType(config, types, spec));
  KVASIR_ASSIGN_OR_RETURN(
      const std::optional<RopeSpec> full,
      ReadRopeOf(config, "full_attention", spec->head_dim(), spec->max_positions, kRope));
  KVASIR_ASSIGN_OR_RETURN(
      std::optional<RopeSpec> local,
      ReadRopeOf(config, "sliding_attention", spec->head_dim(), spec->max_positions, kRope));
  if (!full || !local) {
    return config.Wrong("rope_parameters", "must have a rope for both types of layers");
  }
  // Older configs have one dictionary, which scales the full layers only.
  if (config.Has("rope_scaling")) {
    local = RopeSpec{.theta = full->theta, .rotary_dim = full->rotary_dim};
  }
  spec->ropes = {*full, *local};
  ForEachAttention(spec, [&](int layer, AttentionSpec* attention) {
    attention->rope = types[layer] == LayerType::kFull ? 0 : 1;
  });
  return absl::OkStatus();
}

TensorNames Names(const ModelSpec&) {
  using enum WeightRole;
  TensorNames names = LlamaNames();
  names.Set(kMixerPostNorm, "layers.{}.post_attention_layernorm")
      .Set(kMlpPostNorm, "layers.{}.post_feedforward_layernorm");
  return names;
}

// GGUF files of OLMo 3 go by the name of OLMo 2, with windows.
absl::Status CompleteOlmo2(const GgufReader& reader, nlohmann::json* config) {
  KVASIR_ASSIGN_OR_RETURN(const auto window, reader.Integer("attention.sliding_window", INT32_MAX));
  if (window.value_or(0) == 0) return absl::OkStatus();
  (*config)["architectures"] = {"Olmo3ForCausalLM"};
  (*config)["model_type"] = "olmo3";
  // What scales the rope leaves windowed layers alone.
  const nlohmann::json rope = (*config)["rope_parameters"];
  (*config)["rope_parameters"] = {
      {"full_attention", rope},
      {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", rope["rope_theta"]}}}};
  return reader.CopyWindows(4, config);
}

void DescribeOlmo2(const ModelSpec& spec, GgufKeys* keys) { keys->Windows(spec, 4); }

}  // namespace

std::vector<Architecture> OlmoArchitectures() {
  return {{"Olmo2ForCausalLM",
           "olmo2",
           ReadOlmo2,
           Names,
           false,
           {.name = "olmo2", .complete = CompleteOlmo2, .describe = DescribeOlmo2}},
          {"Olmo3ForCausalLM", "olmo3", ReadOlmo3, Names, false, {.name = "olmo2"}}};
}

}  // namespace kvasir
