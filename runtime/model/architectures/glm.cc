// GLM-4 (glm, glm4) and GLM-4.5 (glm4_moe): half of each head rotated, biases on q, k and v; glm4
// with norms on both sides, glm4_moe with DeepSeek V3's router.
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
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

absl::Status ReadBase(const JsonFields& config, int head_dim, bool default_bias, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(
      ReadDecoder(config, {.norm = {NormKind::kRms, 1e-5f}, .head_dim = head_dim}, spec));
  KVASIR_ASSIGN_OR_RETURN(const bool bias, config.BoolOr("attention_bias", default_bias));
  SetAttentionBias(bias, /*output=*/false, spec);
  KVASIR_ASSIGN_OR_RETURN(const RopeSpec rope, ReadRope(config, spec->head_dim(),
                                                        spec->max_positions, {.partial = 0.5}));
  spec->ropes = {rope};
  return ParseKvSharing(config, spec);
}

absl::Status ReadGlm(const JsonFields& config, ModelSpec* spec) {
  return ReadBase(config, 128, false, spec);
}

absl::Status ReadGlm4(const JsonFields& config, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(ReadBase(config, 128, false, spec));
  for (LayerSpec& layer : spec->layers) layer.placement = NormPlacement::kBoth;
  return absl::OkStatus();
}

absl::Status ReadGlm4Moe(const JsonFields& config, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(ReadBase(config, 0, false, spec));
  KVASIR_ASSIGN_OR_RETURN(const bool qk_norm, config.BoolOr("use_qk_norm", false));
  const NormSpec norm = spec->layers[0].norm;
  ForEachAttention(spec, [&](int, AttentionSpec* attention) {
    if (qk_norm) attention->qk_norm = {QkNormSpec::Span::kHead, norm};
  });
  KVASIR_ASSIGN_OR_RETURN(MoeSpec moe, ReadExperts(config, "moe_intermediate_size",
                                                   spec->layers[0].feed_forward.dense.activation));
  KVASIR_RETURN_IF_ERROR(ReadGroupedSigmoidRouter(config, &moe));
  KVASIR_ASSIGN_OR_RETURN(const int64_t shared, config.IntOr("n_shared_experts", 0, 0, 1024));
  moe.shared_width = static_cast<int>(shared) * moe.width;
  return PutExpertsBehindDense(config, moe, spec);
}

TensorNames GlmNames(const ModelSpec&) {
  using enum WeightRole;
  TensorNames names = LlamaNames();
  for (const WeightRole role : {kGate, kUp}) {
    names.Set(role, "layers.{}.mlp.gate_up_proj", FusedGateUpForm());
  }
  for (const WeightRole role : {kQuery, kKey}) names.Change(role, InterleavedRope);
  return names;
}

TensorNames Glm4Names(const ModelSpec& spec) {
  using enum WeightRole;
  TensorNames names = GlmNames(spec);
  names.Set(kMixerPostNorm, "layers.{}.post_self_attn_layernorm")
      .Set(kMlpPostNorm, "layers.{}.post_mlp_layernorm");
  return names;
}

TensorNames Glm4MoeNames(const ModelSpec& spec) {
  TensorNames names = LlamaNames();
  // The layers behind the last predict several tokens at once, which is not done here.
  names.Unused({absl::StrCat("layers.", spec.num_layers(), ".*")});
  AddExpertNames("shared_experts", &names);
  return names;
}

absl::Status CompleteGlm4(const GgufReader& reader, nlohmann::json* config) {
  (*config)["attention_bias"] = reader.file().Find("blk.0.attn_q.bias") != nullptr;
  return absl::OkStatus();
}

}  // namespace

std::vector<Architecture> GlmArchitectures() {
  return {{"GlmForCausalLM", "glm", ReadGlm, GlmNames},
          {"Glm4ForCausalLM",
           "glm4",
           ReadGlm4,
           Glm4Names,
           false,
           {.name = "glm4",
            .complete = CompleteGlm4,
            .rope_pairs_side_by_side = true,
            .up_holds_gate_too = true}},
          {"Glm4MoeForCausalLM", "glm4_moe", ReadGlm4Moe, Glm4MoeNames}};
}

}  // namespace kvasir
