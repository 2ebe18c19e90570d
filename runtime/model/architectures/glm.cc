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
  (*config)["attention_bias"] = reader.HasEither("blk.0.attn_q.bias", "blk.0.attn_qkv.bias");
  return absl::OkStatus();
}

absl::Status CompleteGlm4Moe(const GgufReader& reader, nlohmann::json* config) {
  KVASIR_RETURN_IF_ERROR(CompleteGlm4(reader, config));
  (*config)["use_qk_norm"] = reader.file().Find("blk.0.attn_q_norm.weight") != nullptr;
  const std::pair<const char*, const char*> integers[] = {
      {"expert_count", "n_routed_experts"},
      {"expert_used_count", "num_experts_per_tok"},
      {"expert_feed_forward_length", "moe_intermediate_size"},
      {"expert_shared_count", "n_shared_experts"},
      {"leading_dense_block_count", "first_k_dense_replace"},
      {"expert_group_count", "n_group"},
      {"expert_group_used_count", "topk_group"}};
  for (const auto& [from, to] : integers) {
    KVASIR_RETURN_IF_ERROR(reader.CopyInteger(from, to, config));
  }
  KVASIR_RETURN_IF_ERROR(
      reader.CopyNumber("expert_weights_scale", "routed_scaling_factor", config));
  KVASIR_ASSIGN_OR_RETURN(const auto normed,
                          reader.metadata().Bool(reader.Key("expert_weights_norm")));
  (*config)["norm_topk_prob"] = normed.value_or(false);
  return absl::OkStatus();
}

void DescribeGlm4Moe(const ModelSpec& spec, GgufKeys* keys) {
  int dense = 0;
  while (dense < spec.num_layers() && !spec.layers[dense].feed_forward.moe) ++dense;
  keys->Integer("leading_dense_block_count", dense);
  if (dense == spec.num_layers()) return;
  constexpr int kSigmoid = 2;
  const MoeSpec& moe = *spec.layers[dense].feed_forward.moe;
  keys->Integer("expert_feed_forward_length", moe.width);
  keys->Integer("expert_shared_count", moe.shared_width / moe.width);
  keys->Integer("expert_group_count", moe.groups);
  keys->Integer("expert_group_used_count", moe.groups_chosen);
  keys->Integer("expert_gating_func", kSigmoid);
  keys->Number("expert_weights_scale", moe.weight_scale);
  keys->Bool("expert_weights_norm", moe.renormalize);
}

// The layers behind the last predict several tokens at once, which is not done here.
void RenameGlm4Moe(const ModelSpec& spec, TensorNames* names) {
  names->Unused({absl::StrCat("blk.", spec.num_layers(), ".*")});
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
          {"Glm4MoeForCausalLM",
           "glm4_moe",
           ReadGlm4Moe,
           Glm4MoeNames,
           false,
           {.name = "glm4moe",
            .complete = CompleteGlm4Moe,
            .describe = DescribeGlm4Moe,
            .rename = RenameGlm4Moe,
            .mlp_norm = "blk.{}.post_attention_norm"}}};
}

}  // namespace kvasir
