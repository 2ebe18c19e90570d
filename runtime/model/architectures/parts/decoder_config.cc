#include "runtime/model/architectures/parts/decoder_config.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace kvasir {
namespace {

// The integer under one of several names.
absl::StatusOr<int64_t> Size(const JsonFields& config, std::initializer_list<const char*> keys,
                             int64_t fallback, int64_t max) {
  KVASIR_ASSIGN_OR_RETURN(const char* const key, OneKey(config, keys));
  if (fallback == 0) return config.Int(key, 1, max);
  return config.IntOr(key, fallback, 1, max);
}

absl::StatusOr<int> ReadHeadDim(const JsonFields& config, int fallback, int hidden_size,
                                int query_heads) {
  int head_dim = fallback;
  if (config.Has("head_dim")) {
    KVASIR_ASSIGN_OR_RETURN(head_dim, config.Int("head_dim", 2, kMaxHeadDim));
  } else if (head_dim == 0) {
    if (hidden_size % query_heads != 0) {
      return config.Wrong(
          config.Has("n_head") ? "n_head" : "num_attention_heads",
          absl::StrCat("must divide hidden_size (", hidden_size, ") when head_dim is not given"));
    }
    head_dim = hidden_size / query_heads;
  }
  if (head_dim % 2 != 0 || head_dim < 2 || head_dim > kMaxHeadDim) {
    return absl::InvalidArgumentError(
        absl::StrCat(config.file(), ": head_dim (or hidden_size / num_attention_heads) is ",
                     head_dim, ", must be even, from 2 to ", kMaxHeadDim));
  }
  return head_dim;
}

}  // namespace

absl::Status RefuseKey(const JsonFields& config, const char* key, absl::string_view supported) {
  return absl::UnimplementedError(absl::StrCat(
      config.file(), ": ", key, " = ",
      config.At(key).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).substr(0, 100),
      " is not supported; ", supported));
}

absl::StatusOr<const char*> OneKey(const JsonFields& config,
                                   std::initializer_list<const char*> keys) {
  const char* found = nullptr;
  for (const char* key : keys) {
    if (!config.Has(key)) continue;
    if (found != nullptr && config.At(found) != config.At(key)) {
      return config.Wrong(key, absl::StrCat("but ", found,
                                            " means the same and says otherwise; "
                                            "keep one of them"));
    }
    if (found == nullptr) found = key;
  }
  return found == nullptr ? *keys.begin() : found;
}

absl::StatusOr<Activation> ReadActivation(const JsonFields& config, const char* key,
                                          Activation fallback) {
  if (!config.Has(key)) return fallback;
  KVASIR_ASSIGN_OR_RETURN(const std::string name, config.StringOr(key, ""));
  if (name == "silu" || name == "swish") return Activation::kSilu;
  if (name == "gelu") return Activation::kGelu;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh" || name == "gelu_fast") {
    return Activation::kGeluTanh;
  }
  if (name == "relu") return Activation::kRelu;
  if (name == "relu2") return Activation::kRelu2;
  return RefuseKey(config, key,
                   "silu, gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, relu and relu2 are");
}

absl::Status ReadDecoder(const JsonFields& config, const DecoderDefaults& defaults,
                         ModelSpec* spec) {
  KVASIR_ASSIGN_OR_RETURN(
      spec->hidden_size, Size(config, {"hidden_size", "n_embd"}, defaults.hidden_size, kMaxHidden));
  KVASIR_ASSIGN_OR_RETURN(
      const int64_t num_layers,
      Size(config, {"num_hidden_layers", "n_layer", "num_layers"}, defaults.layers, kMaxLayers));
  LayerSpec layer;
  AttentionSpec attention;
  KVASIR_ASSIGN_OR_RETURN(attention.query_heads, Size(config, {"num_attention_heads", "n_head"},
                                                      defaults.query_heads, kMaxHeads));
  const int64_t width =
      defaults.width > 0 ? defaults.width : int64_t{defaults.width_ratio} * spec->hidden_size;
  KVASIR_ASSIGN_OR_RETURN(
      layer.feed_forward.dense.width,
      Size(config, {"intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"}, width,
           kMaxIntermediate));
  KVASIR_ASSIGN_OR_RETURN(spec->vocab_size,
                          Size(config, {"vocab_size"}, defaults.vocab_size, kMaxVocab));
  KVASIR_ASSIGN_OR_RETURN(
      spec->max_positions,
      Size(config, {"max_position_embeddings", "n_positions"}, defaults.positions, kMaxPositions));
  KVASIR_ASSIGN_OR_RETURN(
      attention.head_dim,
      ReadHeadDim(config, defaults.head_dim, spec->hidden_size, attention.query_heads));
  attention.kv_heads = attention.query_heads;
  attention.v_head_dim = attention.head_dim;
  attention.rope = 0;
  attention.scale = 1.0f / std::sqrt(static_cast<float>(attention.head_dim));
  layer.norm = defaults.norm;
  KVASIR_ASSIGN_OR_RETURN(const char* const eps_key,
                          OneKey(config, {"rms_norm_eps", "norm_eps", "norm_epsilon",
                                          "layer_norm_eps", "layer_norm_epsilon"}));
  KVASIR_ASSIGN_OR_RETURN(const double epsilon,
                          config.NumberOr(eps_key, defaults.norm.eps, 1e-12, 0.1));
  layer.norm.eps = static_cast<float>(epsilon);
  layer.feed_forward.dense.gated = defaults.gated;
  layer.feed_forward.dense.activation = defaults.activation;
  if (defaults.reads_activation) {
    KVASIR_ASSIGN_OR_RETURN(
        const char* const key,
        OneKey(config, {"hidden_act", "hidden_activation", "activation_function", "activation"}));
    KVASIR_ASSIGN_OR_RETURN(layer.feed_forward.dense.activation,
                            ReadActivation(config, key, defaults.activation));
  }
  KVASIR_ASSIGN_OR_RETURN(spec->head.tied, config.BoolOr("tie_word_embeddings", defaults.tied));
  spec->head.norm = layer.norm;
  for (int i = 0; i < num_layers; ++i) {
    attention.kv_owner = i;
    layer.mixer = attention;
    spec->layers.push_back(layer);
  }
  return absl::OkStatus();
}

void SetAttentionBias(bool qkv, bool output, ModelSpec* spec) {
  ForEachAttention(spec, [&](int, AttentionSpec* attention) {
    attention->q_bias = attention->k_bias = attention->v_bias = qkv;
    attention->o_bias = output;
  });
}

}  // namespace kvasir
