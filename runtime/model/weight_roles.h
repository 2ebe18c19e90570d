// The weights that a model consists of, by role: what each is for and its shape, derived from the
// spec alone. Parameter counts, memory estimates, random weights, the check of a checkpoint and the
// builder of weights all walk this one list. Pure functions, thread safe.
#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <vector>

#include "runtime/model/model_spec.h"

namespace kvasir {

// "index": of an expert, a head or a stream. "[...]": rows x cols.
enum class WeightRole {
  // Of the model.
  kEmbedding,             // [vocab_size, hidden_size or EmbeddingSpec::size]
  kPositions,             // [max_positions + position_offset, hidden_size]
  kEmbeddingProject,      // [hidden_size, EmbeddingSpec::size]
  kEmbeddingNorm,         // [hidden_size]
  kFinalNorm,             // [hidden_size]
  kHeadProject,           // [EmbeddingSpec::size, hidden_size]
  kHead,                  // [vocab_size, hidden_size or EmbeddingSpec::size], unless tied
  kPerLayerTable,         // [PerLayerEmbeddingSpec::vocab_size, layers * size]
  kPerLayerModelProject,  // [layers * size, hidden_size]
  kPerLayerModelNorm,     // [size]
  kAltUpProject,          // index = stream - 1: [hidden_size, hidden_size]
  kAltUpUnproject,        // index = stream - 1: [hidden_size, hidden_size]
  // Of a layer.
  kMixerNorm,
  kMixerPostNorm,
  kMlpNorm,
  kMlpPostNorm,
  // Attention.
  kQuery,      // [query_size, hidden_size or q_rank]; output_gate: the gates' rows behind them
  kKey,        // [kv_size, hidden_size]
  kValue,      // [kv_heads * v_head_dim, hidden_size]
  kOutput,     // [hidden_size, query_heads * v_head_dim]
  kQueryNorm,  // as QkNormSpec::Span says
  kKeyNorm,
  kSinks,            // [query_heads]
  kQueryLatent,      // [q_rank, hidden_size]
  kQueryLatentNorm,  // [q_rank]
  kKvLatent,         // [kv_rank + rope_dim, hidden_size]
  kKvLatentNorm,     // [kv_rank]
  kKeyUp,            // index = head: [kv_rank, nope_dim]
  kValueUp,          // index = head: [v_dim, kv_rank]
  // Gated delta net.
  kDeltaIn,      // [q, k, v, z, b, a rows; hidden_size]
  kDeltaConv,    // [conv_kernel, conv_channels]
  kDeltaDecay,   // [value_heads]: exp(A_log)
  kDeltaDtBias,  // [value_heads]
  kDeltaNorm,    // [value_dim]
  kDeltaOut,     // [hidden_size, value_heads * value_dim]
  // Short convolution.
  kConvIn,   // [3 * hidden_size, hidden_size]
  kConv,     // [kernel, hidden_size]; its bias [hidden_size]
  kConvOut,  // [hidden_size, hidden_size]
  // Feed-forward.
  kGate,  // [width, hidden_size]
  kUp,
  kDown,         // [hidden_size, width]
  kRouter,       // [experts, hidden_size]
  kChoiceBias,   // [experts]
  kRouterScale,  // [hidden_size]
  kExpertScale,  // [experts]
  kExpertGate,   // index = expert: [width, hidden_size]
  kExpertUp,
  kExpertDown,  // index = expert: [hidden_size, width]
  kSharedGate,  // [shared_width, hidden_size]
  kSharedUp,
  kSharedDown,       // [hidden_size, shared_width]
  kSharedSwitch,     // [1, hidden_size]: MoeSpec::shared_gate
  kExpertsPreNorm,   // [hidden_size]: MoeSpec::beside_dense
  kExpertsPostNorm,  // [hidden_size]
  kDensePostNorm,    // [hidden_size]
  kLayerScale,       // [1]
  // Per-layer embeddings.
  kPerLayerGate,     // [size, hidden_size]
  kPerLayerProject,  // [hidden_size, size]
  kPerLayerNorm,     // [hidden_size]
  // AltUp.
  kAltUpCorrection,   // [streams, streams]
  kAltUpPrediction,   // [streams * streams, streams]
  kAltUpRouter,       // [streams, hidden_size]
  kAltUpRouterNorm,   // [hidden_size]
  kAltUpOutputScale,  // [hidden_size]
  kLaurelLeft,        // [rank, hidden_size]
  kLaurelRight,       // [hidden_size, rank]
  kLaurelNorm,        // [hidden_size]
};

struct WeightId {
  WeightRole role = WeightRole::kEmbedding;
  int layer = -1;     // -1: of the model
  int index = 0;      // of an expert, a head or a stream
  bool bias = false;  // the role's bias, not its weight
  auto operator<=>(const WeightId&) const = default;
};

struct WeightShape {
  WeightId id;
  int64_t rows = 0;
  int64_t cols = 1;  // 1: a vector, unless the role says otherwise
};

// Every weight of the model, each once; a bias follows its weight. Borrowers have no kKey and
// kValue.
std::vector<WeightShape> WeightShapes(const ModelSpec& spec);

}  // namespace kvasir
