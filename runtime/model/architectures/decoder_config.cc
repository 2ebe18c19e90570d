#include "runtime/model/architectures/decoder_config.h"

#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace kvasir {
namespace {

absl::StatusOr<Activation> ReadActivation(const JsonFields& config, Activation fallback) {
  if (!config.Has("hidden_act")) return fallback;
  KVASIR_ASSIGN_OR_RETURN(const std::string name, config.StringOr("hidden_act", ""));
  if (name == "silu" || name == "swish") return Activation::kSilu;
  return RefuseKey(config, "hidden_act", "silu is");
}

absl::StatusOr<int> ReadHeadDim(const JsonFields& config, int hidden_size, int query_heads) {
  int head_dim = 0;
  if (config.Has("head_dim")) {
    KVASIR_ASSIGN_OR_RETURN(head_dim, config.Int("head_dim", 2, kMaxHeadDim));
  } else {
    if (hidden_size % query_heads != 0) {
      return config.Wrong(
          "num_attention_heads",
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

absl::Status ReadDecoder(const JsonFields& config, const DecoderDefaults& defaults,
                         ModelSpec* spec) {
  KVASIR_ASSIGN_OR_RETURN(spec->hidden_size, config.Int("hidden_size", 1, kMaxHidden));
  KVASIR_ASSIGN_OR_RETURN(const int64_t num_layers, config.Int("num_hidden_layers", 1, kMaxLayers));
  LayerSpec layer;
  AttentionSpec attention;
  KVASIR_ASSIGN_OR_RETURN(attention.query_heads, config.Int("num_attention_heads", 1, kMaxHeads));
  KVASIR_ASSIGN_OR_RETURN(layer.feed_forward.dense.width,
                          config.Int("intermediate_size", 1, kMaxIntermediate));
  KVASIR_ASSIGN_OR_RETURN(spec->vocab_size, config.Int("vocab_size", 1, kMaxVocab));
  KVASIR_ASSIGN_OR_RETURN(spec->max_positions,
                          config.Int("max_position_embeddings", 1, kMaxPositions));
  KVASIR_ASSIGN_OR_RETURN(attention.head_dim,
                          ReadHeadDim(config, spec->hidden_size, attention.query_heads));
  attention.kv_heads = attention.query_heads;
  attention.v_head_dim = attention.head_dim;
  attention.rope = 0;
  attention.scale = 1.0f / std::sqrt(static_cast<float>(attention.head_dim));
  layer.norm = defaults.norm;
  KVASIR_ASSIGN_OR_RETURN(const double epsilon,
                          config.NumberOr("rms_norm_eps", defaults.norm.eps, 1e-12, 0.1));
  layer.norm.eps = static_cast<float>(epsilon);
  layer.feed_forward.dense.gated = defaults.gated;
  KVASIR_ASSIGN_OR_RETURN(layer.feed_forward.dense.activation,
                          ReadActivation(config, defaults.activation));
  KVASIR_ASSIGN_OR_RETURN(spec->head.tied, config.BoolOr("tie_word_embeddings", defaults.tied));
  spec->head.norm = layer.norm;
  for (int i = 0; i < num_layers; ++i) {
    attention.kv_owner = i;
    layer.mixer = attention;
    spec->layers.push_back(layer);
  }
  return absl::OkStatus();
}

}  // namespace kvasir
