// Granite, dense and with experts: Llama with multipliers of embeddings, scores, residual branches
// and logits.
#include <string>
#include <vector>

#include "base/status_macros.h"
#include "runtime/model/architectures/parts/decoder_config.h"
#include "runtime/model/architectures/parts/experts.h"
#include "runtime/model/architectures/parts/kv_sharing.h"
#include "runtime/model/architectures/parts/llama_names.h"
#include "runtime/model/architectures/parts/rope_config.h"
#include "runtime/model/architectures/registry.h"
#include "runtime/model/loading/tensor_forms.h"

namespace kvasir {
namespace {

absl::Status ReadGranite(const JsonFields& config, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(ReadDecoder(config, {}, spec));
  KVASIR_ASSIGN_OR_RETURN(const bool bias, config.BoolOr("attention_bias", false));
  SetAttentionBias(bias, bias, spec);
  KVASIR_ASSIGN_OR_RETURN(const bool mlp_bias, config.BoolOr("mlp_bias", false));
  const auto multiplier = [&](const char* key) { return config.NumberOr(key, 1.0, 1e-6, 1e6); };
  KVASIR_ASSIGN_OR_RETURN(const double embedding, multiplier("embedding_multiplier"));
  KVASIR_ASSIGN_OR_RETURN(const double residual, multiplier("residual_multiplier"));
  KVASIR_ASSIGN_OR_RETURN(const double attention_scale, multiplier("attention_multiplier"));
  KVASIR_ASSIGN_OR_RETURN(const double logits, multiplier("logits_scaling"));
  spec->embedding.multiplier = static_cast<float>(embedding);
  spec->head.multiplier = static_cast<float>(1.0 / logits);
  for (LayerSpec& layer : spec->layers) {
    layer.residual_multiplier = static_cast<float>(residual);
    layer.feed_forward.dense.bias = mlp_bias;
    layer.attention()->scale = static_cast<float>(attention_scale);
  }
  KVASIR_ASSIGN_OR_RETURN(
      const RopeSpec rope,
      ReadRope(config, spec->head_dim(), spec->max_positions, {.partial_allowed = false}));
  spec->ropes = {rope};
  return ParseKvSharing(config, spec);
}

absl::Status ReadGraniteMoe(const JsonFields& config, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(ReadGranite(config, spec));
  KVASIR_ASSIGN_OR_RETURN(MoeSpec moe, ReadExperts(config, "intermediate_size",
                                                   spec->layers[0].feed_forward.dense.activation));
  moe.score = MoeSpec::Score::kSoftmaxOfChosen;
  KVASIR_ASSIGN_OR_RETURN(moe.shared_width,
                          config.IntOr("shared_intermediate_size", 0, 0, kMaxIntermediate));
  PutExpertsEverywhere(moe, spec);
  return absl::OkStatus();
}

TensorNames Names(const ModelSpec&) {
  using enum WeightRole;
  const std::string moe = "layers.{}.block_sparse_moe.";
  TensorNames names = LlamaNames();
  names.Set(kRouter, moe + "router.layer")
      .Set(kExpertGate, moe + "input_linear", StackedGateUpForm())
      .Set(kExpertUp, moe + "input_linear", StackedGateUpForm())
      .Set(kExpertDown, moe + "output_linear", StackedForm())
      .Set(kSharedGate, "layers.{}.shared_mlp.input_linear", FusedGateUpForm())
      .Set(kSharedUp, "layers.{}.shared_mlp.input_linear", FusedGateUpForm())
      .Set(kSharedDown, "layers.{}.shared_mlp.output_linear");
  return names;
}

absl::Status CompleteGranite(const GgufReader& reader, nlohmann::json* config) {
  KVASIR_RETURN_IF_ERROR(reader.CopyNumber("embedding_scale", "embedding_multiplier", config));
  KVASIR_RETURN_IF_ERROR(reader.CopyNumber("residual_scale", "residual_multiplier", config));
  KVASIR_RETURN_IF_ERROR(reader.CopyNumber("attention.scale", "attention_multiplier", config));
  KVASIR_RETURN_IF_ERROR(reader.CopyNumber("logit_scale", "logits_scaling", config));
  config->erase("head_dim");
  return absl::OkStatus();
}

absl::Status CompleteGraniteMoe(const GgufReader& reader, nlohmann::json* config) {
  KVASIR_RETURN_IF_ERROR(CompleteGranite(reader, config));
  KVASIR_RETURN_IF_ERROR(
      reader.CopyInteger("expert_shared_feed_forward_length", "shared_intermediate_size", config));
  return reader.CopyExpertCounts(config);
}

void DescribeGranite(const ModelSpec& spec, GgufKeys* keys) {
  keys->Number("embedding_scale", spec.embedding.multiplier);
  keys->Number("residual_scale", spec.layers[0].residual_multiplier);
  keys->Number("attention.scale", spec.attention(0).scale);
  keys->Number("logit_scale", 1.0f / spec.head.multiplier);
  const std::optional<MoeSpec>& moe = spec.layers[0].feed_forward.moe;
  if (moe && moe->shared_width > 0) {
    keys->Integer("expert_shared_feed_forward_length", moe->shared_width);
  }
}

}  // namespace

std::vector<Architecture> GraniteArchitectures() {
  return {{"GraniteForCausalLM",
           "granite",
           ReadGranite,
           Names,
           false,
           {.name = "granite",
            .complete = CompleteGranite,
            .describe = DescribeGranite,
            .rope_pairs_side_by_side = true}},
          {"GraniteMoeForCausalLM",
           "granitemoe",
           ReadGraniteMoe,
           Names,
           false,
           {.name = "granitemoe",
            .complete = CompleteGraniteMoe,
            .describe = DescribeGranite,
            .rope_pairs_side_by_side = true}},
          {"GraniteMoeSharedForCausalLM",
           "granitemoeshared",
           ReadGraniteMoe,
           Names,
           false,
           {.name = "granitemoe"}}};
}

}  // namespace kvasir
