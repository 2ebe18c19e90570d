// What the configs of most architectures have in common: sizes, under whichever of the field's
// names, the norms' epsilon, the activation, whether the head is tied. An architecture reads them
// with its own defaults and then changes the layers where it differs. Pure functions, thread safe.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/model/json_fields.h"
#include "runtime/model/model_spec.h"

namespace kvasir {

// Bounds that real models are far from and that keep every product below 2^63 and every index in an
// int.
inline constexpr int64_t kMaxHidden = 1 << 17;
inline constexpr int64_t kMaxLayers = 1024;
inline constexpr int64_t kMaxHeads = 1024;
inline constexpr int64_t kMaxHeadDim = 512;  // of the attention kernels
inline constexpr int64_t kMaxIntermediate = 1 << 20;
inline constexpr int64_t kMaxVocab = 1 << 21;  // the tokenizer's bound too
inline constexpr int64_t kMaxPositions = 1 << 24;

// What a class does where its config is silent. Sizes: 0 = the config must say.
struct DecoderDefaults {
  NormSpec norm{NormKind::kRms, 1e-6f};
  bool gated = true;
  Activation activation = Activation::kSilu;
  bool reads_activation = true;  // from the config, under any of the usual names
  bool tied = false;
  int hidden_size = 0;
  int layers = 0;
  int query_heads = 0;
  int head_dim = 0;     // hidden_size / query_heads
  int width = 0;        // of the MLP
  int width_ratio = 0;  // of the MLP to hidden_size, where width is 0
  int positions = 0;
  int vocab_size = 0;
};

// Unimplemented: "<file>: <key> = <value> is not supported; <supported>".
absl::Status RefuseKey(const JsonFields& config, const char* key, absl::string_view supported);

// Of several names for one setting, the one that is there; the first if none is. InvalidArgument
// when two are there and differ.
absl::StatusOr<const char*> OneKey(const JsonFields& config,
                                   std::initializer_list<const char*> keys);

// "gelu" is the exact one, "gelu_new" and its like the one with tanh.
absl::StatusOr<Activation> ReadActivation(const JsonFields& config, const char* key,
                                          Activation fallback);

// Fills sizes, embedding, head and `layers`: each with attention of query heads and head_dim (as
// many KV heads, its own K/V, rope 0, scale 1 / sqrt(head_dim)), a dense MLP, norms in front.
absl::Status ReadDecoder(const JsonFields& config, const DecoderDefaults& defaults,
                         ModelSpec* spec);

// Sets the bias flags of attention in every layer that has one.
void SetAttentionBias(bool qkv, bool output, ModelSpec* spec);

// Every attention layer's, for architectures that change them all alike.
template <typename Change>
void ForEachAttention(ModelSpec* spec, Change change) {
  for (int layer = 0; layer < spec->num_layers(); ++layer) {
    if (AttentionSpec* attention = spec->layers[layer].attention()) change(layer, attention);
  }
}

}  // namespace kvasir
