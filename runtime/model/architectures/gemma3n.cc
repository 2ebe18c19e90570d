// Gemma 3n: four residual streams (AltUp), a low-rank side branch beside attention (Laurel),
// per-layer embeddings, sparse gates in the first layers, and the last layers' K/V taken from
// earlier ones.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "runtime/model/architectures/parts/gemma_config.h"
#include "runtime/model/architectures/parts/kv_sharing.h"
#include "runtime/model/architectures/registry.h"
#include "runtime/ops/layers/alternating_updates.h"

namespace kvasir {
namespace {

// One number per layer, or one for all.
absl::StatusOr<std::vector<double>> PerLayer(const JsonFields& config, const char* key, int layers,
                                             double min, double max) {
  KVASIR_ASSIGN_OR_RETURN(std::vector<double> values, config.NumberList(key, kMaxLayers, min, max));
  if (!config.At(key).is_array()) values.assign(layers, values[0]);
  if (values.size() != static_cast<size_t>(layers)) {
    return config.Wrong(key,
                        absl::StrCat("must have one number for each of the ", layers, " layers"));
  }
  return values;
}

absl::Status ReadMlps(const JsonFields& config, ModelSpec* spec) {
  const int layers = spec->num_layers();
  if (config.Has("intermediate_size")) {
    KVASIR_ASSIGN_OR_RETURN(const std::vector<double> widths,
                            PerLayer(config, "intermediate_size", layers, 1, kMaxIntermediate));
    for (int i = 0; i < layers; ++i) {
      spec->layers[i].feed_forward.dense.width = static_cast<int>(widths[i]);
    }
  }
  std::vector<double> sparsity(layers, 0.0);
  if (config.Has("activation_sparsity_pattern")) {
    KVASIR_ASSIGN_OR_RETURN(sparsity,
                            PerLayer(config, "activation_sparsity_pattern", layers, 0, 0.999));
  } else if (layers > 10) {
    std::fill_n(sparsity.begin(), 10, 0.95);
  }
  for (int i = 0; i < layers; ++i) {
    spec->layers[i].feed_forward.dense.sparsity = static_cast<float>(sparsity[i]);
  }
  return absl::OkStatus();
}

absl::Status Read(const JsonFields& config, ModelSpec* spec) {
  // intermediate_size may be a list, which is read below.
  nlohmann::json sizes = config.object();
  sizes["intermediate_size"] = 16384;
  KVASIR_RETURN_IF_ERROR(ReadGemmaBase(JsonFields(&sizes, config.file()),
                                       {.hidden_size = 2048,
                                        .layers = 35,
                                        .query_heads = 8,
                                        .head_dim = 256,
                                        .positions = 32768,
                                        .vocab_size = 262400},
                                       spec));
  KVASIR_RETURN_IF_ERROR(ReadMlps(config, spec));
  KVASIR_ASSIGN_OR_RETURN(const int64_t kv_heads,
                          config.IntOr("num_key_value_heads", 2, 1, spec->query_heads()));
  if (spec->query_heads() % kv_heads != 0) {
    return config.Wrong("num_key_value_heads", "but must divide num_attention_heads");
  }
  const NormSpec norm = spec->layers[0].norm;
  ForEachAttention(spec, [&](int, AttentionSpec* attention) {
    attention->kv_heads = static_cast<int>(kv_heads);
    attention->scale = 1;
    attention->qk_norm = {QkNormSpec::Span::kHead, norm};
    attention->v_norm = true;
  });
  for (LayerSpec& layer : spec->layers) layer.placement = NormPlacement::kBoth;
  KVASIR_RETURN_IF_ERROR(
      ReadGemmaLayers(config, /*pattern=*/5, {.theta = 1e6, .partial_allowed = false}, spec));
  KVASIR_RETURN_IF_ERROR(ReadSharedKvLayers(config, spec));
  KVASIR_RETURN_IF_ERROR(ReadPerLayerEmbedding(config, 256, spec));
  KVASIR_ASSIGN_OR_RETURN(const double cap, config.NumberOr("final_logit_softcapping", 30, 0, 1e6));
  spec->head.softcap = static_cast<float>(cap);
  AltUpSpec& altup = spec->altup;
  KVASIR_ASSIGN_OR_RETURN(altup.streams, config.IntOr("altup_num_inputs", 4, 1, kMaxAltUpStreams));
  KVASIR_ASSIGN_OR_RETURN(altup.active, config.IntOr("altup_active_idx", 0, 0, altup.streams - 1));
  KVASIR_ASSIGN_OR_RETURN(altup.scale_corrected, config.BoolOr("altup_correct_scale", true));
  KVASIR_ASSIGN_OR_RETURN(altup.laurel_rank, config.IntOr("laurel_rank", 64, 1, kMaxHidden));
  if (spec->per_layer_embedding.size == 0) {
    return config.Wrong("hidden_size_per_layer_input", "must be at least 1");
  }
  return absl::OkStatus();
}

TensorNames Names(const ModelSpec& spec) {
  using enum WeightRole;
  const std::string altup = "layers.{}.altup.";
  const std::string laurel = "layers.{}.laurel.";
  TensorNames names = GemmaNames();
  AddPerLayerNames(spec, &names);
  names.Set(kAltUpProject, "altup_projections.{i}")
      .Set(kAltUpUnproject, "altup_unembed_projections.{i}")
      .Set(kAltUpCorrection, altup + "correction_coefs")
      .Set(kAltUpPrediction, altup + "prediction_coefs")
      .Set(kAltUpRouter, altup + "modality_router")
      .Set(kAltUpRouterNorm, altup + "router_norm")
      .SetRaw(kAltUpOutputScale, altup + "correct_output_scale")
      .Set(kLaurelLeft, laurel + "linear_left")
      .Set(kLaurelRight, laurel + "linear_right")
      .Set(kLaurelNorm, laurel + "post_laurel_norm");
  return names;
}

}  // namespace

std::vector<Architecture> Gemma3nArchitectures() {
  return {{"Gemma3nForCausalLM", "gemma3n_text", Read, Names},
          {"Gemma3nForConditionalGeneration", "gemma3n", Read, Names, true}};
}

}  // namespace kvasir
