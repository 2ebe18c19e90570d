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
#include "runtime/model/layer_weights.h"
#include "runtime/model/loading/tensor_map.h"
#include "runtime/model/loading/weight_source.h"
#include "runtime/model/model_spec.h"
#include "runtime/ops/matmul.h"

namespace kvasir {

struct ModelWeights {
  std::unique_ptr<Embedding> embedding;        // [vocab_size, hidden_size or EmbeddingSpec::size]
  std::unique_ptr<Embedding> positions;        // [max_positions + position_offset, hidden_size]
  std::unique_ptr<Linear> embedding_project;   // [hidden_size, EmbeddingSpec::size]
  NormWeights embedding_norm;                  // [hidden_size]
  std::vector<LayerWeights> layers;            // [num_layers]
  NormWeights final_norm;                      // [hidden_size]
  std::unique_ptr<Linear> head_project;        // [EmbeddingSpec::size, hidden_size]
  std::unique_ptr<Linear> lm_head;             // [vocab_size, hidden_size or EmbeddingSpec::size];
                                               // packed from the embeddings when tied
  std::unique_ptr<Embedding> per_layer_table;  // [PerLayerEmbeddingSpec::vocab_size, layers * size]
  std::unique_ptr<Linear> per_layer_project;   // [layers * size, hidden_size]
  NormWeights per_layer_norm;                  // [size]
  std::vector<std::unique_ptr<Linear>> altup_project;    // [streams - 1]: [hidden, hidden]
  std::vector<std::unique_ptr<Linear>> altup_unproject;  // [streams - 1]: [hidden, hidden]

  // Packed bytes, embeddings and norms included.
  size_t bytes() const { return bytes_; }
  // Every product, for warming and counting.
  std::vector<Linear*> linears() const { return linears_; }

 private:
  friend class WeightBuilder;
  size_t bytes_ = 0;
  std::vector<Linear*> linears_;
};

// `progress`: the share of parameters packed so far, may be empty. The source's errors, or
// oneDNN's.
absl::StatusOr<std::unique_ptr<ModelWeights>> BuildWeights(
    const ModelSpec& spec, const TensorMap& map, ComputeType compute_type, WeightSource* source,
    const std::function<void(double)>& progress);

// Bytes that BuildWeights will hold in the end, within a few percent (oneDNN pads some layouts).
size_t EstimateWeightBytes(const ModelSpec& spec, ComputeType compute_type);

}  // namespace kvasir
