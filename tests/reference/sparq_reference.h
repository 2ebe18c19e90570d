// SparQ attention as its definition says it, token by token and in double: what
// runtime/ops/sparse/sparq_attention is compared with. One query position, one KV head with its
// query group.
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
  bool mean_of_unselected = false;
  double least_mass = 0;  // above 0: picks grow up to max_top_k until the mean of alpha reaches it
  int max_top_k = 0;
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

// q: [group][k_dim]; k, v: [S][dim]. rank_keys [S][k_dim]: what positions are ranked by, K itself
// or a coarser copy.
SparqResult Sparq(const Matrix& q, const Matrix& k, const Matrix& rank_keys, const Matrix& v,
                  double scale, const SparqSettings& settings);

// The same attention to given positions, with given alpha per head.
Matrix AttendToPicks(const Matrix& q, const Matrix& k, const Matrix& v, double scale,
                     const std::vector<int>& picks, const std::vector<double>& alpha,
                     const SparqSettings& settings);

// Baselines. The first `sinks` positions and the newest, top_k in all.
std::vector<int> WindowPicks(int positions, int top_k, int sinks);

// Blocks of block_tokens positions: those that reach into the newest local_window positions or are
// not full, and of the others those with the largest sum over heads and dimensions of max(q min K,
// q max K), as many as fit in top_k.
std::vector<int> BlockBoundPicks(const Matrix& q, const Matrix& rank_keys, int top_k,
                                 int local_window, int block_tokens);

}  // namespace kvasir::reference
