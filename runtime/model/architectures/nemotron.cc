// Nemotron and Minitron: LayerNorm of 1 + weight, half of each head rotated, squared relu in an MLP
// without a gate.
#include <vector>

#include "base/status_macros.h"
#include "runtime/model/architectures/parts/decoder_config.h"
#include "runtime/model/architectures/parts/kv_sharing.h"
#include "runtime/model/architectures/parts/llama_names.h"
#include "runtime/model/architectures/parts/rope_config.h"
#include "runtime/model/architectures/registry.h"
#include "runtime/model/loading/tensor_forms.h"

namespace kvasir {
namespace {

absl::Status Read(const JsonFields& config, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(ReadDecoder(config,
                                     {.norm = {NormKind::kLayer, 1e-5f, true, /*has_bias=*/true},
                                      .gated = false,
                                      .activation = Activation::kRelu2},
                                     spec));
  KVASIR_ASSIGN_OR_RETURN(const bool bias, config.BoolOr("attention_bias", false));
  SetAttentionBias(bias, bias, spec);
  KVASIR_ASSIGN_OR_RETURN(const bool mlp_bias, config.BoolOr("mlp_bias", false));
  for (LayerSpec& layer : spec->layers) layer.feed_forward.dense.bias = mlp_bias;
  KVASIR_ASSIGN_OR_RETURN(const RopeSpec rope, ReadRope(config, spec->head_dim(),
                                                        spec->max_positions, {.partial = 0.5}));
  spec->ropes = {rope};
  return ParseKvSharing(config, spec);
}

TensorNames Names(const ModelSpec&) {
  using enum WeightRole;
  TensorNames names = LlamaNames();
  for (const WeightRole role : {kMixerNorm, kMlpNorm, kFinalNorm}) names.Change(role, AddOne);
  return names;
}

}  // namespace

std::vector<Architecture> NemotronArchitectures() {
  return {{"NemotronForCausalLM", "nemotron", Read, Names, false, {.name = "nemotron"}}};
}

}  // namespace kvasir
