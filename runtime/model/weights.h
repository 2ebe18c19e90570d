// The packed weights of a model: what the decoder multiplies with. Built tensor by tensor from a
// WeightSource, so that besides the packed weights only one product's stored tensors are in memory
// at a time.
//
// Owned by Model. Immutable after building except for the primitive caches inside Linear: products
// are run by one thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
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

  // Packed bytes, embeddings and norms included, and the same by the format that they are in.
  size_t bytes() const { return bytes_; }
  const WeightBytes& bytes_by_format() const { return bytes_by_format_; }
  // Packed bytes of the products that a forward pass reads whatever its tokens are: no experts,
  // shared or not, no tables that tokens are looked up in. And of those behind the last layer,
  // which only logits need.
  size_t pass_bytes() const { return pass_bytes_; }
  size_t head_bytes() const;
  // Every product, for warming and counting.
  std::vector<Linear*> linears() const { return linears_; }

 private:
  friend class WeightBuilder;
  size_t bytes_ = 0;
  size_t pass_bytes_ = 0;
  WeightBytes bytes_by_format_;
  std::vector<Linear*> linears_;
};

// `progress`: the share of parameters packed so far, may be empty. `quantize_to`: a block format
// (CanQuantizeTo, runtime/formats/quantize.h) that plain matrices are brought into while they are
// packed; see QuantizedFormat. The source's errors, or oneDNN's.
absl::StatusOr<std::unique_ptr<ModelWeights>> BuildWeights(
    const ModelSpec& spec, const TensorMap& map, ComputeType compute_type, WeightSource* source,
    const std::function<bool(double)>& progress,
    std::optional<WeightFormat> quantize_to = std::nullopt);

// What a plain matrix of a role is quantised to; nullopt: it stays as it is. Eight bits for what
// tokens are looked up in and scored with, the format asked for elsewhere. What chooses experts,
// what folds heads together stays. Rows that are no whole blocks take eight bits in blocks of 32,
// or stay.
std::optional<WeightFormat> QuantizedFormat(std::optional<WeightFormat> quantize_to,
                                            const WeightId& id, int64_t cols);

// Bytes that BuildWeights will hold in the end, within a few percent (oneDNN pads some layouts).
size_t EstimateWeightBytes(const ModelSpec& spec, ComputeType compute_type,
                           std::optional<WeightFormat> quantize_to = std::nullopt);

// About what a plain checkpoint's weights will take, `compute_type` as it is wanted: a CPU that
// computes bf16 in f32 keeps what is stored in 16 bits (runtime/ops/panel_linear.h).
uint64_t EstimateHeldBytes(const ModelSpec& spec, ComputeType compute_type, uint64_t file_bytes,
                           std::optional<WeightFormat> quantize_to = std::nullopt);

}  // namespace kvasir
