#include "runtime/model/architectures/parts/llama_names.h"

namespace kvasir {

TensorNames LlamaNames() {
  using enum WeightRole;
  TensorNames names;
  names.Set(kEmbedding, "embed_tokens")
      .Set(kMixerNorm, "layers.{}.input_layernorm")
      .Set(kQuery, "layers.{}.self_attn.q_proj")
      .Set(kKey, "layers.{}.self_attn.k_proj")
      .Set(kValue, "layers.{}.self_attn.v_proj")
      .Set(kQueryNorm, "layers.{}.self_attn.q_norm")
      .Set(kKeyNorm, "layers.{}.self_attn.k_norm")
      .Set(kOutput, "layers.{}.self_attn.o_proj")
      .Set(kMlpNorm, "layers.{}.post_attention_layernorm")
      .Set(kGate, "layers.{}.mlp.gate_proj")
      .Set(kUp, "layers.{}.mlp.up_proj")
      .Set(kDown, "layers.{}.mlp.down_proj")
      .Set(kFinalNorm, "norm")
      .Set(kHead, "/lm_head")
      .Unused({"/*.rotary_emb.*"});
  return names;
}

}  // namespace kvasir
