// Hunyuan, dense, with and without sharing of K/V between layers: a norm on each head of q and k
// behind the rotation. Of a shared K every layer takes its own norm, so K is stored normalised
// without a weight, and each layer's weight goes into its queries (exact: the norm's weight is the
// only part of it that differs).
#include <nlohmann/json.hpp>
#include <vector>

#include "base/status_macros.h"
#include "runtime/model/architectures/parts/decoder_config.h"
#include "runtime/model/architectures/parts/kv_sharing.h"
#include "runtime/model/architectures/parts/llama_names.h"
#include "runtime/model/architectures/parts/rope_config.h"
#include "runtime/model/architectures/registry.h"

namespace kvasir {
namespace {

absl::Status ReadBase(const JsonFields& config, bool qk_norm, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(ReadDecoder(config, {.norm = {NormKind::kRms, 1e-5f}}, spec));
  KVASIR_ASSIGN_OR_RETURN(const bool bias, config.BoolOr("attention_bias", false));
  SetAttentionBias(bias, bias, spec);
  KVASIR_ASSIGN_OR_RETURN(const bool mlp_bias, config.BoolOr("mlp_bias", false));
  for (LayerSpec& layer : spec->layers) layer.feed_forward.dense.bias = mlp_bias;
  const NormSpec norm = spec->layers[0].norm;
  ForEachAttention(spec, [&](int, AttentionSpec* attention) {
    if (qk_norm) attention->qk_norm = {QkNormSpec::Span::kHead, norm, /*after_rope=*/true};
  });
  KVASIR_ASSIGN_OR_RETURN(
      const RopeSpec rope,
      ReadRope(config, spec->head_dim(), spec->max_positions, {.partial_allowed = false}));
  spec->ropes = {rope};
  return ParseKvSharing(config, spec);
}

absl::Status ReadDense(const JsonFields& config, ModelSpec* spec) {
  return ReadBase(config, /*qk_norm=*/true, spec);
}

absl::Status ReadShared(const JsonFields& config, ModelSpec* spec) {
  if (config.Has("num_experts") && config.At("num_experts") != 1) {
    return RefuseKey(config, "num_experts", "dense models are");
  }
  KVASIR_ASSIGN_OR_RETURN(const bool qk_norm, config.BoolOr("use_qk_norm", false));
  KVASIR_RETURN_IF_ERROR(ReadBase(config, qk_norm, spec));
  const bool shares = spec->sharing_rule != LayerSharingRule::kNone;
  ForEachAttention(
      spec, [&](int, AttentionSpec* attention) { attention->k_norm_in_query = qk_norm && shares; });
  return absl::OkStatus();
}

TensorNames Names(const ModelSpec&) {
  TensorNames names = LlamaNames();
  names.Set(WeightRole::kQueryNorm, "layers.{}.self_attn.query_layernorm")
      .Set(WeightRole::kKeyNorm, "layers.{}.self_attn.key_layernorm");
  return names;
}

}  // namespace

std::vector<Architecture> HunyuanArchitectures() {
  return {{"HunYuanDenseV1ForCausalLM",
           "hunyuan_v1_dense",
           ReadDense,
           Names,
           false,
           {.name = "hunyuan-dense"}},
          {"HunYuanForCausalLM", "hunyuan", ReadShared, Names}};
}

}  // namespace kvasir
