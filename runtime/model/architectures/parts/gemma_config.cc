#include "runtime/model/architectures/parts/gemma_config.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "runtime/model/architectures/parts/layer_types.h"
#include "runtime/model/architectures/parts/llama_names.h"

namespace kvasir {

absl::Status ReadGemmaBase(const JsonFields& config, DecoderDefaults defaults, ModelSpec* spec) {
  defaults.activation = Activation::kGeluTanh;
  defaults.reads_activation = false;
  defaults.tied = true;
  KVASIR_RETURN_IF_ERROR(ReadDecoder(config, defaults, spec));
  for (const char* key : {"hidden_activation", "hidden_act"}) {
    if (!config.Has(key)) continue;
    KVASIR_ASSIGN_OR_RETURN(const Activation activation,
                            ReadActivation(config, key, Activation::kGeluTanh));
    if (activation != Activation::kGeluTanh && activation != Activation::kGelu) {
      return RefuseKey(config, key, "gelu_pytorch_tanh is");
    }
  }
  if (config.Has("use_bidirectional_attention") &&
      config.At("use_bidirectional_attention") != false &&
      config.At("use_bidirectional_attention") != "vision") {
    return RefuseKey(config, "use_bidirectional_attention", "false is");
  }
  KVASIR_ASSIGN_OR_RETURN(const bool bias, config.BoolOr("attention_bias", false));
  SetAttentionBias(bias, bias, spec);
  spec->embedding.multiplier = std::sqrt(static_cast<float>(spec->hidden_size));
  return absl::OkStatus();
}

absl::Status ReadFinalSoftcap(const JsonFields& config, ModelSpec* spec) {
  KVASIR_ASSIGN_OR_RETURN(const double cap, config.NumberOr("final_logit_softcapping", 0, 0, 1e6));
  spec->head.softcap = static_cast<float>(cap);
  return absl::OkStatus();
}

absl::Status ReadGemmaLayers(const JsonFields& config, int pattern, const RopeDefaults& global,
                             ModelSpec* spec) {
  KVASIR_ASSIGN_OR_RETURN(const char* const pattern_key,
                          OneKey(config, {"sliding_window_pattern", "_sliding_window_pattern"}));
  KVASIR_ASSIGN_OR_RETURN(const int64_t every, config.IntOr(pattern_key, pattern, 1, INT32_MAX));
  KVASIR_ASSIGN_OR_RETURN(const std::vector<LayerType> types,
                          ReadLayerTypes(config, spec->num_layers(),
                                         {LayerType::kFull, LayerType::kSliding}, [&](int layer) {
                                           return (layer + 1) % every == 0 ? LayerType::kFull
                                                                           : LayerType::kSliding;
                                         }));
  KVASIR_RETURN_IF_ERROR(ReadWindowsByType(config, types, spec));
  // Layers of one type have heads of one size.
  int global_dim = spec->head_dim(), local_dim = spec->head_dim();
  for (int layer = 0; layer < spec->num_layers(); ++layer) {
    const int dim = spec->attention(layer).head_dim;
    (types[layer] == LayerType::kFull ? global_dim : local_dim) = dim;
  }
  KVASIR_ASSIGN_OR_RETURN(
      const std::optional<RopeSpec> full,
      ReadRopeOf(config, "full_attention", global_dim, spec->max_positions, global));
  if (config.Has("rope_parameters") && config.Has("rope_scaling") &&
      !config.At("rope_scaling").empty()) {
    return config.Wrong("rope_scaling", "but rope_parameters is there too; keep one of them");
  }
  std::optional<RopeSpec> local;
  const bool keyed = config.Has("rope_parameters") && !config.Has("rope_local_base_freq");
  if (keyed) {
    KVASIR_ASSIGN_OR_RETURN(local, ReadRopeOf(config, "sliding_attention", local_dim,
                                              spec->max_positions, {.partial_allowed = false}));
  } else {
    // Older configs: what scales the global rope leaves the local one alone.
    KVASIR_ASSIGN_OR_RETURN(const double theta,
                            config.NumberOr("rope_local_base_freq", 10000.0, 1.0, 1e12));
    local = RopeSpec{.theta = static_cast<float>(theta), .rotary_dim = local_dim};
  }
  if (!full || !local) {
    return config.Wrong("rope_parameters", "must have a rope for both types of layers");
  }
  spec->ropes = {*full, *local};
  ForEachAttention(spec, [&](int layer, AttentionSpec* attention) {
    attention->rope = types[layer] == LayerType::kFull ? 0 : 1;
  });
  return absl::OkStatus();
}

absl::Status ReadSharedKvLayers(const JsonFields& config, ModelSpec* spec) {
  KVASIR_ASSIGN_OR_RETURN(const int64_t shared,
                          config.IntOr("num_kv_shared_layers", 0, 0, spec->num_layers() - 1));
  const int first = spec->num_layers() - static_cast<int>(shared);
  for (int layer = first; layer < spec->num_layers(); ++layer) {
    AttentionSpec& attention = *spec->layers[layer].attention();
    int owner = first - 1;
    while (owner >= 0 && spec->attention(owner).rope != attention.rope) --owner;
    if (owner < 0) {
      return config.Wrong("num_kv_shared_layers", absl::StrCat("but no layer before layer ", first,
                                                               " is of the type of layer ", layer));
    }
    attention.kv_owner = owner;
  }
  if (shared > 0) {
    spec->sharing_claim = absl::StrCat("num_kv_shared_layers ", shared);
    spec->sharing_rule = LayerSharingRule::kExplicit;
  }
  return absl::OkStatus();
}

absl::Status ReadPerLayerEmbedding(const JsonFields& config, int default_size, ModelSpec* spec) {
  PerLayerEmbeddingSpec& per_layer = spec->per_layer_embedding;
  KVASIR_ASSIGN_OR_RETURN(per_layer.size,
                          config.IntOr("hidden_size_per_layer_input", default_size, 0, kMaxHidden));
  if (per_layer.size == 0) return absl::OkStatus();
  KVASIR_ASSIGN_OR_RETURN(per_layer.vocab_size,
                          config.IntOr("vocab_size_per_layer_input", 262144, 1, kMaxVocab));
  per_layer.activation = Activation::kGeluTanh;
  return absl::OkStatus();
}

TensorNames GemmaNames() {
  using enum WeightRole;
  TensorNames names = LlamaNames();
  names.Set(kMixerPostNorm, "layers.{}.post_attention_layernorm")
      .Set(kMlpNorm, "layers.{}.pre_feedforward_layernorm")
      .Set(kMlpPostNorm, "layers.{}.post_feedforward_layernorm");
  return names;
}

void AddPerLayerNames(const ModelSpec& spec, TensorNames* names) {
  using enum WeightRole;
  names->Set(kPerLayerTable, "embed_tokens_per_layer")
      .Set(kPerLayerModelProject, "per_layer_model_projection")
      .Set(kPerLayerModelNorm, "per_layer_projection_norm")
      .Set(kPerLayerGate, "layers.{}.per_layer_input_gate")
      .Set(kPerLayerProject, "layers.{}.per_layer_projection")
      .Set(kPerLayerNorm, "layers.{}.post_per_layer_input_norm");
  for (int layer = 0; layer < spec.num_layers(); ++layer) {
    if (spec.stores(layer)) continue;
    const std::string attention = absl::StrCat("layers.", layer, ".self_attn.");
    names->Unused({attention + "k_proj.*", attention + "v_proj.*", attention + "k_norm.*",
                   attention + "v_norm.*"});
  }
}

}  // namespace kvasir
