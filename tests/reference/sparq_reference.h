// SparQ attention as its definition says it, token by token and in double: what runtime/ops/sparq_attention is
// compared with. One query position, one KV head with its query group.
#pragma once

#include <cstdint>
#include <vector>

#include "tests/reference/naive_ops.h"

namespace kvasir::reference {

struct SparqSettings {
  int rank = 0;
  int top_k = 0;
  int local_window = 0;
  bool mean_value = false;
  bool sum_logits = false;  // how a group's heads agree: sum of logits instead of sum of softmaxes
};

struct SparqResult {
  std::vector<int> dims;                     // ascending
  std::vector<double> tau;                   // [group]
  std::vector<std::vector<double>> logits;   // [group][S]
  std::vector<std::vector<double>> weights;  // [group][S], softmax of logits
  std::vector<int> picks;                    // ascending
  std::vector<double> alpha;                 // [group]
  Matrix out;                                // [group][v_dim]
};

// q: [group][k_dim]; k, v: [S][dim]. rank_keys [S][k_dim]: what positions are ranked by, K itself or a coarser copy.
SparqResult Sparq(const Matrix& q, const Matrix& k, const Matrix& rank_keys, const Matrix& v, double scale,
                  const SparqSettings& settings);

}  // namespace kvasir::reference
