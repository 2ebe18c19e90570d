// How long a product takes, to choose among its ways (product_choice.h): as in a step, weights come
// from memory. Not thread safe.
#pragma once

#include <cstdint>

#include "absl/functional/function_ref.h"
#include "absl/types/span.h"
#include "base/aligned_buffer.h"
#include "runtime/kernels/streams/stream_asking.h"
#include "runtime/ops/matmul.h"
#include "runtime/ops/tensor.h"

namespace kvasir {

// Measuring the ways of a shape takes this long, and not much more. Weights of less than that many
// bytes are not worth it: the difference would be microseconds.
inline constexpr double kMeasuringSeconds = 0.1;
inline constexpr size_t kLeastMeasuredBytes = size_t{1} << 20;

// How products of few rows ask for their weights, which is a matter of the CPU: kHalf until this
// thread's first product of enough weights has chosen. Nothing else depends on it.
StreamAsking Asking();
// time: seconds of such a product of one row, with weights of `bytes` that come from memory.
void ChooseAsking(size_t bytes, absl::FunctionRef<double()> time);

class ProductTimer {
 public:
  // For products of [rows, in] with [in, out], rows up to most_rows(): `rows`, or fewer where their
  // results would take more than 64 MiB.
  ProductTimer(ComputeType type, int64_t rows, int64_t in, int64_t out);

  int64_t most_rows() const { return most_rows_; }

  // Seconds of run(x, y), x being rows of some values and y having room for RoundUpRows(rows).
  // Whatever caches hold of the weights' pieces is dropped before.
  double Time(int64_t rows, absl::Span<const absl::Span<const uint8_t>> weights,
              absl::FunctionRef<void(const MatmulInput& x, MatrixView y)> run);

 private:
  const int64_t in_;
  const int64_t out_;
  const int64_t most_rows_;
  MatmulInput x_;
  AlignedBuffer<float> y_;
};

}  // namespace kvasir
