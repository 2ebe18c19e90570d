#include "runtime/ops/layers/delta_net.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/parallel.h"
#include "runtime/kernels/layer_kernels.h"

namespace kvasir {
namespace {

// Of the unit vectors q and k, as the reference has it.
constexpr float kUnitEpsilon = 1e-6f;

// log(1 + exp(x)) without overflow.
float Softplus(float x) { return std::max(x, 0.0f) + std::log1p(std::exp(-std::abs(x))); }

float Sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

// Rows of one step between the two projections.
struct Step {
  const DeltaNetShape& shape;
  const DeltaNetParameters& parameters;
  MatrixView projected;
  MatrixView convolved;  // q, k, v
  MatrixView mixed;
  float* decay;  // [rows][value_heads]
  float* beta;   // [rows][value_heads]
  float* qk;     // [rows][value_heads]

  int64_t keys() const { return int64_t{shape.key_heads} * shape.key_dim; }
  int64_t values() const { return int64_t{shape.value_heads} * shape.value_dim; }

  // Unit q and k, and the scalars of each value head.
  void PrepareRow(int64_t r) const {
    float* q = convolved.row(r);
    float* k = q + keys();
    const float scale = 1.0f / std::sqrt(static_cast<float>(shape.key_dim));
    for (int64_t at = 0; at < keys(); at += shape.key_dim) {
      UnitRow(q + at, scale, kUnitEpsilon, shape.key_dim);
      UnitRow(k + at, 1.0f, kUnitEpsilon, shape.key_dim);
    }
    const float* b = projected.row(r) + shape.conv_channels() + values();
    const float* a = b + shape.value_heads;
    const int per_key = shape.value_heads / shape.key_heads;
    for (int head = 0; head < shape.value_heads; ++head) {
      const int64_t at = r * shape.value_heads + head;
      const int64_t key = int64_t{head / per_key} * shape.key_dim;
      decay[at] = std::exp(-parameters.decay[head] * Softplus(a[head] + parameters.dt_bias[head]));
      beta[at] = Sigmoid(b[head]);
      qk[at] = head % per_key == 0 ? DotRow(q + key, k + key, shape.key_dim) : qk[at - 1];
    }
  }

  // One block of value columns of one head, over a sequence's tokens.
  void RunBlock(const RecurrentSequence& sequence, int head, int block) const {
    const int64_t first_column = int64_t{block} * DeltaNetShape::kStateColumns;
    const int64_t columns =
        std::min<int64_t>(DeltaNetShape::kStateColumns, shape.value_dim - first_column);
    float* state = sequence.state + shape.ConvStateFloats() +
                   (int64_t{head} * shape.value_dim + first_column) * shape.key_dim;
    if (sequence.fresh) std::fill_n(state, shape.key_dim * columns, 0.0f);
    const int64_t row = sequence.first_row;
    const int64_t key = int64_t{head / (shape.value_heads / shape.key_heads)} * shape.key_dim;
    const int64_t value = int64_t{head} * shape.value_dim + first_column;
    DeltaTokens tokens;
    tokens.count = sequence.num_rows;
    tokens.q = convolved.row(row) + key;
    tokens.k = tokens.q + keys();
    tokens.v = convolved.row(row) + 2 * keys() + value;
    tokens.key_stride = tokens.value_stride = convolved.stride;
    tokens.decay = decay + row * shape.value_heads + head;
    tokens.beta = beta + row * shape.value_heads + head;
    tokens.qk = qk + row * shape.value_heads + head;
    tokens.scalar_stride = shape.value_heads;
    tokens.out = mixed.row(row) + value;
    tokens.out_stride = mixed.stride;
    DeltaRule(tokens, shape.key_dim, columns, state);
  }

  void FinishRow(int64_t r, MatmulInput* out) const {
    const float* z = projected.row(r) + shape.conv_channels();
    float* row = mixed.row(r);
    for (int64_t at = 0; at < values(); at += shape.value_dim) {
      GatedNormRow(row + at, parameters.norm, z + at, shape.norm_epsilon, shape.value_dim,
                   row + at);
    }
    out->SetRow(r, row);
  }
};

}  // namespace

void DeltaNet::Run(MatrixView projected, const DeltaNetShape& shape,
                   const DeltaNetParameters& parameters,
                   absl::Span<const RecurrentSequence> sequences, MatmulInput* out) {
  KVASIR_CHECK(projected.cols == shape.projected_columns() &&
               shape.value_heads % shape.key_heads == 0);
  const int64_t rows = projected.rows, channels = shape.conv_channels();
  const int64_t values = int64_t{shape.value_heads} * shape.value_dim;
  const int64_t scalars = rows * shape.value_heads;
  convolved_.Resize(rows * channels);
  scalars_.Resize(3 * scalars);
  mixed_.Resize(rows * values);
  out->Resize(rows, values);
  const MatrixView inputs{projected.data, rows, channels, projected.stride};
  const Step step{shape,
                  parameters,
                  projected,
                  {convolved_.data(), rows, channels, channels},
                  {mixed_.data(), rows, values, values},
                  scalars_.data(),
                  scalars_.data() + scalars,
                  scalars_.data() + 2 * scalars};

  CausalConvolution(inputs, sequences, shape.conv_kernel, parameters.conv, /*bias=*/nullptr,
                    /*silu=*/true, step.convolved);
  ParallelFor(rows, [&](size_t r, int) { step.PrepareRow(static_cast<int64_t>(r)); });
  const int blocks =
      (shape.value_dim + DeltaNetShape::kStateColumns - 1) / DeltaNetShape::kStateColumns;
  const size_t per_sequence = static_cast<size_t>(shape.value_heads) * blocks;
  ParallelFor(sequences.size() * per_sequence, [&](size_t index, int) {
    const int part = static_cast<int>(index % per_sequence);
    step.RunBlock(sequences[index / per_sequence], part / blocks, part % blocks);
  });
  ParallelFor(rows, [&](size_t r, int) { step.FinishRow(static_cast<int64_t>(r), out); });
}

}  // namespace kvasir
