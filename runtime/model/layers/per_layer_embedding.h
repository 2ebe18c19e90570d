// Per-layer embeddings (Gemma 3n and 4): each token has, beside its embedding, one short row per
// layer, mixed with a projection of the embedding and gated into the residual after the layer.
//   rows = (norm(project(x0) / sqrt(hidden)) + table[token] * sqrt(size)) / sqrt(2)
//   contribution of layer l to x = norm_l(project_l(act(gate_l x) * rows_l))
// Owns the rows of the current step: one per Decoder, not thread safe.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "base/aligned_buffer.h"
#include "runtime/model/embedding.h"
#include "runtime/model/layer_spec.h"
#include "runtime/model/layer_weights.h"
#include "runtime/ops/matmul.h"
#include "runtime/ops/tensor.h"
#include "runtime/tokenizer/token_id.h"

namespace kvasir {

class PerLayerEmbedding {
 public:
  explicit PerLayerEmbedding(ComputeType compute_type)
      : input_(compute_type), gated_(compute_type) {}

  // The rows of a step. table: [vocab_size, layers * size], project: [layers * size, hidden], norm:
  // [size]; x0: [tokens, hidden], the input of the first layer. Tokens outside the table take its
  // row 0.
  void Begin(const PerLayerEmbeddingSpec& spec, const Embedding& table, Linear* project,
             const NormWeights& norm, float norm_epsilon, absl::Span<const TokenId> tokens,
             MatrixView x0);

  // Row r becomes row rows[r]; rows ascend.
  void KeepRows(absl::Span<const int32_t> rows);

  // out = the layer's contribution for x, both [rows, hidden]; out has room for RoundUpRows(rows).
  void Run(const PerLayerEmbeddingSpec& spec, int layer, const PerLayerEmbeddingWeights& weights,
           float norm_epsilon, MatrixView x, MatrixView out);

 private:
  MatrixView rows_;  // [rows, layers * size], of storage_
  AlignedBuffer<float> storage_;
  AlignedBuffer<float> looked_up_;  // [rows][layers * size]
  AlignedBuffer<float> gate_up_;    // [rows][gate, the layer's rows], 2 * size
  std::vector<TokenId> tokens_;
  MatmulInput input_;  // [rows, hidden]
  MatmulInput gated_;  // [rows, size]
};

}  // namespace kvasir
