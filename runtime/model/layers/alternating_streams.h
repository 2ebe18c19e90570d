// The residual as several streams (Gemma 3n's AltUp), and the learned augmented residual (Laurel)
// of the same layers. The decoder's own residual buffer holds the active stream's prediction while
// a layer computes it; the streams stand here between layers. Owns them: one per Decoder, not
// thread safe.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "base/aligned_buffer.h"
#include "runtime/model/layer_spec.h"
#include "runtime/model/layer_weights.h"
#include "runtime/ops/matmul.h"
#include "runtime/ops/tensor.h"

namespace kvasir {

class AlternatingStreams {
 public:
  explicit AlternatingStreams(ComputeType compute_type)
      : input_(compute_type), rank_input_(compute_type) {}

  // Stream 0 = x0, [rows, hidden]; stream i = project[i - 1] x0 at x0's magnitude.
  void Begin(const AltUpSpec& spec, absl::Span<const std::unique_ptr<Linear>> project,
             MatrixView x0);

  // Before a layer: predicts every stream, and sets residual to the active one.
  void Predict(const AltUpSpec& spec, const AltUpWeights& weights, float norm_epsilon,
               MatrixView residual);

  // After the mixer's contribution: residual = (residual + laurel(normed)) / sqrt(2), laurel(n) = n
  // + norm(right left n). normed: [rows, hidden], the mixer's input in f32.
  void AddLaurel(const AltUpWeights& weights, float norm_epsilon, MatrixView normed,
                 MatrixView residual);

  // After the layer: corrects every stream by what the layer made of the active one; residual
  // becomes the active stream, times output_scale where the spec says so: the input of the layer's
  // per-layer embedding.
  void Correct(const AltUpSpec& spec, const AltUpWeights& weights, float norm_epsilon,
               MatrixView residual);

  // Adds a contribution [rows, hidden] to every stream but the first.
  void AddToOthers(MatrixView contribution);

  // Row r becomes row rows[r]; rows ascend.
  void KeepRows(absl::Span<const int32_t> rows);

  // residual = mean of stream 0 and unproject[i - 1] stream i at stream 0's magnitude.
  void End(absl::Span<const std::unique_ptr<Linear>> unproject, MatrixView residual);

 private:
  std::vector<AlignedBuffer<float>> storage_;
  std::vector<MatrixView> streams_;  // each [rows, hidden], of storage_
  AlignedBuffer<float> scratch_;     // [rows][hidden]
  AlignedBuffer<float> rank_;        // [rows][rank]
  MatmulInput input_;                // [rows, hidden]
  MatmulInput rank_input_;           // [rows, rank]
};

}  // namespace kvasir
