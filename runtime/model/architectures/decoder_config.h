// What the configs of most architectures have in common: sizes, under whichever of the field's
// names, the norms' epsilon, the activation, whether the head is tied. An architecture reads them
// with its own defaults and then changes the layers where it differs. Pure functions, thread safe.
#pragma once

#include <cstdint>
#include <initializer_list>

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
inline constexpr int64_t kMaxHeadDim = 256;  // of the attention kernels
inline constexpr int64_t kMaxIntermediate = 1 << 20;
inline constexpr int64_t kMaxVocab = 1 << 21;  // the tokenizer's bound too
inline constexpr int64_t kMaxPositions = 1 << 24;

// Defaults of a class, where the config is silent.
struct DecoderDefaults {
  NormSpec norm{NormKind::kRms, 1e-6f};
  bool gated = true;
  Activation activation = Activation::kSilu;
  bool tied = false;
};

// Unimplemented: "<file>: <key> = <value> is not supported; <supported>".
absl::Status RefuseKey(const JsonFields& config, const char* key, absl::string_view supported);

// Fills sizes, embedding, head and `layers`: each with attention of query heads and head_dim (K/V
// sharing and rope are still open; rope is table 0 and scale 1 / sqrt(head_dim)), a dense MLP,
// norms in front.
absl::Status ReadDecoder(const JsonFields& config, const DecoderDefaults& defaults,
                         ModelSpec* spec);

}  // namespace kvasir
