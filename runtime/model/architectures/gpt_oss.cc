// gpt-oss: a sink per query head, every other layer windowed, clamped experts stored as
// [experts, in, out] with gate and up in turns.
#include <string>
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
  KVASIR_RETURN_IF_ERROR(
      ReadDecoder(config, {.norm = {NormKind::kRms, 1e-5f}, .head_dim = 64}, spec));
  KVASIR_ASSIGN_OR_RETURN(const bool bias, config.BoolOr("attention_bias", true));
  SetAttentionBias(bias, bias, spec);
  ForEachAttention(spec, [](int, AttentionSpec* attention) { attention->sinks = true; });
  KVASIR_ASSIGN_OR_RETURN(const RopeSpec rope,
                          ReadRope(config, spec->head_dim(), spec->max_positions,
                                   {.theta = 150000.0, .partial_allowed = false}));
  spec->ropes = {rope};
  KVASIR_RETURN_IF_ERROR(ParseKvSharing(config, spec));
  KVASIR_ASSIGN_OR_RETURN(
      const std::vector<LayerType> types,
      ReadLayerTypes(
          config, spec->num_layers(), {LayerType::kFull, LayerType::kSliding},
          [](int layer) { return layer % 2 == 0 ? LayerType::kSliding : LayerType::kFull; }));
  KVASIR_RETURN_IF_ERROR(ReadWindowsByType(config, types, spec));
  KVASIR_ASSIGN_OR_RETURN(MoeSpec moe, ReadExperts(config, "intermediate_size", Activation::kSilu));
  moe.score = MoeSpec::Score::kSoftmaxOfChosen;
  moe.router_bias = moe.bias = true;
  KVASIR_ASSIGN_OR_RETURN(const double limit, config.NumberOr("swiglu_limit", 7.0, 1e-3, 1e6));
  KVASIR_ASSIGN_OR_RETURN(const double alpha, config.NumberOr("swiglu_alpha", 1.702, 1e-3, 1e3));
  moe.clamp = static_cast<float>(limit);
  moe.clamp_alpha = static_cast<float>(alpha);
  PutExpertsEverywhere(moe, spec);
  return absl::OkStatus();
}

TensorNames Names(const ModelSpec&) {
  using enum WeightRole;
  const std::string experts = "layers.{}.mlp.experts.";
  TensorNames names = LlamaNames();
  names.SetRaw(kSinks, "layers.{}.self_attn.sinks").Set(kRouter, "layers.{}.mlp.router");
  for (const WeightRole role : {kExpertGate, kExpertUp}) {
    names.SetRaw(role, experts + "gate_up_proj", experts + "gate_up_proj_bias",
                 StackedTransposedTurnsForm());
  }
  names.SetRaw(kExpertDown, experts + "down_proj", experts + "down_proj_bias",
               StackedTransposedForm());
  return names;
}

absl::Status CompleteGptOss(const GgufReader& reader, nlohmann::json* config) {
  KVASIR_RETURN_IF_ERROR(
      reader.CopyInteger("expert_feed_forward_length", "intermediate_size", config));
  KVASIR_RETURN_IF_ERROR(reader.CopyWindows(2, config));
  (*config)["rope_parameters"]["truncate"] = false;
  return reader.CopyExpertCounts(config);
}

void DescribeGptOss(const ModelSpec& spec, GgufKeys* keys) {
  keys->Integer("expert_feed_forward_length", spec.layers[0].feed_forward.moe->width);
  keys->Windows(spec, 2);
}

}  // namespace

std::vector<Architecture> GptOssArchitectures() {
  return {{"GptOssForCausalLM",
           "gpt_oss",
           Read,
           Names,
           false,
           {.name = "gpt-oss",
            .complete = CompleteGptOss,
            .describe = DescribeGptOss,
            .mlp_norm = "blk.{}.post_attention_norm"}}};
}

}  // namespace kvasir
