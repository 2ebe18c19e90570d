// The packed weights of one decoder layer and of what stands around them: what the decoder
// multiplies with, by role. Which stored tensors make up a role is an architecture's business
// (architectures/*.cc). Null or empty = the layer's spec has no such part.
//
// Owned by Model. Immutable after building except for the primitive caches inside Linear: products
// are run by one thread at a time.
#pragma once

#include <memory>
#include <variant>
#include <vector>

#include "base/aligned_buffer.h"
#include "runtime/model/layer_spec.h"
#include "runtime/ops/matmul.h"

namespace kvasir {

struct NormWeights {
  AlignedBuffer<float> weight;  // "1 +" folded in
  AlignedBuffer<float> bias;
};

struct AttentionWeights {
  // Either qkv, or q with or without kv:
  //   a layer that owns K/V, before the last such one: qkv;
  //   the last one: q and kv, because early exit asks q for fewer rows than kv;
  //   a borrower: q.
  // Rows of q: [query_heads][head_dim], with output_gate [query_heads][head_dim] of gates behind
  // all of them. v_is_k: kv and qkv lack the rows of V.
  std::unique_ptr<Linear> qkv;  // [query_size (+ query_size) + kv_size + v_size, hidden_size]
  std::unique_ptr<Linear> q;
  std::unique_ptr<Linear> kv;
  std::unique_ptr<Linear> o;   // [hidden_size, query_heads * v_head_dim]
  NormWeights q_norm, k_norm;  // as QkNormSpec::Span says; k_norm_in_query: this layer's own
  AlignedBuffer<float> sinks;  // [query_heads]

  // LatentSpec:
  std::unique_ptr<Linear> q_a;  // [q_rank, hidden_size]; then q: [query_heads * head_dim, q_rank]
  NormWeights q_a_norm;
  std::unique_ptr<Linear> kv_a;  // [kv_rank + rope_dim, hidden_size], rope rows half-split
  NormWeights kv_a_norm;         // of the first kv_rank
  std::vector<std::unique_ptr<Linear>> k_up;  // per head: W_UK^T [kv_rank, nope_dim]
  std::vector<std::unique_ptr<Linear>> v_up;  // per head: W_UV [v_dim, kv_rank]
};

struct DeltaNetWeights {
  std::unique_ptr<Linear> in;    // rows [q | k | v | z | b | a], heads in order
  AlignedBuffer<float> conv;     // [conv_kernel][conv_channels]
  AlignedBuffer<float> decay;    // [value_heads], exp(A_log)
  AlignedBuffer<float> dt_bias;  // [value_heads]
  NormWeights norm;              // [value_dim]
  std::unique_ptr<Linear> out;   // [hidden_size, value_heads * value_dim]
};

struct ShortConvWeights {
  std::unique_ptr<Linear> in;      // [3 * hidden_size, hidden_size]: B, C, x
  AlignedBuffer<float> conv;       // [kernel][hidden_size]
  AlignedBuffer<float> conv_bias;  // [hidden_size]
  std::unique_ptr<Linear> out;     // [hidden_size, hidden_size]
};

struct MlpWeights {
  std::unique_ptr<Linear> gate_up;  // [2 * width, hidden_size], or up alone: [width, hidden_size]
  std::unique_ptr<Linear> down;     // [hidden_size, width]
};

struct MoeWeights {
  std::unique_ptr<Linear> router;     // [experts, hidden_size], always f32
  AlignedBuffer<float> choice_bias;   // [experts]
  AlignedBuffer<float> router_scale;  // [hidden_size]
  AlignedBuffer<float> expert_scale;  // [experts]
  std::vector<MlpWeights> experts;    // [experts]
  MlpWeights shared;
  std::unique_ptr<Linear> shared_gate;               // [1, hidden_size]
  NormWeights pre_norm, post_norm, dense_post_norm;  // beside_dense
};

struct PerLayerEmbeddingWeights {
  std::unique_ptr<Linear> gate;     // [size, hidden_size]
  std::unique_ptr<Linear> project;  // [hidden_size, size]
  NormWeights norm;                 // [hidden_size]
};

struct AltUpWeights {
  AlignedBuffer<float> correction;       // [streams][streams]
  AlignedBuffer<float> prediction;       // [streams * streams][streams]
  AlignedBuffer<float> router;           // [streams][hidden_size]
  NormWeights router_norm;               // [hidden_size]
  AlignedBuffer<float> output_scale;     // [hidden_size]
  std::unique_ptr<Linear> laurel_left;   // [rank, hidden_size]
  std::unique_ptr<Linear> laurel_right;  // [hidden_size, rank]
  NormWeights laurel_norm;               // [hidden_size]
};

struct LayerWeights {
  NormWeights mixer_norm;       // before the mixer; kPost and kAfterAdd: empty
  NormWeights mixer_post_norm;  // kPost, kBoth, kAfterAdd
  NormWeights mlp_norm;         // kParallelOne: empty
  NormWeights mlp_post_norm;    // kPost, kBoth, kAfterAdd
  std::variant<AttentionWeights, DeltaNetWeights, ShortConvWeights> mixer;
  MlpWeights mlp;
  std::unique_ptr<MoeWeights> moe;
  float layer_scale = 1.0f;
  PerLayerEmbeddingWeights per_layer;
  std::unique_ptr<AltUpWeights> altup;
};

}  // namespace kvasir
