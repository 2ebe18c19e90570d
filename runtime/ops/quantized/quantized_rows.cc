#include "runtime/ops/quantized/quantized_rows.h"

#include "base/parallel.h"

namespace kvasir {
namespace {

// Between rows of codes, so that rows of 4 KiB and its multiples do not all fall into the same few
// places of the first cache level.
constexpr int64_t kCodePadding = 64;

constexpr int64_t kSerialValues = 32 * 1024;  // some ten microseconds on one core

}  // namespace

QuantizedInputs QuantizedRows::Set(int64_t rows, int64_t in, RowValues values) {
  const int64_t stride = in + kCodePadding, groups = in / kStepInputs, halves = in / 16;
  codes_.Resize(RoundUpBlockRows(rows) * stride);
  scales_.Resize(rows * groups);
  sums_.Resize(rows * halves);
  const auto one = [&](size_t index, int thread) {
    const auto r = static_cast<int64_t>(index);
    QuantizeInputs(values(r, thread), in, codes_.data() + r * stride, scales_.data() + r * groups,
                   sums_.data() + r * halves);
  };
  if (rows * in < kSerialValues) {
    for (int64_t r = 0; r < rows; ++r) one(static_cast<size_t>(r), 0);
  } else {
    ParallelFor(static_cast<size_t>(rows), one);
  }
  return {codes_.data(), scales_.data(), sums_.data(), in, stride};
}

}  // namespace kvasir
