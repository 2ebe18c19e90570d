// Llama and what computes exactly as it does: Mistral without windows, Qwen 2 with its biases.
#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "runtime/model/architectures/decoder_config.h"
#include "runtime/model/architectures/kv_sharing.h"
#include "runtime/model/architectures/llama_names.h"
#include "runtime/model/architectures/registry.h"
#include "runtime/model/architectures/rope_config.h"

namespace kvasir {
namespace {

// Features that would change the results if they were ignored.
absl::Status RefuseUnsupported(const JsonFields& config, const ModelSpec& spec) {
  if (config.Has("quantization_config")) {
    return RefuseKey(config, "quantization_config",
                     "use the unquantised checkpoint (int8 is made while loading)");
  }
  KVASIR_ASSIGN_OR_RETURN(const double rotary,
                          config.NumberOr("partial_rotary_factor", 1.0, 0.0, 1.0));
  if (rotary != 1.0) return RefuseKey(config, "partial_rotary_factor", "1 is");
  for (const char* key : {"use_qk_norm", "qk_layernorm"}) {
    KVASIR_ASSIGN_OR_RETURN(const bool used, config.BoolOr(key, false));
    if (used) return RefuseKey(config, key, "false is");
  }
  for (const char* key : {"num_local_experts", "num_experts", "n_routed_experts"}) {
    KVASIR_ASSIGN_OR_RETURN(const int64_t experts, config.IntOr(key, 0, 0, INT32_MAX));
    if (experts > 1) return RefuseKey(config, key, "dense models are");
  }
  if (config.Has("layer_types")) {
    const nlohmann::json& types = config.At("layer_types");
    if (!types.is_array() ||
        !std::all_of(types.begin(), types.end(),
                     [](const nlohmann::json& type) { return type == "full_attention"; })) {
      return RefuseKey(config, "layer_types", "full_attention in every layer is");
    }
  }
  if (config.Has("sliding_window")) {
    KVASIR_ASSIGN_OR_RETURN(const bool used, config.BoolOr("use_sliding_window", true));
    KVASIR_ASSIGN_OR_RETURN(const int64_t window, config.Int("sliding_window", 1, INT32_MAX));
    if (used && window < spec.max_positions) {
      return RefuseKey(
          config, "sliding_window",
          absl::StrCat("set max_position_embeddings (", spec.max_positions, ") to at most ", window,
                       " to serve the context inside one window"));
    }
  }
  return absl::OkStatus();
}

absl::Status Read(const JsonFields& config, bool qkv_bias, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(ReadDecoder(config, DecoderDefaults(), spec));
  KVASIR_RETURN_IF_ERROR(RefuseUnsupported(config, *spec));
  // Llama's key covers all four products of attention; Qwen 2 has biases on three, always.
  KVASIR_ASSIGN_OR_RETURN(const bool attention_bias, config.BoolOr("attention_bias", false));
  KVASIR_ASSIGN_OR_RETURN(const bool mlp_bias, config.BoolOr("mlp_bias", false));
  KVASIR_ASSIGN_OR_RETURN(const RopeSpec rope, ReadRope(config, spec->head_dim()));
  spec->ropes = {rope};
  for (LayerSpec& layer : spec->layers) {
    AttentionSpec& attention = std::get<AttentionSpec>(layer.mixer);
    attention.q_bias = attention.k_bias = attention.v_bias = attention_bias || qkv_bias;
    attention.o_bias = attention_bias;
    layer.feed_forward.dense.bias = mlp_bias;
  }
  return ParseKvSharing(config, spec);
}

absl::Status ReadLlama(const JsonFields& config, ModelSpec* spec) {
  return Read(config, /*qkv_bias=*/false, spec);
}

absl::Status ReadQwen2(const JsonFields& config, ModelSpec* spec) {
  return Read(config, /*qkv_bias=*/true, spec);
}

TensorNames Names(const ModelSpec&) { return LlamaNames(); }

}  // namespace

std::vector<Architecture> LlamaArchitectures() {
  return {{"LlamaForCausalLM", "llama", ReadLlama, Names},
          {"MistralForCausalLM", "mistral", ReadLlama, Names},
          {"Qwen2ForCausalLM", "qwen2", ReadQwen2, Names}};
}

}  // namespace kvasir
