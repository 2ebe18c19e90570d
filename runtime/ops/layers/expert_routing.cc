#include "runtime/ops/layers/expert_routing.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "base/parallel.h"
#include "runtime/kernels/elementwise_kernels.h"
#include "runtime/kernels/layer_kernels.h"

namespace kvasir {
namespace {

// Below this much work a stage runs in the caller: waking a team costs a few microseconds.
constexpr int64_t kSerialScores = 2 * 1024;     // exponentials
constexpr int64_t kSerialElements = 32 * 1024;  // copied or added floats

constexpr float kNone = -std::numeric_limits<float>::infinity();

template <typename Body>
void ForRows(int64_t rows, bool serial, const Body& body) {
  if (serial) {
    for (int64_t r = 0; r < rows; ++r) body(r);
  } else {
    ParallelFor(static_cast<size_t>(rows), [&](size_t r, int) { body(static_cast<int64_t>(r)); });
  }
}

// exp(x - max) / sum, in place.
void Softmax(float* x, int64_t n) {
  const float max = *std::max_element(x, x + n);
  float sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    x[i] = std::exp(x[i] - max);
    sum += x[i];
  }
  for (int64_t i = 0; i < n; ++i) x[i] /= sum;
}

// The indices of the `count` largest scores, best first, the lower index first among equals. NaN
// ranks as it comes: indices stay valid and distinct.
void Best(const float* scores, int n, int count, int32_t* best) {
  int kept = 0;
  for (int i = 0; i < n; ++i) {
    if (kept == count && !(scores[i] > scores[best[kept - 1]])) continue;
    int at = kept < count ? kept++ : count - 1;
    for (; at > 0 && scores[i] > scores[best[at - 1]]; --at) best[at] = best[at - 1];
    best[at] = i;
  }
}

// Sets the scores of experts outside the best groups to -infinity.
void KeepBestGroups(const ExpertRouting& routing, float* scores) {
  const int size = routing.experts / routing.groups;
  std::vector<float> group_scores(routing.groups, 0.0f);
  std::vector<int32_t> best(std::max(routing.group_score_top, routing.groups));
  for (int g = 0; g < routing.groups; ++g) {
    const float* group = scores + g * size;
    Best(group, size, routing.group_score_top, best.data());
    for (int i = 0; i < routing.group_score_top; ++i) group_scores[g] += group[best[i]];
  }
  Best(group_scores.data(), routing.groups, routing.groups, best.data());
  for (int i = routing.groups_chosen; i < routing.groups; ++i) {
    std::fill_n(scores + best[i] * size, size, kNone);
  }
}

void RouteRow(const ExpertRouting& routing, float* scores, int32_t* experts, float* weights) {
  using Score = ExpertRouting::Score;
  const int chosen = routing.chosen;
  if (routing.score == Score::kSoftmax) Softmax(scores, routing.experts);
  if (routing.score == Score::kSigmoid) {
    for (int e = 0; e < routing.experts; ++e) scores[e] = 1.0f / (1.0f + std::exp(-scores[e]));
  }
  if (routing.choice_bias == nullptr && routing.groups == 1) {
    Best(scores, routing.experts, chosen, experts);
  } else {
    std::vector<float> choice(scores, scores + routing.experts);
    if (routing.choice_bias != nullptr) AddRow(routing.choice_bias, choice.size(), choice.data());
    if (routing.groups > 1) KeepBestGroups(routing, choice.data());
    Best(choice.data(), routing.experts, chosen, experts);
  }
  for (int i = 0; i < chosen; ++i) weights[i] = scores[experts[i]];
  if (routing.score == Score::kSoftmaxOfChosen) Softmax(weights, chosen);
  float scale = routing.weight_scale;
  if (routing.renormalize) {
    float sum = 1e-20f;  // as the reference has it: weights may all have underflowed
    for (int i = 0; i < chosen; ++i) sum += weights[i];
    scale /= sum;
  }
  for (int i = 0; i < chosen; ++i) {
    weights[i] *= scale;
    if (routing.expert_scale != nullptr) weights[i] *= routing.expert_scale[experts[i]];
  }
}

}  // namespace

void RouteRows(MatrixView logits, const ExpertRouting& routing, ExpertRows* out) {
  KVASIR_CHECK(logits.cols == routing.experts && routing.chosen >= 1);
  const int64_t rows = logits.rows;
  const int64_t chosen = routing.chosen;
  out->chosen_experts.resize(rows * chosen);
  out->chosen_weights.resize(rows * chosen);
  ForRows(rows, rows * routing.experts < kSerialScores, [&](int64_t r) {
    RouteRow(routing, logits.row(r), out->chosen_experts.data() + r * chosen,
             out->chosen_weights.data() + r * chosen);
  });

  // A counting sort by expert; rows stay in order.
  out->begin.assign(routing.experts + 1, 0);
  for (const int32_t expert : out->chosen_experts) ++out->begin[expert + 1];
  for (int e = 0; e < routing.experts; ++e) out->begin[e + 1] += out->begin[e];
  out->rows.resize(rows * chosen);
  out->weights.resize(rows * chosen);
  for (int64_t i = rows * chosen - 1; i >= 0; --i) {
    const int32_t to = --out->begin[out->chosen_experts[i] + 1];
    out->rows[to] = static_cast<int32_t>(i / chosen);
    out->weights[to] = out->chosen_weights[i];
  }
  // begin[e + 1] now stands at e's first entry: one to the left is where it belongs.
  out->begin.erase(out->begin.begin());
  out->begin.push_back(static_cast<int32_t>(rows * chosen));
}

void AddWeightedRows(MatrixView x, absl::Span<const int32_t> rows, absl::Span<const float> weights,
                     MatrixView y) {
  KVASIR_CHECK(x.cols == y.cols && rows.size() == weights.size());
  const auto count = static_cast<int64_t>(rows.size());
  ForRows(count, count * x.cols < kSerialElements,
          [&](int64_t r) { AddScaledRow(x.row(r), weights[r], x.cols, y.row(rows[r])); });
}

void AddRows(MatrixView x, MatrixView y) {
  ForRows(x.rows, x.rows * x.cols < kSerialElements,
          [&](int64_t r) { AddRow(x.row(r), x.cols, y.row(r)); });
}

void ClampedGate(MatrixView gate_up, float clamp, float alpha, MatmulInput* out) {
  const int64_t half = gate_up.cols / 2;
  out->Resize(gate_up.rows, half);
  ForRows(gate_up.rows, gate_up.rows * half < kSerialElements, [&](int64_t r) {
    float* gate = gate_up.row(r);
    ClampedGateRow(gate, gate + half, clamp, alpha, half, gate);
    out->SetRow(r, gate);
  });
}

}  // namespace kvasir
