// Qwen 3, dense and with experts: Llama with a norm on each head of q and k.
#include <vector>

#include "base/status_macros.h"
#include "runtime/model/architectures/parts/decoder_config.h"
#include "runtime/model/architectures/parts/experts.h"
#include "runtime/model/architectures/parts/kv_sharing.h"
#include "runtime/model/architectures/parts/layer_types.h"
#include "runtime/model/architectures/parts/llama_names.h"
#include "runtime/model/architectures/parts/rope_config.h"
#include "runtime/model/architectures/registry.h"

namespace kvasir {
namespace {

absl::Status ReadQwen3(const JsonFields& config, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(ReadDecoder(config, {.head_dim = 128}, spec));
  KVASIR_ASSIGN_OR_RETURN(const bool bias, config.BoolOr("attention_bias", false));
  SetAttentionBias(bias, bias, spec);
  const NormSpec norm = spec->layers[0].norm;
  ForEachAttention(spec, [&](int, AttentionSpec* attention) {
    attention->qk_norm = {QkNormSpec::Span::kHead, norm};
  });
  KVASIR_ASSIGN_OR_RETURN(
      const RopeSpec rope,
      ReadRope(config, spec->head_dim(), spec->max_positions, {.partial_allowed = false}));
  spec->ropes = {rope};
  KVASIR_RETURN_IF_ERROR(ParseKvSharing(config, spec));
  return ReadSwitchedWindows(config, spec);
}

absl::Status ReadQwen3Moe(const JsonFields& config, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(ReadQwen3(config, spec));
  KVASIR_ASSIGN_OR_RETURN(MoeSpec moe, ReadExperts(config, "moe_intermediate_size",
                                                   spec->layers[0].feed_forward.dense.activation));
  KVASIR_ASSIGN_OR_RETURN(moe.renormalize, config.BoolOr("norm_topk_prob", false));
  return PutExpertsBySteps(config, moe, spec);
}

TensorNames Names(const ModelSpec&) {
  TensorNames names = LlamaNames();
  AddExpertNames("", &names);
  return names;
}

absl::Status CompleteQwen3Moe(const GgufReader& reader, nlohmann::json* config) {
  KVASIR_RETURN_IF_ERROR(
      reader.CopyInteger("expert_feed_forward_length", "moe_intermediate_size", config));
  (*config)["norm_topk_prob"] = true;
  return reader.CopyExpertCounts(config);
}

void DescribeQwen3Moe(const ModelSpec& spec, GgufKeys* keys) {
  keys->Integer("expert_feed_forward_length", spec.layers[0].feed_forward.moe->width);
}

}  // namespace

std::vector<Architecture> Qwen3Architectures() {
  return {{"Qwen3ForCausalLM", "qwen3", ReadQwen3, Names, false, {.name = "qwen3"}},
          {"Qwen3MoeForCausalLM",
           "qwen3_moe",
           ReadQwen3Moe,
           Names,
           false,
           {.name = "qwen3moe", .complete = CompleteQwen3Moe, .describe = DescribeQwen3Moe}}};
}

}  // namespace kvasir
