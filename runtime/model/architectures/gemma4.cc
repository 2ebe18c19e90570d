// Gemma 4: heads of another size in the global layers, K that serves as V there, a stored scale per
// layer, per-layer embeddings and shared K/V in the small ones, experts beside a dense MLP in one
// of the large ones.
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "runtime/model/architectures/parts/experts.h"
#include "runtime/model/architectures/parts/gemma_config.h"
#include "runtime/model/architectures/parts/layer_types.h"
#include "runtime/model/architectures/registry.h"
#include "runtime/model/loading/tensor_forms.h"

namespace kvasir {
namespace {

// What config.json says of one layer instead of all: {"3": {"head_dim": 512}, ...}.
absl::Status ReadOverrides(const JsonFields& config, ModelSpec* spec) {
  const nlohmann::json& overrides = config.At("per_layer_config");
  if (!overrides.is_object()) return config.Wrong("per_layer_config", "must be an object or null");
  for (const auto& [key, value] : overrides.items()) {
    int layer = -1;
    if (!absl::SimpleAtoi(key, &layer) || layer < 0 || layer >= spec->num_layers() ||
        !value.is_object()) {
      return config.Wrong(
          "per_layer_config",
          absl::StrCat("must hold objects under layer numbers below ", spec->num_layers()));
    }
    const JsonFields fields(&value, absl::StrCat(config.file(), ": per_layer_config: ", key));
    AttentionSpec& attention = *spec->layers[layer].attention();
    for (const auto& [name, unused] : value.items()) {
      if (name != "head_dim" && name != "num_key_value_heads") {
        return RefuseKey(fields, name.c_str(), "head_dim and num_key_value_heads are");
      }
    }
    KVASIR_ASSIGN_OR_RETURN(attention.head_dim,
                            fields.IntOr("head_dim", attention.head_dim, 2, kMaxHeadDim));
    KVASIR_ASSIGN_OR_RETURN(attention.kv_heads,
                            fields.IntOr("num_key_value_heads", attention.kv_heads, 1, kMaxHeads));
  }
  return absl::OkStatus();
}

// Head sizes and KV heads of each layer.
absl::Status ReadHeads(const JsonFields& config, const std::vector<LayerType>& types,
                       bool k_serves_as_v, ModelSpec* spec) {
  KVASIR_ASSIGN_OR_RETURN(const int64_t kv_heads,
                          config.IntOr("num_key_value_heads", 4, 1, kMaxHeads));
  KVASIR_ASSIGN_OR_RETURN(const int64_t global_dim,
                          config.IntOr("global_head_dim", 512, 2, kMaxHeadDim));
  KVASIR_ASSIGN_OR_RETURN(const int64_t global_heads,
                          config.IntOr("num_global_key_value_heads", kv_heads, 1, kMaxHeads));
  const bool overridden = config.Has("per_layer_config");
  ForEachAttention(spec, [&](int layer, AttentionSpec* attention) {
    attention->kv_heads = static_cast<int>(kv_heads);
    if (overridden || types[layer] != LayerType::kFull) return;
    attention->head_dim = static_cast<int>(global_dim);
    if (k_serves_as_v) attention->kv_heads = static_cast<int>(global_heads);
  });
  if (overridden) KVASIR_RETURN_IF_ERROR(ReadOverrides(config, spec));
  for (int layer = 0; layer < spec->num_layers(); ++layer) {
    AttentionSpec& attention = *spec->layers[layer].attention();
    attention.v_head_dim = attention.head_dim;
    if (attention.head_dim % 2 != 0 || attention.query_heads % attention.kv_heads != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(config.file(), ": layer ", layer, " has ", attention.query_heads,
                       " query heads and ", attention.kv_heads, " KV heads of ", attention.head_dim,
                       "; KV heads must divide query heads, head_dim must be even"));
    }
  }
  return absl::OkStatus();
}

absl::Status ReadMlps(const JsonFields& config, ModelSpec* spec) {
  KVASIR_ASSIGN_OR_RETURN(const bool doubled, config.BoolOr("use_double_wide_mlp", false));
  for (int layer = 0; doubled && layer < spec->num_layers(); ++layer) {
    if (!spec->stores(layer)) spec->layers[layer].feed_forward.dense.width *= 2;
  }
  KVASIR_ASSIGN_OR_RETURN(const bool experts, config.BoolOr("enable_moe_block", false));
  if (!experts) return absl::OkStatus();
  KVASIR_ASSIGN_OR_RETURN(MoeSpec moe,
                          ReadExperts(config, "moe_intermediate_size", Activation::kGeluTanh));
  moe.renormalize = moe.router_norm = moe.per_expert_scale = moe.beside_dense = true;
  for (LayerSpec& layer : spec->layers) layer.feed_forward.moe = moe;
  return absl::OkStatus();
}

absl::Status Read(const JsonFields& config, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(ReadGemmaBase(config,
                                       {.hidden_size = 2304,
                                        .layers = 30,
                                        .query_heads = 8,
                                        .head_dim = 256,
                                        .width = 9216,
                                        .positions = 131072,
                                        .vocab_size = 262144},
                                       spec));
  KVASIR_ASSIGN_OR_RETURN(
      std::vector<LayerType> types,
      ReadLayerTypes(
          config, spec->num_layers(), {LayerType::kFull, LayerType::kSliding},
          [](int layer) { return (layer + 1) % 6 == 0 ? LayerType::kFull : LayerType::kSliding; }));
  if (types.back() != LayerType::kFull) {
    return config.Has("layer_types")
               ? RefuseKey(config, "layer_types", "full_attention in the last layer is")
               : config.Wrong("num_hidden_layers", "must be a multiple of 6 without layer_types");
  }
  KVASIR_ASSIGN_OR_RETURN(const bool k_serves_as_v, config.BoolOr("attention_k_eq_v", false));
  KVASIR_RETURN_IF_ERROR(ReadHeads(config, types, k_serves_as_v, spec));
  const NormSpec norm = spec->layers[0].norm;
  ForEachAttention(spec, [&](int layer, AttentionSpec* attention) {
    attention->scale = 1;
    attention->qk_norm = {QkNormSpec::Span::kHead, norm};
    attention->v_norm = true;
    attention->v_is_k = k_serves_as_v && types[layer] == LayerType::kFull;
  });
  for (LayerSpec& layer : spec->layers) {
    layer.placement = NormPlacement::kBoth;
    layer.layer_scale = true;
  }
  KVASIR_RETURN_IF_ERROR(ReadGemmaLayers(config, /*pattern=*/6, {.theta = 1e6}, spec));
  KVASIR_RETURN_IF_ERROR(ReadSharedKvLayers(config, spec));
  KVASIR_RETURN_IF_ERROR(ReadPerLayerEmbedding(config, 256, spec));
  KVASIR_RETURN_IF_ERROR(ReadFinalSoftcap(config, spec));
  return ReadMlps(config, spec);
}

TensorNames Names(const ModelSpec& spec) {
  using enum WeightRole;
  TensorNames names = GemmaNames();
  AddPerLayerNames(spec, &names);
  names.SetRaw(kLayerScale, "layers.{}.layer_scalar")
      .Set(kRouter, "layers.{}.router.proj")
      .SetRaw(kRouterScale, "layers.{}.router.scale")
      .SetRaw(kExpertScale, "layers.{}.router.per_expert_scale")
      .SetRaw(kExpertGate, "layers.{}.experts.gate_up_proj", "", StackedGateUpForm())
      .SetRaw(kExpertUp, "layers.{}.experts.gate_up_proj", "", StackedGateUpForm())
      .SetRaw(kExpertDown, "layers.{}.experts.down_proj", "", StackedForm())
      .Set(kDensePostNorm, "layers.{}.post_feedforward_layernorm_1")
      .Set(kExpertsPostNorm, "layers.{}.post_feedforward_layernorm_2")
      .Set(kExpertsPreNorm, "layers.{}.pre_feedforward_layernorm_2");
  return names;
}

}  // namespace

std::vector<Architecture> Gemma4Architectures() {
  return {{"Gemma4ForCausalLM", "gemma4_text", Read, Names},
          {"Gemma4ForConditionalGeneration", "gemma4", Read, Names, true}};
}

}  // namespace kvasir
