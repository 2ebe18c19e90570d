#include "runtime/model/layers/alternating_streams.h"

#include <cmath>
#include <cstring>
#include <optional>

#include "base/parallel.h"
#include "runtime/ops/input_rows.h"
#include "runtime/ops/layers/alternating_updates.h"
#include "runtime/ops/layers/norm.h"
#include "runtime/ops/layers/residual.h"

namespace kvasir {
namespace {

// Room for a product's rows, which are rounded up.
MatrixView Resized(AlignedBuffer<float>* buffer, int64_t rows, int64_t cols) {
  buffer->Resize(RoundUpRows(rows) * cols);
  return {buffer->data(), rows, cols, cols};
}

void CopyRows(MatrixView from, MatrixView to) {
  ParallelFor(from.rows, [&](size_t r, int) {
    std::memcpy(to.row(r), from.row(r), from.cols * sizeof(float));
  });
}

AltUpParameters ParametersOf(const AltUpSpec& spec, const AltUpWeights& weights,
                             float norm_epsilon) {
  return {spec.active,  weights.router.data(),     weights.router_norm.weight.data(),
          norm_epsilon, weights.prediction.data(), weights.correction.data()};
}

}  // namespace

void AlternatingStreams::Begin(const AltUpSpec& spec,
                               absl::Span<const std::unique_ptr<Linear>> project, MatrixView x0) {
  storage_.resize(spec.streams);
  streams_.clear();
  for (AlignedBuffer<float>& storage : storage_) {
    streams_.push_back(Resized(&storage, x0.rows, x0.cols));
  }
  CopyRows(x0, streams_[0]);
  SetRows(x0, &input_);
  for (int s = 1; s < spec.streams; ++s) {
    project[s - 1]->Run(input_, streams_[s], /*accumulate=*/false);
    MatchMagnitude(x0, streams_[s]);
  }
}

void AlternatingStreams::Predict(const AltUpSpec& spec, const AltUpWeights& weights,
                                 float norm_epsilon, MatrixView residual) {
  PredictStreams(streams_, ParametersOf(spec, weights, norm_epsilon));
  CopyRows(streams_[spec.active], residual);
}

void AlternatingStreams::AddLaurel(const AltUpWeights& weights, float norm_epsilon,
                                   MatrixView normed, MatrixView residual) {
  const MatrixView rank = Resized(&rank_, normed.rows, weights.laurel_left->out_features());
  const MatrixView laurel = Resized(&scratch_, normed.rows, normed.cols);
  SetRows(normed, &input_);
  weights.laurel_left->Run(input_, rank, /*accumulate=*/false);
  SetRows(rank, &rank_input_);
  weights.laurel_right->Run(rank_input_, laurel, /*accumulate=*/false);
  NormParams norm;
  norm.epsilon = norm_epsilon;
  norm.weight = weights.laurel_norm.weight.data();
  JoinResidual(laurel, {norm, 1.0f, std::nullopt}, residual);
  JoinResidual(normed, {}, residual);
  ScaleRows(residual, std::sqrt(0.5f));
}

void AlternatingStreams::Correct(const AltUpSpec& spec, const AltUpWeights& weights,
                                 float norm_epsilon, MatrixView residual) {
  CorrectStreams(streams_, residual, ParametersOf(spec, weights, norm_epsilon));
  CopyRows(streams_[spec.active], residual);
  if (!spec.scale_corrected) return;
  ScaleHeadColumns(residual, 1, static_cast<int>(residual.cols), weights.output_scale.data());
}

void AlternatingStreams::AddToOthers(MatrixView contribution) {
  AddToEach(contribution, absl::MakeConstSpan(streams_).subspan(1));
}

void AlternatingStreams::KeepRows(absl::Span<const int32_t> rows) {
  for (MatrixView& stream : streams_) {
    for (size_t r = 0; r < rows.size(); ++r) {
      if (rows[r] == static_cast<int32_t>(r)) continue;
      std::memcpy(stream.row(r), stream.row(rows[r]), stream.cols * sizeof(float));
    }
    stream.rows = static_cast<int64_t>(rows.size());
  }
}

void AlternatingStreams::End(absl::Span<const std::unique_ptr<Linear>> unproject,
                             MatrixView residual) {
  CopyRows(streams_[0], residual);
  const MatrixView other = Resized(&scratch_, residual.rows, residual.cols);
  for (size_t s = 1; s < streams_.size(); ++s) {
    SetRows(streams_[s], &input_);
    unproject[s - 1]->Run(input_, other, /*accumulate=*/false);
    MatchMagnitude(streams_[0], other);
    JoinResidual(other, {}, residual);
  }
  ScaleRows(residual, 1.0f / static_cast<float>(streams_.size()));
}

}  // namespace kvasir
