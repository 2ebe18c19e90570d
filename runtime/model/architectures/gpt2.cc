// GPT-2 and GPTBigCode (StarCoder 1, SantaCoder): learned positions, LayerNorm, one product for Q,
// K and V; the second with a single KV head. GPT-J: rope instead, attention and MLP beside each
// other.
#include <cmath>
#include <string>
#include <vector>

#include "base/status_macros.h"
#include "runtime/model/architectures/parts/decoder_config.h"
#include "runtime/model/architectures/parts/llama_names.h"
#include "runtime/model/architectures/parts/rope_config.h"
#include "runtime/model/architectures/registry.h"
#include "runtime/model/loading/tensor_forms.h"

namespace kvasir {
namespace {

constexpr DecoderDefaults kDefaults = {.norm = {NormKind::kLayer, 1e-5f, true, /*has_bias=*/true},
                                       .gated = false,
                                       .activation = Activation::kGeluTanh,
                                       .tied = true,
                                       .width_ratio = 4};

absl::Status ReadBase(const JsonFields& config, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(ReadDecoder(config, kDefaults, spec));
  KVASIR_ASSIGN_OR_RETURN(const bool cross, config.BoolOr("add_cross_attention", false));
  if (cross) return RefuseKey(config, "add_cross_attention", "false is");
  spec->embedding.learned_positions = true;
  SetAttentionBias(true, true, spec);
  KVASIR_ASSIGN_OR_RETURN(const bool scaled, config.BoolOr("scale_attn_weights", true));
  for (LayerSpec& layer : spec->layers) {
    layer.feed_forward.dense.bias = true;
    layer.attention()->rope = -1;
    if (!scaled) layer.attention()->scale = 1;
  }
  return absl::OkStatus();
}

absl::Status ReadGpt2(const JsonFields& config, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(ReadBase(config, spec));
  KVASIR_ASSIGN_OR_RETURN(const bool inverse,
                          config.BoolOr("scale_attn_by_inverse_layer_idx", false));
  ForEachAttention(spec, [&](int layer, AttentionSpec* attention) {
    if (inverse) attention->scale /= static_cast<float>(layer + 1);
  });
  return absl::OkStatus();
}

absl::Status ReadBigCode(const JsonFields& config, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(ReadBase(config, spec));
  KVASIR_ASSIGN_OR_RETURN(const bool multi_query, config.BoolOr("multi_query", true));
  ForEachAttention(spec, [&](int, AttentionSpec* attention) {
    if (multi_query) attention->kv_heads = 1;
  });
  return absl::OkStatus();
}

absl::Status ReadGptJ(const JsonFields& config, ModelSpec* spec) {
  DecoderDefaults defaults = kDefaults;
  defaults.tied = false;
  KVASIR_RETURN_IF_ERROR(ReadDecoder(config, defaults, spec));
  KVASIR_ASSIGN_OR_RETURN(const int64_t rotary,
                          config.IntOr("rotary_dim", spec->head_dim(), 2, spec->head_dim()));
  if (rotary % 2 != 0) return config.Wrong("rotary_dim", "must be even");
  spec->ropes = {RopeSpec{.theta = 10000.0f, .rotary_dim = static_cast<int>(rotary)}};
  for (LayerSpec& layer : spec->layers) {
    layer.placement = NormPlacement::kParallelOne;
    layer.feed_forward.dense.bias = true;
  }
  spec->head.bias = true;
  return absl::OkStatus();
}

TensorNames BaseNames() {
  using enum WeightRole;
  const std::string layer = "h.{}.";
  TensorNames names;
  names.Prefixes({"transformer.", ""})
      .Set(kEmbedding, "wte")
      .Set(kPositions, "wpe")
      .Set(kMixerNorm, layer + "ln_1")
      .Set(kMlpNorm, layer + "ln_2")
      .Set(kFinalNorm, "ln_f")
      .Set(kHead, "/lm_head")
      .Unused({"h.*.attn.bias", "h.*.attn.masked_bias", "h.*.attn.embed_positions"});
  return names;
}

TensorNames Gpt2Names(const ModelSpec&) {
  using enum WeightRole;
  TensorNames names = BaseNames();
  for (const WeightRole role : {kQuery, kKey, kValue}) {
    names.Set(role, "h.{}.attn.c_attn", FusedQkvForm(QkvOrder::kStacked, /*transposed=*/true));
  }
  names.Set(kOutput, "h.{}.attn.c_proj", TransposedForm())
      .Set(kUp, "h.{}.mlp.c_fc", TransposedForm())
      .Set(kDown, "h.{}.mlp.c_proj", TransposedForm());
  return names;
}

TensorNames BigCodeNames(const ModelSpec& spec) {
  using enum WeightRole;
  const AttentionSpec& attention = spec.attention(0);
  const QkvOrder order =
      attention.kv_heads == attention.query_heads ? QkvOrder::kGrouped : QkvOrder::kStacked;
  TensorNames names = BaseNames();
  for (const WeightRole role : {kQuery, kKey, kValue}) {
    names.Set(role, "h.{}.attn.c_attn", FusedQkvForm(order));
  }
  names.Set(kOutput, "h.{}.attn.c_proj").Set(kUp, "h.{}.mlp.c_fc").Set(kDown, "h.{}.mlp.c_proj");
  return names;
}

TensorNames GptJNames(const ModelSpec&) {
  using enum WeightRole;
  TensorNames names = BaseNames();
  names.Set(kQuery, "h.{}.attn.q_proj", InterleavedRope(PlainForm()))
      .Set(kKey, "h.{}.attn.k_proj", InterleavedRope(PlainForm()))
      .Set(kValue, "h.{}.attn.v_proj")
      .Set(kOutput, "h.{}.attn.out_proj")
      .Set(kUp, "h.{}.mlp.fc_in")
      .Set(kDown, "h.{}.mlp.fc_out");
  return names;
}

absl::Status CompleteBigCode(const GgufReader&, nlohmann::json* config) {
  (*config)["multi_query"] = (*config)["num_key_value_heads"] == 1;
  return absl::OkStatus();
}

}  // namespace

std::vector<Architecture> Gpt2Architectures() {
  return {{"GPT2LMHeadModel",
           "gpt2",
           ReadGpt2,
           Gpt2Names,
           false,
           {.name = "gpt2", .writes_qkv_as_one = true}},
          {"GPTBigCodeForCausalLM",
           "gpt_bigcode",
           ReadBigCode,
           BigCodeNames,
           false,
           {.name = "starcoder", .complete = CompleteBigCode, .writes_qkv_as_one = true}},
          {"GPTJForCausalLM", "gptj", ReadGptJ, GptJNames}};
}

}  // namespace kvasir
