// Cohere (Command-R) and Cohere 2: LayerNorm without bias, attention and MLP beside each other on
// one norm, interleaved rope, a multiplier of the logits; in the second windows, and full layers
// that are not rotated.
#include <vector>

#include "base/status_macros.h"
#include "runtime/model/architectures/parts/decoder_config.h"
#include "runtime/model/architectures/parts/kv_sharing.h"
#include "runtime/model/architectures/parts/layer_types.h"
#include "runtime/model/architectures/parts/llama_names.h"
#include "runtime/model/architectures/parts/rope_config.h"
#include "runtime/model/architectures/registry.h"
#include "runtime/model/loading/tensor_forms.h"

namespace kvasir {
namespace {

absl::Status ReadCohere(const JsonFields& config, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(
      ReadDecoder(config, {.norm = {NormKind::kLayer, 1e-5f}, .tied = true}, spec));
  KVASIR_ASSIGN_OR_RETURN(const bool bias, config.BoolOr("attention_bias", false));
  SetAttentionBias(bias, bias, spec);
  KVASIR_ASSIGN_OR_RETURN(const bool qk_norm, config.BoolOr("use_qk_norm", false));
  const NormSpec norm = spec->layers[0].norm;
  ForEachAttention(spec, [&](int, AttentionSpec* attention) {
    if (qk_norm) attention->qk_norm = {QkNormSpec::Span::kHeads, norm};
  });
  for (LayerSpec& layer : spec->layers) layer.placement = NormPlacement::kParallelOne;
  KVASIR_ASSIGN_OR_RETURN(const double scale, config.NumberOr("logit_scale", 0.0625, 1e-6, 1e6));
  spec->head.multiplier = static_cast<float>(scale);
  KVASIR_ASSIGN_OR_RETURN(const RopeSpec rope,
                          ReadRope(config, spec->head_dim(), spec->max_positions,
                                   {.theta = 10000.0, .partial_allowed = false}));
  spec->ropes = {rope};
  return ParseKvSharing(config, spec);
}

absl::Status ReadCohere2(const JsonFields& config, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(ReadCohere(config, spec));
  KVASIR_ASSIGN_OR_RETURN(const int64_t every,
                          config.IntOr("sliding_window_pattern", 4, 1, INT32_MAX));
  KVASIR_ASSIGN_OR_RETURN(const std::vector<LayerType> types,
                          ReadLayerTypes(config, spec->num_layers(),
                                         {LayerType::kFull, LayerType::kSliding}, [&](int layer) {
                                           return (layer + 1) % every == 0 ? LayerType::kFull
                                                                           : LayerType::kSliding;
                                         }));
  ForEachAttention(spec, [&](int layer, AttentionSpec* attention) {
    if (types[layer] == LayerType::kFull) attention->rope = -1;
  });
  return ReadWindowsByType(config, types, spec);
}

TensorNames Names(const ModelSpec&) {
  using enum WeightRole;
  TensorNames names = LlamaNames();
  names.Set(kQueryNorm, "layers.{}.self_attn.q_norm", NormOfHeadsForm())
      .Set(kKeyNorm, "layers.{}.self_attn.k_norm", NormOfHeadsForm());
  for (const WeightRole role : {kQuery, kKey, kQueryNorm, kKeyNorm}) {
    names.Change(role, InterleavedRope);
  }
  return names;
}

absl::Status CompleteCohere(const GgufReader& reader, nlohmann::json* config) {
  (*config)["use_qk_norm"] = reader.file().Find("blk.0.attn_q_norm.weight") != nullptr;
  // Readers of the format multiply by 1 where the key is missing.
  (*config)["logit_scale"] = 1.0;
  return reader.CopyNumber("logit_scale", "logit_scale", config);
}

absl::Status CompleteCohere2(const GgufReader& reader, nlohmann::json* config) {
  KVASIR_RETURN_IF_ERROR(CompleteCohere(reader, config));
  return reader.CopyWindows(4, config);
}

void DescribeCohere(const ModelSpec& spec, GgufKeys* keys) {
  keys->Number("logit_scale", spec.head.multiplier);
}

void DescribeCohere2(const ModelSpec& spec, GgufKeys* keys) {
  DescribeCohere(spec, keys);
  keys->Windows(spec, 4);
}

// The norms of heads in pairs too.
void RenameCohere(const ModelSpec&, TensorNames* names) {
  using enum WeightRole;
  names->Set(kQueryNorm, "blk.{}.attn_q_norm", NormOfHeadsForm())
      .Set(kKeyNorm, "blk.{}.attn_k_norm", NormOfHeadsForm());
  for (const WeightRole role : {kQueryNorm, kKeyNorm}) names->Change(role, InterleavedRope);
}

}  // namespace

std::vector<Architecture> CohereArchitectures() {
  return {{"CohereForCausalLM",
           "cohere",
           ReadCohere,
           Names,
           false,
           {.name = "command-r",
            .complete = CompleteCohere,
            .describe = DescribeCohere,
            .rename = RenameCohere,
            .rope_pairs_side_by_side = true}},
          {"Cohere2ForCausalLM",
           "cohere2",
           ReadCohere2,
           Names,
           false,
           {.name = "cohere2",
            .complete = CompleteCohere2,
            .describe = DescribeCohere2,
            .rename = RenameCohere,
            .rope_pairs_side_by_side = true}}};
}

}  // namespace kvasir
