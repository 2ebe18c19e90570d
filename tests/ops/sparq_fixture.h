// Random queries over a random cache in the pool, for tests of SparQ: run by runtime/ops, and by
// its definition.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "runtime/ops/sparse/sparq_attention.h"
#include "tests/ops/paged_kv.h"
#include "tests/reference/sparq_reference.h"

namespace kvasir {

// Sums of up to some hundred products of standard normal values in f32.
inline constexpr double kSparqTolerance = 2e-5;

struct SparqCase {
  int query_heads = 4;
  int kv_heads = 2;
  int k_dim = 32;
  int v_dim = 32;
  KvElementType element_type = KvElementType::kF32;
  KvColumns k_columns = KvColumns::kSame;
  int block_tokens = 32;
  int context = 300;  // positions before the first query row
  int rows = 1;
  SparseParams params{8, 64, 16, false, SparseSelection::kSoftmaxSum};

  std::string Name() const {
    return std::to_string(query_heads) + "/" + std::to_string(kv_heads) + " heads, dims " +
           std::to_string(k_dim) + "," + std::to_string(v_dim) + ", " +
           KvElementTypeName(element_type) + ", columns " + KvColumnsName(k_columns) +
           ", blocks of " + std::to_string(block_tokens) + ", " + std::to_string(context) + "+" +
           std::to_string(rows) + ", r " + std::to_string(params.rank) + " k " +
           std::to_string(params.top_k) + " l " + std::to_string(params.local_window) +
           (params.mean_value ? " mean" : "") +
           (params.mean_of_unselected ? " of unselected" : "") +
           (params.selection == SparseSelection::kLogitSum ? " logit sum" : "") +
           (params.least_mass > 0 ? " mass " + std::to_string(params.least_mass) : "");
  }
};

class SparqFixture {
 public:
  explicit SparqFixture(const SparqCase& c)
      : c_(c),
        pool_(PoolSpec(c)),
        q_(reference::RandomMatrix(c.rows, int64_t{c.query_heads} * c.k_dim, 1, 2.0f)) {
    const int positions = c.context + c.rows;
    table_ = pool_.Add(reference::RandomMatrix(positions, int64_t{c.kv_heads} * c.k_dim, 2),
                       reference::RandomMatrix(positions, int64_t{c.kv_heads} * c.v_dim, 3));
  }

  reference::Matrix Run(const SparseParams& params, int64_t* bytes_read = nullptr) {
    SparqAttention attention;
    return RunLayer(&attention, q_, params, /*same_kv=*/false, bytes_read);
  }

  // One layer of several that `attention` serves: its own queries, shaped as queries().
  reference::Matrix RunLayer(SparqAttention* attention, const reference::Matrix& q,
                             const SparseParams& params, bool same_kv,
                             int64_t* bytes_read = nullptr) {
    const ResolvedSparq method({params}, 0);
    const SparseSequence sequence{{0, c_.rows, c_.context, table_}, &method, bytes_read};
    MatmulInput out(ComputeType::kF32);
    // The views are not written through.
    attention->Run(
        0, {{const_cast<float*>(q.data.data()), q.rows, q.cols, q.cols}, c_.query_heads, {}},
        scale(), {sequence}, pool_.view(), &out, same_kv);
    reference::Matrix result(q.rows, out.cols());
    std::copy_n(static_cast<const float*>(out.data()), result.data.size(), result.data.data());
    return result;
  }

  reference::Matrix Expected(const SparseParams& params) {
    const int group = c_.query_heads / c_.kv_heads;
    reference::Matrix result(q_.rows, int64_t{c_.query_heads} * c_.v_dim);
    for (int t = 0; t < c_.rows; ++t) {
      const int positions = c_.context + t + 1;
      // Key columns hold whole blocks; the row sees those that are full at its own position.
      const reference::Matrix k = pool_.ReadK(table_, positions),
                              v = pool_.ReadV(table_, positions);
      const reference::Matrix ranks = pool_.ReadRankKeys(table_, positions);
      for (int head = 0; head < c_.kv_heads; ++head) {
        reference::Matrix q(group, c_.k_dim);
        std::copy_n(q_.row(t) + static_cast<size_t>(head) * group * c_.k_dim, q.data.size(),
                    q.data.data());
        const reference::Matrix out =
            ExpectedOfGroup(q, Head(k, head, c_.k_dim), Head(ranks, head, c_.k_dim),
                            Head(v, head, c_.v_dim), params);
        std::copy_n(out.data.data(), out.data.size(),
                    result.row(t) + static_cast<size_t>(head) * group * c_.v_dim);
      }
    }
    return result;
  }

  reference::Matrix Dense() {
    const int positions = c_.context + c_.rows;
    return reference::Attend(q_, pool_.ReadK(table_, positions), pool_.ReadV(table_, positions),
                             c_.query_heads, c_.kv_heads, c_.context, scale());
  }

  // Of params.chooser: the picks by its definition, from a group's queries [group][k_dim] and the
  // keys that are ranked [positions][k_dim].
  using Choice = std::function<std::vector<int>(
      const reference::Matrix& q, const reference::Matrix& ranks, const SparseParams& params)>;
  void SetChoice(Choice choose) { choose_ = std::move(choose); }

  float scale() const { return 1.0f / std::sqrt(static_cast<float>(c_.k_dim)); }
  PagedKv& pool() { return pool_; }
  reference::Matrix& queries() { return q_; }
  const std::vector<BlockId>& table() const { return table_; }

 private:
  reference::Matrix ExpectedOfGroup(const reference::Matrix& q, const reference::Matrix& k,
                                    const reference::Matrix& ranks, const reference::Matrix& v,
                                    const SparseParams& params) const {
    reference::SparqSettings settings{params.rank, params.top_k, params.local_window,
                                      params.mean_value,
                                      params.selection == SparseSelection::kLogitSum};
    settings.mean_of_unselected = params.mean_of_unselected;
    settings.least_mass = params.least_mass;
    settings.max_top_k = params.max_top_k;
    if (params.chooser != nullptr && k.rows > params.top_k) {
      return reference::AttendToPicks(q, k, v, scale(), choose_(q, ranks, params), {}, settings);
    }
    return reference::Sparq(q, k, ranks, v, scale(), settings).out;
  }

  static PagedKvSpec PoolSpec(const SparqCase& c) {
    PagedKvSpec spec;
    spec.kv_heads = c.kv_heads;
    spec.k_dim = c.k_dim;
    spec.v_dim = c.v_dim;
    spec.element_type = c.element_type;
    spec.block_tokens = c.block_tokens;
    spec.num_blocks = (c.context + c.rows) / c.block_tokens + 3;
    spec.k_columns = c.k_columns;
    return spec;
  }

  static reference::Matrix Head(const reference::Matrix& all, int head, int dim) {
    reference::Matrix one(all.rows, dim);
    for (int64_t p = 0; p < all.rows; ++p)
      std::copy_n(all.row(p) + int64_t{head} * dim, dim, one.row(p));
    return one;
  }

  const SparqCase c_;
  PagedKv pool_;
  reference::Matrix q_;
  std::vector<BlockId> table_;
  Choice choose_;
};

}  // namespace kvasir
