// StarCoder 2: LayerNorm, biases everywhere, an MLP without a gate, an optional window.
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

absl::Status Read(const JsonFields& config, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(ReadDecoder(config,
                                     {.norm = {NormKind::kLayer, 1e-5f, true, /*has_bias=*/true},
                                      .gated = false,
                                      .activation = Activation::kGeluTanh,
                                      .tied = true},
                                     spec));
  KVASIR_ASSIGN_OR_RETURN(const bool bias, config.BoolOr("use_bias", true));
  SetAttentionBias(bias, bias, spec);
  for (LayerSpec& layer : spec->layers) layer.feed_forward.dense.bias = bias;
  KVASIR_ASSIGN_OR_RETURN(
      const RopeSpec rope,
      ReadRope(config, spec->head_dim(), spec->max_positions, {.partial_allowed = false}));
  spec->ropes = {rope};
  KVASIR_RETURN_IF_ERROR(ParseKvSharing(config, spec));
  return ReadWindowOfAllLayers(config, spec);
}

TensorNames Names(const ModelSpec&) {
  TensorNames names = LlamaNames();
  names.Set(WeightRole::kUp, "layers.{}.mlp.c_fc").Set(WeightRole::kDown, "layers.{}.mlp.c_proj");
  return names;
}

}  // namespace

std::vector<Architecture> Starcoder2Architectures() {
  return {{"Starcoder2ForCausalLM", "starcoder2", Read, Names, false, {.name = "starcoder2"}}};
}

}  // namespace kvasir
