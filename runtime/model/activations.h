// The buffers of one forward pass, made once for the largest step and reused in every layer and
// step. Owned by the Decoder; not thread safe.
//
// f32 buffers are what products write, so they have room for RoundUpRows(max_rows) rows; rows
// beyond a step's own hold leftovers that nothing reads.
#pragma once

#include <cstdint>

#include "base/aligned_buffer.h"
#include "runtime/model/model_spec.h"
#include "runtime/ops/matmul.h"
#include "runtime/ops/tensor.h"

namespace kvasir {

class Activations {
 public:
  Activations(const ModelSpec& spec, ComputeType compute_type, int max_rows);

  // The residual stream: [rows, hidden_size].
  MatrixView Residual(int64_t rows) { return View(residual_, rows, hidden_size_); }
  // What a sub-layer contributes to it, where that does not go there directly: [rows, hidden_size].
  MatrixView Contributed(int64_t rows) { return View(contributed_, rows, hidden_size_); }
  // Queries, keys and values, whichever an attention layer projects: [rows, cols].
  MatrixView Projected(int64_t rows, int64_t cols) { return View(projected_, rows, cols); }
  // Values that are a copy of the keys: [rows, cols].
  MatrixView Values(int64_t rows, int64_t cols) { return View(values_, rows, cols); }
  // Gates and then what they gate, or the latter alone: [rows, cols].
  MatrixView GateUp(int64_t rows, int64_t cols) { return View(gate_up_, rows, cols); }
  // [rows, vocab_size]. Grows with the most logits ever asked for: most steps want one row per
  // sequence, and room for every position of a step would be a gigabyte for a large vocabulary.
  MatrixView Logits(int64_t rows);

  MatmulInput normed;    // [rows, hidden_size]: what a sub-layer reads
  MatmulInput attended;  // [rows, query_heads * v_head_dim]: attention's output
  MatmulInput gated;     // [rows, width]: act(gate) * up

 private:
  static MatrixView View(AlignedBuffer<float>& buffer, int64_t rows, int64_t cols) {
    return MatrixView{buffer.data(), rows, cols, cols};
  }

  const int hidden_size_;
  const int vocab_size_;
  AlignedBuffer<float> residual_;
  AlignedBuffer<float> contributed_;
  AlignedBuffer<float> projected_;
  AlignedBuffer<float> values_;
  AlignedBuffer<float> gate_up_;
  AlignedBuffer<float> logits_;
};

}  // namespace kvasir
