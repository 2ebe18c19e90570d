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
  // Queries, keys and values, whichever the layer projects: [rows, cols], cols at most query_size +
  // 2 * kv_size.
  MatrixView Projected(int64_t rows, int64_t cols) { return View(projected_, rows, cols); }
  // [rows, 2 * intermediate_size]: gate, then up.
  MatrixView GateUp(int64_t rows) { return View(gate_up_, rows, 2 * int64_t{intermediate_size_}); }
  // [rows, vocab_size]. Grows with the most logits ever asked for: most steps want one row per
  // sequence, and room for every position of a step would be a gigabyte for a large vocabulary.
  MatrixView Logits(int64_t rows);

  MatmulInput normed;    // [rows, hidden_size]: after RMSNorm
  MatmulInput attended;  // [rows, query_size]: attention's output
  MatmulInput gated;     // [rows, intermediate_size]: silu(gate) * up

 private:
  static MatrixView View(AlignedBuffer<float>& buffer, int64_t rows, int64_t cols) {
    return MatrixView{buffer.data(), rows, cols, cols};
  }

  const int hidden_size_;
  const int intermediate_size_;
  const int vocab_size_;
  AlignedBuffer<float> residual_;
  AlignedBuffer<float> projected_;
  AlignedBuffer<float> gate_up_;
  AlignedBuffer<float> logits_;
};

}  // namespace kvasir
