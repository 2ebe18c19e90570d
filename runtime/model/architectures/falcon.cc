// Falcon: the 7B with a single KV head and one norm for attention and MLP, the 40B and 11B with
// groups, the RW models with ALiBi and the sub-layers one after the other.
#include <cmath>
#include <string>
#include <vector>

#include "base/status_macros.h"
#include "runtime/model/architectures/parts/decoder_config.h"
#include "runtime/model/architectures/parts/rope_config.h"
#include "runtime/model/architectures/registry.h"
#include "runtime/model/loading/tensor_forms.h"

namespace kvasir {
namespace {

absl::StatusOr<int> ReadKvHeads(const JsonFields& config, bool grouped, int query_heads) {
  KVASIR_ASSIGN_OR_RETURN(const bool multi_query, config.BoolOr("multi_query", true));
  if (!grouped) return multi_query ? 1 : query_heads;
  KVASIR_ASSIGN_OR_RETURN(const int64_t heads,
                          config.IntOr("num_kv_heads", query_heads, 1, query_heads));
  if (query_heads % heads != 0) {
    return config.Wrong("num_kv_heads", "but must divide num_attention_heads");
  }
  return static_cast<int>(heads);
}

absl::StatusOr<NormPlacement> ReadPlacement(const JsonFields& config, bool grouped) {
  KVASIR_ASSIGN_OR_RETURN(const bool parallel, config.BoolOr("parallel_attn", true));
  KVASIR_ASSIGN_OR_RETURN(const int64_t norms,
                          config.IntOr("num_ln_in_parallel_attn", grouped ? 2 : 1, 1, 2));
  if (grouped && norms == 2) return NormPlacement::kParallelTwo;
  return parallel || grouped ? NormPlacement::kParallelOne : NormPlacement::kPre;
}

absl::Status Read(const JsonFields& config, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(ReadDecoder(config,
                                     {.norm = {NormKind::kLayer, 1e-5f, true, /*has_bias=*/true},
                                      .gated = false,
                                      .activation = Activation::kGelu,
                                      .tied = true,
                                      .width_ratio = 4,
                                      .positions = 2048},
                                     spec));
  KVASIR_ASSIGN_OR_RETURN(const bool grouped, config.BoolOr("new_decoder_architecture", false));
  KVASIR_ASSIGN_OR_RETURN(const int kv_heads, ReadKvHeads(config, grouped, spec->query_heads()));
  KVASIR_ASSIGN_OR_RETURN(const NormPlacement placement, ReadPlacement(config, grouped));
  KVASIR_ASSIGN_OR_RETURN(const bool bias, config.BoolOr("bias", false));
  KVASIR_ASSIGN_OR_RETURN(const bool alibi, config.BoolOr("alibi", false));
  SetAttentionBias(bias, bias, spec);
  for (LayerSpec& layer : spec->layers) {
    layer.placement = placement;
    layer.feed_forward.dense.bias = bias;
    AttentionSpec& attention = *layer.attention();
    attention.kv_heads = kv_heads;
    if (!alibi) continue;
    // Added before the division by sqrt(head_dim), its product rounded to bf16.
    attention.rope = -1;
    attention.alibi = attention.alibi_rounded = true;
    attention.alibi_scale = attention.scale;
  }
  if (alibi) return absl::OkStatus();
  KVASIR_ASSIGN_OR_RETURN(
      const RopeSpec rope,
      ReadRope(config, spec->head_dim(), spec->max_positions, {.partial_allowed = false}));
  spec->ropes = {rope};
  return absl::OkStatus();
}

TensorNames Names(const ModelSpec& spec) {
  using enum WeightRole;
  const std::string layer = "h.{}.";
  const bool two = spec.layers[0].placement == NormPlacement::kParallelTwo;
  TensorNames names;
  names.Prefixes({"transformer.", ""})
      .Set(kEmbedding, "word_embeddings")
      .Set(kMixerNorm, layer + (two ? "ln_attn" : "input_layernorm"))
      .Set(kMlpNorm, layer + (two ? "ln_mlp" : "post_attention_layernorm"))
      .Set(kOutput, layer + "self_attention.dense")
      .Set(kUp, layer + "mlp.dense_h_to_4h")
      .Set(kDown, layer + "mlp.dense_4h_to_h")
      .Set(kFinalNorm, "ln_f")
      .Set(kHead, "/lm_head")
      .Unused({"/*.rotary_emb.*", "/*.rotary.*"});
  for (const WeightRole role : {kQuery, kKey, kValue}) {
    names.Set(role, layer + "self_attention.query_key_value", FusedQkvForm(QkvOrder::kGrouped));
  }
  return names;
}

absl::Status CompleteFalcon(const GgufReader& reader, nlohmann::json* config) {
  const bool two = reader.file().Find("blk.0.attn_norm_2.weight") != nullptr;
  const auto kv_heads = (*config)["num_key_value_heads"].get<int64_t>();
  (*config)["new_decoder_architecture"] = two || kv_heads > 1;
  (*config)["num_ln_in_parallel_attn"] = two ? 2 : 1;
  (*config)["num_kv_heads"] = kv_heads;
  (*config)["multi_query"] = kv_heads == 1;
  return absl::OkStatus();
}

// With two norms the one of the MLP has the first one's name.
void RenameFalcon(const ModelSpec& spec, TensorNames* names) {
  if (spec.layers[0].placement != NormPlacement::kParallelTwo) return;
  names->Set(WeightRole::kMixerNorm, "blk.{}.attn_norm_2")
      .Set(WeightRole::kMlpNorm, "blk.{}.attn_norm");
}

}  // namespace

std::vector<Architecture> FalconArchitectures() {
  return {{"FalconForCausalLM",
           "falcon",
           Read,
           Names,
           false,
           {.name = "falcon",
            .complete = CompleteFalcon,
            .rename = RenameFalcon,
            .writes_qkv_as_one = true}}};
}

}  // namespace kvasir
