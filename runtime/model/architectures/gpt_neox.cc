// GPT-NeoX (Pythia, Dolly), attention and MLP beside each other or not, and pythia-mlkv, where
// layers share K/V: there Q, K and V have products of their own, and borrowers read their owner's K
// as it was before rotation, as in the full-sequence forward pass of the published code.
#include <string>
#include <utility>
#include <vector>

#include "base/status_macros.h"
#include "runtime/model/architectures/parts/decoder_config.h"
#include "runtime/model/architectures/parts/kv_sharing.h"
#include "runtime/model/architectures/parts/llama_names.h"
#include "runtime/model/architectures/parts/rope_config.h"
#include "runtime/model/architectures/registry.h"
#include "runtime/model/loading/tensor_forms.h"

namespace kvasir {
namespace {

absl::Status Read(const JsonFields& config, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(ReadDecoder(config,
                                     {.norm = {NormKind::kLayer, 1e-5f, true, /*has_bias=*/true},
                                      .gated = false,
                                      .activation = Activation::kGelu},
                                     spec));
  KVASIR_ASSIGN_OR_RETURN(const bool bias, config.BoolOr("attention_bias", true));
  SetAttentionBias(bias, bias, spec);
  KVASIR_ASSIGN_OR_RETURN(const bool parallel, config.BoolOr("use_parallel_residual", true));
  for (LayerSpec& layer : spec->layers) {
    if (parallel) layer.placement = NormPlacement::kParallelTwo;
    layer.feed_forward.dense.bias = true;
  }
  KVASIR_ASSIGN_OR_RETURN(const double theta, config.NumberOr("rotary_emb_base", 1e4, 1.0, 1e12));
  KVASIR_ASSIGN_OR_RETURN(const double partial, config.NumberOr("rotary_pct", 0.25, 0.0, 1.0));
  KVASIR_ASSIGN_OR_RETURN(const RopeSpec rope,
                          ReadRope(config, spec->head_dim(), spec->max_positions,
                                   {.theta = theta, .partial = partial}));
  spec->ropes = {rope};
  KVASIR_ASSIGN_OR_RETURN(const bool kv_mlp, config.BoolOr("use_key_value_mlp", false));
  if (kv_mlp) return RefuseKey(config, "use_key_value_mlp", "false is");
  KVASIR_RETURN_IF_ERROR(ParseKvSharing(config, spec));
  ForEachAttention(spec, [&](int layer, AttentionSpec* attention) {
    attention->reads_unrotated_k = attention->kv_owner != layer;
  });
  return absl::OkStatus();
}

TensorNames Names(const ModelSpec&) {
  using enum WeightRole;
  const std::string layer = "layers.{}.";
  const std::string attention = layer + "attention.";
  TensorNames names;
  names.Prefixes({"gpt_neox."})
      .Set(kEmbedding, "embed_in")
      .Set(kMixerNorm, layer + "input_layernorm")
      .Set(kMlpNorm, layer + "post_attention_layernorm")
      .Set(kOutput, attention + "dense")
      .Set(kUp, layer + "mlp.dense_h_to_4h")
      .Set(kDown, layer + "mlp.dense_4h_to_h")
      .Set(kFinalNorm, "final_layer_norm")
      .Set(kHead, "/embed_out")
      .Unused({"/*.rotary_emb.*", "layers.*.attention.bias", "layers.*.attention.masked_bias"});
  const std::pair<WeightRole, const char*> products[] = {
      {kQuery, "query"}, {kKey, "key"}, {kValue, "value"}};
  for (const auto& [role, name] : products) {
    names.Set(role, attention + "query_key_value", FusedQkvForm(QkvOrder::kGrouped))
        .Or(role, attention + name + ".weight", attention + name + ".bias", PlainForm());
  }
  return names;
}

absl::Status CompleteNeox(const GgufReader& reader, nlohmann::json* config) {
  KVASIR_ASSIGN_OR_RETURN(const auto parallel,
                          reader.metadata().Bool(reader.Key("use_parallel_residual")));
  (*config)["use_parallel_residual"] = parallel.value_or(true);
  (*config)["hidden_act"] = "gelu";
  return absl::OkStatus();
}

void DescribeNeox(const ModelSpec& spec, GgufKeys* keys) {
  keys->Bool("use_parallel_residual", spec.layers[0].placement == NormPlacement::kParallelTwo);
}

}  // namespace

std::vector<Architecture> GptNeoxArchitectures() {
  return {{"GPTNeoXForCausalLM",
           "gpt_neox",
           Read,
           Names,
           false,
           {.name = "gptneox",
            .complete = CompleteNeox,
            .describe = DescribeNeox,
            .writes_qkv_as_one = true}}};
}

}  // namespace kvasir
