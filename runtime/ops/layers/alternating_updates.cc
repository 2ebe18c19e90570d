#include "runtime/ops/layers/alternating_updates.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "base/check.h"
#include "base/parallel.h"
#include "runtime/kernels/elementwise_kernels.h"
#include "runtime/kernels/layer_kernels.h"
#include "runtime/kernels/norm_kernels.h"

namespace kvasir {
namespace {

// As the reference clamps a row's mean square before dividing by its root.
constexpr float kMinMeanSquare = 1e-5f;

float MeanSquare(const float* x, int64_t n) { return DotRow(x, x, n) / static_cast<float>(n); }

using Modalities = std::array<float, kMaxAltUpStreams>;

// m(x); normed: scratch [hidden].
Modalities Route(const float* x, int64_t hidden, int streams, const AltUpParameters& parameters,
                 float* normed) {
  NormParams norm;
  norm.epsilon = parameters.norm_epsilon;
  norm.weight = parameters.router_norm;
  NormRow(x, norm, hidden, normed);
  Modalities m{};
  for (int s = 0; s < streams; ++s) {
    m[s] = std::tanh(DotRow(parameters.router + s * hidden, normed, hidden) /
                     static_cast<float>(hidden));
  }
  return m;
}

float Dot(const float* row, const Modalities& m, int streams) {
  float sum = 0;
  for (int s = 0; s < streams; ++s) sum += row[s] * m[s];
  return sum;
}

}  // namespace

void PredictStreams(absl::Span<const MatrixView> streams, const AltUpParameters& parameters) {
  const int n = static_cast<int>(streams.size());
  KVASIR_CHECK(n >= 1 && n <= kMaxAltUpStreams && parameters.active < n);
  const int64_t hidden = streams[0].cols;
  ParallelFor(streams[0].rows, [&](size_t r, int) {
    thread_local std::vector<float> before;  // [streams][hidden]
    before.resize(n * hidden);
    const Modalities m =
        Route(streams[parameters.active].row(r), hidden, n, parameters, before.data());
    for (int s = 0; s < n; ++s) std::copy_n(streams[s].row(r), hidden, before.data() + s * hidden);
    for (int to = 0; to < n; ++to) {
      for (int from = 0; from < n; ++from) {
        const float c = Dot(parameters.prediction + (to * n + from) * n, m, n);
        AddScaledRow(before.data() + from * hidden, c, hidden, streams[to].row(r));
      }
    }
  });
}

void CorrectStreams(absl::Span<const MatrixView> streams, MatrixView computed,
                    const AltUpParameters& parameters) {
  const int n = static_cast<int>(streams.size());
  const int64_t hidden = computed.cols;
  ParallelFor(computed.rows, [&](size_t r, int) {
    thread_local std::vector<float> innovation;  // [hidden]
    innovation.resize(hidden);
    const Modalities m = Route(computed.row(r), hidden, n, parameters, innovation.data());
    std::copy_n(computed.row(r), hidden, innovation.data());
    AddScaledRow(streams[parameters.active].row(r), -1.0f, hidden, innovation.data());
    for (int s = 0; s < n; ++s) {
      const float d = 1.0f + Dot(parameters.correction + s * n, m, n);
      AddScaledRow(innovation.data(), d, hidden, streams[s].row(r));
    }
  });
}

void AddToEach(MatrixView x, absl::Span<const MatrixView> streams) {
  ParallelFor(x.rows, [&](size_t r, int) {
    for (const MatrixView& stream : streams) AddRow(x.row(r), x.cols, stream.row(r));
  });
}

void MatchMagnitude(MatrixView like, MatrixView x) {
  ParallelFor(x.rows, [&](size_t r, int) {
    const float target = std::sqrt(MeanSquare(like.row(r), x.cols));
    const float own = std::sqrt(std::max(MeanSquare(x.row(r), x.cols), kMinMeanSquare));
    ScaleRow(target / own, x.cols, x.row(r));
  });
}

}  // namespace kvasir
