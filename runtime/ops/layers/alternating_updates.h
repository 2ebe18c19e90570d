// Alternating updates (Gemma 3n; Baykal et al., "Alternating Updates for Efficient Transformers"):
// the residual is several streams of which a layer computes one; small learned maps predict the
// others before it and correct them after it. And the rescaling with which streams begin and end,
// and the sparse gate of the same models. All f32, in place, parallel over rows.
#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "runtime/ops/tensor.h"

namespace kvasir {

inline constexpr int kMaxAltUpStreams = 8;

// Of one layer; borrowed. m(x) = tanh(router (norm(x) / hidden)), [streams].
struct AltUpParameters {
  int active = 0;
  const float* router = nullptr;       // [streams][hidden]
  const float* router_norm = nullptr;  // [hidden]
  float norm_epsilon = 1e-6f;
  const float* prediction = nullptr;  // [streams * streams][streams]
  const float* correction = nullptr;  // [streams][streams]
};

// stream_b += sum over a of c[b * streams + a] * stream_a, c = prediction m(stream_active).
// streams: each [rows, hidden].
void PredictStreams(absl::Span<const MatrixView> streams, const AltUpParameters& parameters);

// stream_b += (1 + d[b]) * (computed - stream_active), d = correction m(computed): what the layer
// made of the active stream's prediction. computed: [rows, hidden].
void CorrectStreams(absl::Span<const MatrixView> streams, MatrixView computed,
                    const AltUpParameters& parameters);

// stream += x, for each of `streams`.
void AddToEach(MatrixView x, absl::Span<const MatrixView> streams);

// Each row of x is scaled to the root mean square of the same row of `like`; rows of x whose mean
// square is below 1e-5 are scaled as if it were that.
void MatchMagnitude(MatrixView like, MatrixView x);

}  // namespace kvasir
