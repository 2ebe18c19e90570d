// A mixed batch of sequences with random queries, keys and values in a poisoned pool, what
// PagedAttention makes of it, and what the naive twin does.
#pragma once

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/kernels/bf16_attention_kernels.h"
#include "runtime/ops/paged_attention.h"
#include "tests/ops/paged_kv.h"
#include "tests/ops/tensor_matrix.h"
#include "tests/reference/naive_ops.h"

namespace kvasir {

// One sequence of the batch: `context` positions already stored, then `rows` new query rows.
struct BatchMember {
  int context = 0;
  int rows = 1;
};

struct AttentionCase {
  int query_heads = 4;
  int kv_heads = 2;
  int k_dim = 64;
  int v_dim = 64;
  KvElementType element_type = KvElementType::kF32;
  ComputeType compute_type = ComputeType::kF32;
  int block_tokens = 32;
  std::vector<BatchMember> batch;
  reference::ScoreRules rules;  // whose scale is 1 / sqrt(k_dim)
  bool gated = false;

  std::string Name() const {
    std::string name = std::to_string(query_heads) + "/" + std::to_string(kv_heads) +
                       " heads, dims " + std::to_string(k_dim) + "," + std::to_string(v_dim) +
                       ", " + KvElementTypeName(element_type) + ", compute " +
                       std::to_string(static_cast<int>(compute_type)) + ", blocks of " +
                       std::to_string(block_tokens) + ":";
    for (const BatchMember& m : batch)
      name += " " + std::to_string(m.context) + "+" + std::to_string(m.rows);
    if (rules.window > 0) name += ", window " + std::to_string(rules.window);
    if (rules.softcap > 0) name += ", softcap " + std::to_string(rules.softcap);
    if (!rules.sinks.empty()) name += ", sinks";
    if (!rules.alibi_slopes.empty()) name += rules.alibi_rounded ? ", rounded ALiBi" : ", ALiBi";
    return name + (gated ? ", gated" : "");
  }
};

// A batch in a poisoned pool.
struct AttentionBatch {
  explicit AttentionBatch(const AttentionCase& c, uint32_t seed = 1) : spec(c), pool(PoolSpec(c)) {
    int64_t rows = 0;
    for (const BatchMember& m : c.batch) rows += m.rows;
    spec.rules.scale = scale();
    if (c.gated)
      gate = reference::RandomMatrix(rows, int64_t{c.query_heads} * c.v_dim, seed + 7, 2.0f);
    q = reference::RandomMatrix(rows, int64_t{c.query_heads} * c.k_dim, seed);
    int32_t row = 0;
    tables.reserve(c.batch.size());
    for (size_t s = 0; s < c.batch.size(); ++s) {
      const int positions = c.batch[s].context + c.batch[s].rows;
      const reference::Matrix k =
          reference::RandomMatrix(positions, int64_t{c.kv_heads} * c.k_dim, seed + 10 + 2 * s);
      const reference::Matrix v =
          reference::RandomMatrix(positions, int64_t{c.kv_heads} * c.v_dim, seed + 11 + 2 * s);
      tables.push_back(pool.Add(k, v));
      stored_k.push_back(pool.ReadK(tables.back(), positions));
      stored_v.push_back(pool.ReadV(tables.back(), positions));
      ForgetBehindWindow(c.batch[s].context, &tables.back());
      AttentionSequence sequence;
      sequence.row_begin = row;
      sequence.num_rows = c.batch[s].rows;
      sequence.first_position = c.batch[s].context;
      sequence.blocks = tables.back();
      sequences.push_back(sequence);
      row += c.batch[s].rows;
    }
  }

  static PagedKvSpec PoolSpec(const AttentionCase& c) {
    PagedKvSpec pool_spec;
    pool_spec.kv_heads = c.kv_heads;
    pool_spec.k_dim = c.k_dim;
    pool_spec.v_dim = c.v_dim;
    pool_spec.element_type = c.element_type;
    pool_spec.block_tokens = c.block_tokens;
    pool_spec.num_blocks = 3;
    for (const BatchMember& m : c.batch)
      pool_spec.num_blocks += (m.context + m.rows) / c.block_tokens + 1;
    return pool_spec;
  }

  double scale() const { return 1.0 / std::sqrt(spec.k_dim); }

  // Blocks that no row of the step sees were given back: others wrote there, and the table no
  // longer names them.
  void ForgetBehindWindow(int context, std::vector<BlockId>* table) {
    AttentionRules window;
    window.window = spec.rules.window;
    const int gone = window.FirstSeen(context) / spec.block_tokens;
    for (int b = 0; b < gone; ++b) {
      pool.Poison((*table)[b]);
      (*table)[b] = -1;
    }
  }

  AttentionRules Rules() const {
    AttentionRules rules;
    rules.scale = static_cast<float>(spec.rules.scale);
    rules.window = spec.rules.window;
    rules.softcap = static_cast<float>(spec.rules.softcap);
    if (!spec.rules.sinks.empty()) rules.sinks = spec.rules.sinks.data();
    if (!spec.rules.alibi_slopes.empty()) rules.alibi_slopes = spec.rules.alibi_slopes.data();
    rules.alibi_rounded = spec.rules.alibi_rounded;
    return rules;
  }

  // Rows [first_row, first_row + rows) of the batch's queries.
  AttentionQueries Queries(int64_t first_row, int64_t rows) {
    AttentionQueries queries;
    queries.q = {q.row(first_row), rows, q.cols, q.cols};
    queries.num_heads = spec.query_heads;
    if (spec.gated) queries.gate = {gate.row(first_row), rows, gate.cols, gate.cols};
    return queries;
  }

  reference::Matrix Run() {
    PagedAttention attention;
    MatmulInput out(spec.compute_type);
    attention.Run(Queries(0, q.rows), Rules(), sequences, pool.view(), &out);
    return Floats(out);
  }

  reference::Matrix Expected() {
    reference::Matrix all(q.rows, int64_t{spec.query_heads} * spec.v_dim);
    for (size_t s = 0; s < sequences.size(); ++s) {
      reference::Matrix rows(sequences[s].num_rows, q.cols);
      std::copy_n(q.row(sequences[s].row_begin), rows.data.size(), rows.data.data());
      const reference::Matrix out =
          reference::Attend(rows, stored_k[s], stored_v[s], spec.query_heads, spec.kv_heads,
                            sequences[s].first_position, spec.rules);
      std::copy_n(out.data.data(), out.data.size(), all.row(sequences[s].row_begin));
    }
    for (size_t i = 0; spec.gated && i < all.data.size(); ++i)
      all.data[i] /= 1.0f + std::exp(-gate.data[i]);
    return all;
  }

  AttentionCase spec;
  PagedKv pool;
  reference::Matrix q;
  reference::Matrix gate;
  std::vector<reference::Matrix> stored_k, stored_v;  // by sequence, as rounded by the pool
  std::vector<std::vector<BlockId>> tables;
  std::vector<AttentionSequence> sequences;
};

// f32: rounding only. bf16: queries and weights round to 8 bits; a score of unit variance moves by
// about 2^-9 * sqrt(2), and so does its weight, and the mix of values below 5 by as much of the
// largest. int8 K and V: the query's elements round to steps of its largest / 127, its weights much
// finer, which is no more. int8 output: half a step of the row's maximum on top.
inline double Tolerance(const AttentionCase& c) {
  const bool narrow_arithmetic =
      c.compute_type != ComputeType::kF32 && HasBf16Products() &&
      (c.element_type == KvElementType::kBf16 || c.element_type == KvElementType::kInt8);
  double tolerance = narrow_arithmetic ? 5 * 0x1p-7 : 1e-5;
  if (EffectiveComputeType(c.compute_type) == ComputeType::kBf16) tolerance += 5 * 0x1p-8;
  if (c.compute_type == ComputeType::kInt8) tolerance += 5.0 / 127 * 0.51;
  return tolerance;
}

inline void ExpectNaive(const AttentionCase& c) {
  AttentionBatch batch(c);
  EXPECT_LT(reference::MaxDifference(batch.Run(), batch.Expected()), Tolerance(c)) << c.Name();
}

}  // namespace kvasir
