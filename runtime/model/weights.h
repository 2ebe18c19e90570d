// The packed weights of a model: what the decoder multiplies with. Built tensor by tensor from a
// WeightSource, so that besides the packed weights only one product's stored tensors are in memory
// at a time.
//
// Owned by Model. Immutable after building except for the primitive caches inside Linear: products
// are run by one thread at a time.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "base/aligned_buffer.h"
#include "runtime/model/embedding.h"
#include "runtime/model/model_spec.h"
#include "runtime/model/weight_source.h"
#include "runtime/ops/matmul.h"

namespace kvasir {

struct LayerWeights {
  AlignedBuffer<float> attention_norm;  // [hidden_size]
  // Either qkv, or q with or without kv:
  //   an owner layer before the last one: qkv;
  //   the last owner layer: q and kv, because early exit asks q for fewer rows than kv;
  //   a borrower: q.
  std::unique_ptr<Linear> qkv;  // [query_size + 2 * kv_size, hidden_size]
  std::unique_ptr<Linear> q;   // [query_size, hidden_size], query_size = num_query_heads * head_dim
  std::unique_ptr<Linear> kv;  // [2 * kv_size, hidden_size], kv_size = kv_heads * head_dim
  std::unique_ptr<Linear> o;   // [hidden_size, query_size]
  AlignedBuffer<float> mlp_norm;    // [hidden_size]
  std::unique_ptr<Linear> gate_up;  // [2 * intermediate_size, hidden_size]
  std::unique_ptr<Linear> down;     // [hidden_size, intermediate_size]
};

struct ModelWeights {
  std::unique_ptr<Embedding> embedding;  // [vocab_size, hidden_size]
  std::vector<LayerWeights> layers;      // [num_layers]
  AlignedBuffer<float> final_norm;       // [hidden_size]
  std::unique_ptr<Linear>
      lm_head;  // [vocab_size, hidden_size]; packed from the embeddings when tied

  // Packed bytes, embeddings and norms included.
  size_t bytes() const;
  // Every product, for warming and counting.
  std::vector<Linear*> linears() const;
};

// The largest layer that owns K/V.
int LastOwnerLayer(const ModelSpec& spec);

// `progress`: the share of parameters packed so far, may be empty. The source's errors, or
// oneDNN's.
absl::StatusOr<std::unique_ptr<ModelWeights>> BuildWeights(
    const ModelSpec& spec, ComputeType compute_type, WeightSource* source,
    const std::function<void(double)>& progress);

// Bytes that BuildWeights will hold in the end, within a few percent (oneDNN pads some layouts).
size_t EstimateWeightBytes(const ModelSpec& spec, ComputeType compute_type);

}  // namespace kvasir
