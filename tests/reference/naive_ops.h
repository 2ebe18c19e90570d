// Naive twins of the operations in runtime/ops: plain loops, sums in double, no blocking, no
// packing. Slow and obvious; what the fast ones are compared with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "base/bf16.h"
#include "runtime/kernels/activation_kernels.h"

namespace kvasir::reference {

// Row-major matrix of floats that owns its elements.
struct Matrix {
  Matrix() = default;
  Matrix(int64_t rows, int64_t cols) : rows(rows), cols(cols), data(rows * cols) {}

  float* row(int64_t r) { return data.data() + r * cols; }
  const float* row(int64_t r) const { return data.data() + r * cols; }
  float& at(int64_t r, int64_t c) { return data[r * cols + c]; }
  float at(int64_t r, int64_t c) const { return data[r * cols + c]; }

  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<float> data;
};

// Standard normal elements, the same for the same seed.
Matrix RandomMatrix(int64_t rows, int64_t cols, uint32_t seed, float deviation = 1.0f);

// The elements in bf16, row after row.
std::vector<bf16> Narrow(const Matrix& matrix);

// x [m][k] times w [n][k] transposed, plus bias [n] (empty = none).
Matrix Multiply(const Matrix& x, const Matrix& w, absl::Span<const float> bias);

Matrix RmsNorm(const Matrix& x, absl::Span<const int32_t> rows, absl::Span<const float> weight,
               double epsilon);

// (x - mean) / deviation * weight + bias, with mean 0 unless centered; weight and bias may be
// empty.
Matrix Norm(const Matrix& x, bool centered, absl::Span<const float> weight,
            absl::Span<const float> bias, double epsilon);

double Activate(Activation activation, double x);

Matrix SiluMul(const Matrix& gate_up);

// Rotates in place; position p turns pair i by p * base^(-2i / rotary_dim).
void Rope(Matrix* x, int num_heads, int head_dim, int rotary_dim,
          absl::Span<const int32_t> positions, double base);

// What a model does to scores beyond a scale: see runtime/ops/attention_rules.h.
struct ScoreRules {
  double scale = 1;
  int window = 0;
  double softcap = 0;
  std::vector<float> sinks;         // [query heads], or empty
  std::vector<float> alibi_slopes;  // [query heads], or empty
  bool alibi_rounded = false;
};

// Causal softmax attention of one sequence. q: [tokens][query heads * k_dim], its row t at position
// first_position + t. k, v: [positions][kv heads * dim].
Matrix Attend(const Matrix& q, const Matrix& k, const Matrix& v, int query_heads, int kv_heads,
              int first_position, const ScoreRules& rules);
Matrix Attend(const Matrix& q, const Matrix& k, const Matrix& v, int query_heads, int kv_heads,
              int first_position, double scale);

// Largest |a - b|; infinity when shapes differ or an element is not finite.
double MaxDifference(const Matrix& a, const Matrix& b);

}  // namespace kvasir::reference
