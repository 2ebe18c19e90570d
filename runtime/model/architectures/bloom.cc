// Bloom: a norm behind the embeddings, ALiBi instead of positions, Q, K and V of each head side by
// side in one product.
#include <string>
#include <vector>

#include "base/status_macros.h"
#include "runtime/model/architectures/parts/decoder_config.h"
#include "runtime/model/architectures/registry.h"
#include "runtime/model/loading/tensor_forms.h"

namespace kvasir {
namespace {

absl::Status Read(const JsonFields& config, ModelSpec* spec) {
  // The config says nothing of a context; 2048 is what the models were trained with.
  KVASIR_RETURN_IF_ERROR(ReadDecoder(config,
                                     {.norm = {NormKind::kLayer, 1e-5f, true, /*has_bias=*/true},
                                      .gated = false,
                                      .activation = Activation::kGeluTanh,
                                      .tied = true,
                                      .width_ratio = 4,
                                      .positions = 2048},
                                     spec));
  KVASIR_ASSIGN_OR_RETURN(const bool after,
                          config.BoolOr("apply_residual_connection_post_layernorm", false));
  if (after) return RefuseKey(config, "apply_residual_connection_post_layernorm", "false is");
  spec->embedding.norm = spec->layers[0].norm;
  SetAttentionBias(true, true, spec);
  for (LayerSpec& layer : spec->layers) {
    layer.feed_forward.dense.bias = true;
    layer.attention()->rope = -1;
    layer.attention()->alibi = true;
  }
  return absl::OkStatus();
}

TensorNames Names(const ModelSpec&) {
  using enum WeightRole;
  const std::string layer = "h.{}.";
  TensorNames names;
  names.Prefixes({"transformer.", ""})
      .Set(kEmbedding, "word_embeddings")
      .Set(kEmbeddingNorm, "word_embeddings_layernorm")
      .Set(kMixerNorm, layer + "input_layernorm")
      .Set(kMlpNorm, layer + "post_attention_layernorm")
      .Set(kOutput, layer + "self_attention.dense")
      .Set(kUp, layer + "mlp.dense_h_to_4h")
      .Set(kDown, layer + "mlp.dense_4h_to_h")
      .Set(kFinalNorm, "ln_f")
      .Set(kHead, "/lm_head");
  for (const WeightRole role : {kQuery, kKey, kValue}) {
    names.Set(role, layer + "self_attention.query_key_value", FusedQkvForm(QkvOrder::kGrouped));
  }
  return names;
}

// The converter writes the hidden size for a context that ALiBi leaves open: the class's own
// default holds.
absl::Status CompleteBloom(const GgufReader&, nlohmann::json* config) {
  config->erase("max_position_embeddings");
  config->erase("rope_parameters");
  config->erase("num_key_value_heads");
  return absl::OkStatus();
}

}  // namespace

std::vector<Architecture> BloomArchitectures() {
  return {{"BloomForCausalLM",
           "bloom",
           Read,
           Names,
           false,
           {.name = "bloom", .complete = CompleteBloom, .writes_qkv_as_one = true}}};
}

}  // namespace kvasir
