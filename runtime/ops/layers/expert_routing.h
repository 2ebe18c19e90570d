// Which experts each token of a step goes to, and with which weight (mixture of experts).
//
// All in f32 from f32 logits: a rounding here sends a token elsewhere. Ties go to the lower index.
// A row's choice depends on that row alone, never on the others of the step.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "runtime/ops/matmul.h"
#include "runtime/ops/tensor.h"

namespace kvasir {

struct ExpertRouting {
  enum class Score {
    kSoftmax,          // softmax over all experts, then the choice
    kSigmoid,          // sigmoid of each, then the choice
    kSoftmaxOfChosen,  // the choice by logits, then softmax over the chosen
  };
  int experts = 0;
  int chosen = 0;  // per row; at most the experts of groups_chosen groups
  Score score = Score::kSoftmax;
  bool renormalize = false;   // chosen weights sum to 1
  float weight_scale = 1.0f;  // of the chosen weights, after renormalising
  // Experts are chosen within the best groups_chosen of `groups` groups of neighbours; a group's
  // score is the sum of its best group_score_top (at most the experts of a group).
  int groups = 1;
  int groups_chosen = 1;
  int group_score_top = 1;
  // Null, or [experts]: added to the scores for the choice alone (DeepSeek V3).
  const float* choice_bias = nullptr;
  // Null, or [experts]: times the weight in the end (Gemma 4).
  const float* expert_scale = nullptr;
};

// The rows of a step sorted by expert: expert e has entries [begin[e], begin[e + 1]).
struct ExpertRows {
  std::vector<int32_t> begin;  // [experts + 1]
  std::vector<int32_t> rows;   // [rows * chosen], ascending within an expert
  std::vector<float> weights;  // [rows * chosen]

  absl::Span<const int32_t> RowsOf(int expert) const {
    return absl::MakeConstSpan(rows).subspan(begin[expert], begin[expert + 1] - begin[expert]);
  }
  absl::Span<const float> WeightsOf(int expert) const {
    return absl::MakeConstSpan(weights).subspan(begin[expert], begin[expert + 1] - begin[expert]);
  }

  // Scratch of RouteRows: [rows][chosen], row by row.
  std::vector<int32_t> chosen_experts;
  std::vector<float> chosen_weights;
};

// logits: [rows, experts]; scratch afterwards. Preconditions are the caller's (a checked spec).
void RouteRows(MatrixView logits, const ExpertRouting& routing, ExpertRows* out);

// y[rows[i]] += weights[i] * x[i]; rows are distinct. x.cols = y.cols.
void AddWeightedRows(MatrixView x, absl::Span<const int32_t> rows, absl::Span<const float> weights,
                     MatrixView y);

// y += x, row by row.
void AddRows(MatrixView x, MatrixView y);

// gpt-oss's gate over gate_up [rows][gate, up]: g = min(gate, clamp), u = up within +-clamp, out =
// (u + 1) * g * sigmoid(alpha * g). out is resized; gate_up's gate half is scratch.
void ClampedGate(MatrixView gate_up, float clamp, float alpha, MatmulInput* out);

}  // namespace kvasir
