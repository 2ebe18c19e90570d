// Mixtral: Mistral with experts in every layer; the two best logits, softmax over those.
#include <vector>

#include "base/status_macros.h"
#include "runtime/model/architectures/parts/decoder_config.h"
#include "runtime/model/architectures/parts/experts.h"
#include "runtime/model/architectures/parts/kv_sharing.h"
#include "runtime/model/architectures/parts/layer_types.h"
#include "runtime/model/architectures/parts/llama_names.h"
#include "runtime/model/architectures/parts/rope_config.h"
#include "runtime/model/architectures/registry.h"
#include "runtime/model/loading/tensor_forms.h"

namespace kvasir {
namespace {

absl::Status Read(const JsonFields& config, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(ReadDecoder(config, {.norm = {NormKind::kRms, 1e-5f}}, spec));
  KVASIR_ASSIGN_OR_RETURN(const RopeSpec rope,
                          ReadRope(config, spec->head_dim(), spec->max_positions,
                                   {.theta = 1e6, .partial_allowed = false}));
  spec->ropes = {rope};
  KVASIR_RETURN_IF_ERROR(ParseKvSharing(config, spec));
  KVASIR_RETURN_IF_ERROR(ReadWindowOfAllLayers(config, spec));
  KVASIR_ASSIGN_OR_RETURN(MoeSpec moe, ReadExperts(config, "intermediate_size",
                                                   spec->layers[0].feed_forward.dense.activation));
  moe.renormalize = true;
  PutExpertsEverywhere(moe, spec);
  return absl::OkStatus();
}

TensorNames Names(const ModelSpec&) {
  using enum WeightRole;
  const std::string experts = "layers.{}.block_sparse_moe.experts.";
  const std::string stacked = "layers.{}.mlp.experts.";
  TensorNames names = LlamaNames();
  names.Set(kRouter, "layers.{}.block_sparse_moe.gate")
      .Or(kRouter, "layers.{}.mlp.gate.weight", "", PlainForm())
      .Set(kExpertGate, experts + "{i}.w1")
      .Or(kExpertGate, stacked + "gate_up_proj", "", StackedGateUpForm())
      .Set(kExpertUp, experts + "{i}.w3")
      .Or(kExpertUp, stacked + "gate_up_proj", "", StackedGateUpForm())
      .Set(kExpertDown, experts + "{i}.w2")
      .Or(kExpertDown, stacked + "down_proj", "", StackedForm());
  return names;
}

}  // namespace

std::vector<Architecture> MixtralArchitectures() {
  return {{"MixtralForCausalLM", "mixtral", Read, Names, false, {.name = "llama"}}};
}

}  // namespace kvasir
