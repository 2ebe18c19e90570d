// DeepSeek V2 and V3: one latent row per token for all heads instead of K and V, interleaved rope
// on a part of each head, experts with groups behind a few dense layers.
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "runtime/model/architectures/parts/decoder_config.h"
#include "runtime/model/architectures/parts/experts.h"
#include "runtime/model/architectures/parts/llama_names.h"
#include "runtime/model/architectures/parts/rope_config.h"
#include "runtime/model/architectures/registry.h"
#include "runtime/model/loading/tensor_forms.h"

namespace kvasir {
namespace {

absl::StatusOr<LatentSpec> ReadLatent(const JsonFields& config) {
  LatentSpec latent;
  KVASIR_ASSIGN_OR_RETURN(latent.q_rank, config.IntOr("q_lora_rank", 0, 0, kMaxHidden));
  KVASIR_ASSIGN_OR_RETURN(latent.kv_rank, config.Int("kv_lora_rank", 1, kMaxHidden));
  KVASIR_ASSIGN_OR_RETURN(latent.nope_dim, config.Int("qk_nope_head_dim", 1, kMaxHeadDim));
  KVASIR_ASSIGN_OR_RETURN(latent.rope_dim, config.Int("qk_rope_head_dim", 2, kMaxHeadDim));
  KVASIR_ASSIGN_OR_RETURN(latent.v_dim, config.Int("v_head_dim", 1, kMaxHeadDim));
  if (latent.rope_dim % 2 != 0) return config.Wrong("qk_rope_head_dim", "must be even");
  latent.norm = {NormKind::kRms, 1e-6f};
  return latent;
}

absl::Status ReadBase(const JsonFields& config, ModelSpec* spec) {
  // head_dim of these configs is the rotated part alone.
  nlohmann::json sizes = config.object();
  sizes["head_dim"] = 2;
  KVASIR_RETURN_IF_ERROR(ReadDecoder(JsonFields(&sizes, config.file()), {}, spec));
  KVASIR_ASSIGN_OR_RETURN(const LatentSpec latent, ReadLatent(config));
  KVASIR_ASSIGN_OR_RETURN(const RopeSpec rope,
                          ReadRope(config, latent.rope_dim, spec->max_positions));
  spec->ropes = {rope};
  KVASIR_ASSIGN_OR_RETURN(const bool bias, config.BoolOr("attention_bias", false));
  SetAttentionBias(bias, bias, spec);
  double scale = 1.0 / std::sqrt(static_cast<double>(latent.nope_dim + latent.rope_dim));
  if (rope.scaling == RopeSpec::Scaling::kYarn) {
    const char* key = config.Has("rope_scaling") && !config.At("rope_scaling").empty()
                          ? "rope_scaling"
                          : "rope_parameters";
    const JsonFields fields(&config.At(key), absl::StrCat(config.file(), ": ", key));
    KVASIR_ASSIGN_OR_RETURN(const double all_dim, fields.NumberOr("mscale_all_dim", 0, 0, 1e4));
    const double m = all_dim > 0 ? YarnScale(rope.factor, all_dim) : 1.0;
    scale *= m * m;
  }
  ForEachAttention(spec, [&](int, AttentionSpec* attention) {
    attention->latent = latent;
    attention->kv_heads = 1;
    attention->head_dim = latent.nope_dim + latent.rope_dim;
    attention->v_head_dim = latent.v_dim;
    attention->scale = static_cast<float>(scale);
  });
  return absl::OkStatus();
}

absl::Status ReadMoe(const JsonFields& config, bool v3, ModelSpec* spec) {
  KVASIR_ASSIGN_OR_RETURN(MoeSpec moe, ReadExperts(config, "moe_intermediate_size",
                                                   spec->layers[0].feed_forward.dense.activation));
  KVASIR_ASSIGN_OR_RETURN(const int64_t shared, config.IntOr("n_shared_experts", 0, 0, 1024));
  moe.shared_width = static_cast<int>(shared) * moe.width;
  KVASIR_RETURN_IF_ERROR(ReadGroupedSigmoidRouter(config, &moe));
  if (!v3) {
    // Softmax instead, without a bias; weights are not made to sum to one.
    moe.score = MoeSpec::Score::kSoftmax;
    moe.choice_bias = moe.renormalize = false;
    moe.group_score_top = 1;
    KVASIR_ASSIGN_OR_RETURN(const std::string method, config.StringOr("topk_method", "greedy"));
    if (method == "greedy") {
      moe.groups = moe.groups_chosen = 1;
    } else if (method != "group_limited_greedy") {
      return RefuseKey(config, "topk_method", "greedy and group_limited_greedy are");
    }
  }
  return PutExpertsBehindDense(config, moe, spec);
}

absl::Status ReadV2(const JsonFields& config, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(ReadBase(config, spec));
  return ReadMoe(config, /*v3=*/false, spec);
}

absl::Status ReadV3(const JsonFields& config, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(ReadBase(config, spec));
  KVASIR_ASSIGN_OR_RETURN(const bool interleaved, config.BoolOr("rope_interleave", true));
  if (!interleaved) return RefuseKey(config, "rope_interleave", "true is");
  return ReadMoe(config, /*v3=*/true, spec);
}

TensorNames Names(const ModelSpec& spec) {
  using enum WeightRole;
  const std::string attention = "layers.{}.self_attn.";
  TensorNames names = LlamaNames();
  const bool two_steps = spec.attention(0).latent && spec.attention(0).latent->q_rank > 0;
  names.Set(kQuery, attention + (two_steps ? "q_b_proj" : "q_proj"), InterleavedRope(PlainForm()))
      .Set(kQueryLatent, attention + "q_a_proj")
      .Set(kQueryLatentNorm, attention + "q_a_layernorm")
      .Set(kKvLatent, attention + "kv_a_proj_with_mqa", InterleavedRope(PlainForm()))
      .Set(kKvLatentNorm, attention + "kv_a_layernorm")
      .Set(kKeyUp, attention + "kv_b_proj", KeyUpForm())
      .Set(kValueUp, attention + "kv_b_proj", ValueUpForm())
      // The layer behind the last predicts several tokens at once, which is not done here.
      .Unused({absl::StrCat("layers.", spec.num_layers(), ".*")});
  AddExpertNames("shared_experts", &names);
  return names;
}

}  // namespace

std::vector<Architecture> DeepseekArchitectures() {
  return {{"DeepseekV2ForCausalLM", "deepseek_v2", ReadV2, Names},
          {"DeepseekV3ForCausalLM", "deepseek_v3", ReadV3, Names}};
}

}  // namespace kvasir
