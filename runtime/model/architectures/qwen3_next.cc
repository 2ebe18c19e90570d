// Qwen3-Next and Qwen 3.5 / 3.6, dense and with experts: three gated delta nets to one attention
// layer, whose output is gated; norms of 1 + weight but for the delta net's own.
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "runtime/model/architectures/parts/decoder_config.h"
#include "runtime/model/architectures/parts/experts.h"
#include "runtime/model/architectures/parts/kv_sharing.h"
#include "runtime/model/architectures/parts/layer_types.h"
#include "runtime/model/architectures/parts/llama_names.h"
#include "runtime/model/architectures/parts/rope_config.h"
#include "runtime/model/architectures/registry.h"
#include "runtime/model/loading/tensor_forms.h"
#include "runtime/ops/layers/recurrent_state.h"

namespace kvasir {
namespace {

absl::StatusOr<DeltaNetSpec> ReadDeltaNet(const JsonFields& config, const NormSpec& norm) {
  DeltaNetSpec net;
  KVASIR_ASSIGN_OR_RETURN(net.key_heads, config.IntOr("linear_num_key_heads", 16, 1, kMaxHeads));
  KVASIR_ASSIGN_OR_RETURN(net.value_heads,
                          config.IntOr("linear_num_value_heads", 32, 1, kMaxHeads));
  KVASIR_ASSIGN_OR_RETURN(net.key_dim, config.IntOr("linear_key_head_dim", 128, 1, kMaxHeadDim));
  KVASIR_ASSIGN_OR_RETURN(net.value_dim,
                          config.IntOr("linear_value_head_dim", 128, 1, kMaxHeadDim));
  KVASIR_ASSIGN_OR_RETURN(net.conv_kernel,
                          config.IntOr("linear_conv_kernel_dim", 4, 1, kMaxConvolutionInputs));
  if (net.value_heads % net.key_heads != 0) {
    return config.Wrong("linear_num_value_heads",
                        absl::StrCat("must be a multiple of the ", net.key_heads, " key heads"));
  }
  net.norm = norm;
  return net;
}

absl::Status ReadBase(const JsonFields& config, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(ReadDecoder(config, {.head_dim = 256, .width = 1}, spec));
  KVASIR_ASSIGN_OR_RETURN(const bool bias, config.BoolOr("attention_bias", false));
  SetAttentionBias(bias, bias, spec);
  const NormSpec norm = spec->layers[0].norm;
  ForEachAttention(spec, [&](int, AttentionSpec* attention) {
    attention->qk_norm = {QkNormSpec::Span::kHead, norm};
    attention->output_gate = true;
  });
  KVASIR_ASSIGN_OR_RETURN(const RopeSpec rope, ReadRope(config, spec->head_dim(),
                                                        spec->max_positions, {.partial = 0.25}));
  spec->ropes = {rope};
  KVASIR_RETURN_IF_ERROR(ParseKvSharing(config, spec));
  KVASIR_ASSIGN_OR_RETURN(const int64_t every,
                          config.IntOr("full_attention_interval", 4, 1, INT32_MAX));
  KVASIR_ASSIGN_OR_RETURN(const std::vector<LayerType> types,
                          ReadLayerTypes(config, spec->num_layers(),
                                         {LayerType::kFull, LayerType::kLinear}, [&](int layer) {
                                           return (layer + 1) % every == 0 ? LayerType::kFull
                                                                           : LayerType::kLinear;
                                         }));
  KVASIR_ASSIGN_OR_RETURN(const DeltaNetSpec net, ReadDeltaNet(config, norm));
  for (int layer = 0; layer < spec->num_layers(); ++layer) {
    if (types[layer] == LayerType::kLinear) spec->layers[layer].mixer = net;
  }
  return absl::OkStatus();
}

absl::Status ReadDense(const JsonFields& config, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(config.Int("intermediate_size", 1, kMaxIntermediate).status());
  return ReadBase(config, spec);
}

absl::Status ReadMoe(const JsonFields& config, bool always_renormalized, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(ReadBase(config, spec));
  KVASIR_ASSIGN_OR_RETURN(MoeSpec moe, ReadExperts(config, "moe_intermediate_size",
                                                   spec->layers[0].feed_forward.dense.activation));
  KVASIR_ASSIGN_OR_RETURN(moe.renormalize, config.BoolOr("norm_topk_prob", true));
  if (always_renormalized) moe.renormalize = true;
  KVASIR_ASSIGN_OR_RETURN(
      moe.shared_width, config.IntOr("shared_expert_intermediate_size", 512, 0, kMaxIntermediate));
  moe.shared_gate = moe.shared_width > 0;
  return PutExpertsBySteps(config, moe, spec);
}

absl::Status ReadNext(const JsonFields& config, ModelSpec* spec) {
  return ReadMoe(config, /*always_renormalized=*/false, spec);
}

absl::Status ReadMoe35(const JsonFields& config, ModelSpec* spec) {
  return ReadMoe(config, /*always_renormalized=*/true, spec);
}

TensorNames NamesWith(TensorForm delta_in) {
  using enum WeightRole;
  const std::string net = "layers.{}.linear_attn.";
  TensorNames names = LlamaNames();
  names.Set(kQuery, "layers.{}.self_attn.q_proj", GatedQueryForm())
      .SetRaw(kDeltaIn, net + "in_proj", "", std::move(delta_in))
      .Set(kDeltaConv, net + "conv1d", ConvolutionForm())
      .SetRaw(kDeltaDecay, net + "A_log", "", Exponential(PlainForm()))
      .SetRaw(kDeltaDtBias, net + "dt_bias")
      .Set(kDeltaNorm, net + "norm")
      .Set(kDeltaOut, net + "out_proj")
      // Predicts several tokens at once, which is not done here.
      .Unused({"/mtp.*", "/model.mtp.*"});
  for (const WeightRole role : {kMixerNorm, kMlpNorm, kQueryNorm, kKeyNorm, kFinalNorm}) {
    names.Change(role, AddOne);
  }
  AddExpertNames("shared_expert", &names);
  return names;
}

TensorNames NextNames(const ModelSpec&) { return NamesWith(GroupedDeltaInForm()); }
TensorNames Names(const ModelSpec&) { return NamesWith(DeltaInForm()); }

}  // namespace

std::vector<Architecture> Qwen3NextArchitectures() {
  return {{"Qwen3NextForCausalLM", "qwen3_next", ReadNext, NextNames},
          {"Qwen3_5ForCausalLM", "qwen3_5_text", ReadDense, Names},
          {"Qwen3_5ForConditionalGeneration", "qwen3_5", ReadDense, Names, true},
          {"Qwen3_5MoeForCausalLM", "qwen3_5_moe_text", ReadMoe35, Names},
          {"Qwen3_5MoeForConditionalGeneration", "qwen3_5_moe", ReadMoe35, Names, true}};
}

}  // namespace kvasir
