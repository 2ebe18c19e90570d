#include "runtime/model/layers/expert_feed_forward.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "base/parallel.h"
#include "runtime/ops/input_rows.h"
#include "runtime/ops/layers/activation.h"

namespace kvasir {
namespace {

ExpertRouting RoutingOf(const MoeSpec& spec, const MoeWeights& weights) {
  ExpertRouting routing;
  routing.experts = spec.experts;
  routing.chosen = spec.chosen;
  switch (spec.score) {
    case MoeSpec::Score::kSoftmax:
      routing.score = ExpertRouting::Score::kSoftmax;
      break;
    case MoeSpec::Score::kSigmoid:
      routing.score = ExpertRouting::Score::kSigmoid;
      break;
    case MoeSpec::Score::kSoftmaxOfChosen:
      routing.score = ExpertRouting::Score::kSoftmaxOfChosen;
      break;
  }
  routing.renormalize = spec.renormalize;
  routing.weight_scale = spec.weight_scale;
  routing.groups = spec.groups;
  routing.groups_chosen = spec.groups_chosen;
  routing.group_score_top = spec.group_score_top;
  if (spec.choice_bias) routing.choice_bias = weights.choice_bias.data();
  if (spec.per_expert_scale) routing.expert_scale = weights.expert_scale.data();
  return routing;
}

// Room for a product's rows, which are rounded up.
MatrixView Resized(AlignedBuffer<float>* buffer, int64_t rows, int64_t cols) {
  buffer->Resize(RoundUpRows(rows) * cols);
  return {buffer->data(), rows, cols, cols};
}

void Clear(MatrixView x) {
  ParallelFor(x.rows, [&](size_t r, int) { std::fill_n(x.row(r), x.cols, 0.0f); });
}

}  // namespace

void ExpertFeedForward::Run(const MoeSpec& spec, const MoeWeights& weights,
                            const MatmulInput& router_x, const MatmulInput& x, MatrixView out) {
  const MatrixView logits = Resized(&logits_, x.rows(), spec.experts);
  weights.router->Run(router_x, logits, /*accumulate=*/false);
  RouteRows(logits, RoutingOf(spec, weights), &routed_);
  Clear(out);
  for (int e = 0; e < spec.experts; ++e) {
    const absl::Span<const int32_t> rows = routed_.RowsOf(e);
    if (rows.empty()) continue;
    const bool all = static_cast<int64_t>(rows.size()) == x.rows();
    if (!all) GatherRows(x, rows, &gathered_);
    const MatrixView computed = Resized(&computed_, static_cast<int64_t>(rows.size()), out.cols);
    RunExpert(spec, weights.experts[e], all ? x : gathered_, computed);
    AddWeightedRows(computed, rows, routed_.WeightsOf(e), out);
  }
  if (spec.shared_width == 0) return;
  const MatrixView computed = Resized(&computed_, x.rows(), out.cols);
  RunExpert(spec, weights.shared, x, computed);
  std::vector<int32_t> every(x.rows());
  std::iota(every.begin(), every.end(), 0);
  std::vector<float> gates(x.rows(), 1.0f);
  if (spec.shared_gate) {
    const MatrixView gate = Resized(&logits_, x.rows(), 1);
    weights.shared_gate->Run(x, gate, /*accumulate=*/false);
    for (int64_t r = 0; r < x.rows(); ++r) gates[r] = 1.0f / (1.0f + std::exp(-*gate.row(r)));
  }
  AddWeightedRows(computed, every, gates, out);
}

void ExpertFeedForward::RunExpert(const MoeSpec& spec, const MlpWeights& expert,
                                  const MatmulInput& x, MatrixView out) {
  const MatrixView gate_up = Resized(&gate_up_, x.rows(), expert.gate_up->out_features());
  expert.gate_up->Run(x, gate_up, /*accumulate=*/false);
  if (spec.clamp > 0) {
    ClampedGate(gate_up, spec.clamp, spec.clamp_alpha, &gated_);
  } else {
    Activate(spec.activation, /*gated=*/true, gate_up, &gated_);
  }
  expert.down->Run(gated_, out, /*accumulate=*/false);
  weight_bytes_read_ += expert.gate_up->packed_bytes() + expert.down->packed_bytes();
}

}  // namespace kvasir
