// OPT: learned positions from index 2 on, LayerNorm before the sub-layers, or behind each sum in
// the 350m, whose embeddings are also smaller than its layers.
#include <string>
#include <vector>

#include "base/status_macros.h"
#include "runtime/model/architectures/parts/decoder_config.h"
#include "runtime/model/architectures/registry.h"

namespace kvasir {
namespace {

absl::Status Read(const JsonFields& config, ModelSpec* spec) {
  KVASIR_ASSIGN_OR_RETURN(const bool affine, config.BoolOr("layer_norm_elementwise_affine", true));
  KVASIR_RETURN_IF_ERROR(ReadDecoder(config,
                                     {.norm = {NormKind::kLayer, 1e-5f, affine, affine},
                                      .gated = false,
                                      .activation = Activation::kRelu,
                                      .tied = true},
                                     spec));
  KVASIR_ASSIGN_OR_RETURN(const bool before, config.BoolOr("do_layer_norm_before", true));
  KVASIR_ASSIGN_OR_RETURN(const bool no_final, config.BoolOr("_remove_final_layer_norm", false));
  KVASIR_ASSIGN_OR_RETURN(const bool bias, config.BoolOr("enable_bias", true));
  SetAttentionBias(bias, bias, spec);
  for (LayerSpec& layer : spec->layers) {
    if (!before) layer.placement = NormPlacement::kAfterAdd;
    layer.feed_forward.dense.bias = bias;
    layer.attention()->rope = -1;
  }
  if (!before || no_final) spec->head.norm.kind = NormKind::kNone;
  spec->embedding.learned_positions = true;
  spec->embedding.position_offset = 2;
  KVASIR_ASSIGN_OR_RETURN(const int64_t size,
                          config.IntOr("word_embed_proj_dim", spec->hidden_size, 1, kMaxHidden));
  if (size != spec->hidden_size) spec->embedding.size = static_cast<int>(size);
  return absl::OkStatus();
}

TensorNames Names(const ModelSpec& spec) {
  using enum WeightRole;
  const std::string layer = "layers.{}.";
  const bool after = spec.layers[0].placement == NormPlacement::kAfterAdd;
  TensorNames names;
  names.Prefixes({"model.decoder.", "decoder."})
      .Set(kEmbedding, "embed_tokens")
      .Set(kPositions, "embed_positions")
      .Set(kEmbeddingProject, "project_in")
      .Set(kHeadProject, "project_out")
      .Set(after ? kMixerPostNorm : kMixerNorm, layer + "self_attn_layer_norm")
      .Set(after ? kMlpPostNorm : kMlpNorm, layer + "final_layer_norm")
      .Set(kQuery, layer + "self_attn.q_proj")
      .Set(kKey, layer + "self_attn.k_proj")
      .Set(kValue, layer + "self_attn.v_proj")
      .Set(kOutput, layer + "self_attn.out_proj")
      .Set(kUp, layer + "fc1")
      .Set(kDown, layer + "fc2")
      .Set(kFinalNorm, "final_layer_norm")
      .Set(kHead, "/lm_head");
  return names;
}

}  // namespace

std::vector<Architecture> OptArchitectures() { return {{"OPTForCausalLM", "opt", Read, Names}}; }

}  // namespace kvasir
