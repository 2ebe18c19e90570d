#include "runtime/ops/product_timing.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <chrono>
#include <vector>

namespace kvasir {
namespace {

constexpr int64_t kMostOutputs = int64_t{16} << 20;

#if defined(__x86_64__)
// Whatever a cache holds of these bytes. Only where there are several ways, so with AVX-512: CPUs
// with it have the instruction.
__attribute__((target("clflushopt"))) void LeaveCaches(absl::Span<const uint8_t> bytes) {
  constexpr size_t kLine = 64;
  for (size_t i = 0; i < bytes.size(); i += kLine)
    _mm_clflushopt(const_cast<uint8_t*>(bytes.data() + i));
  _mm_mfence();
}
#else
void LeaveCaches(absl::Span<const uint8_t>) {}
#endif

}  // namespace

ProductTimer::ProductTimer(ComputeType type, int64_t rows, int64_t in, int64_t out)
    : in_(in), out_(out), most_rows_(std::clamp<int64_t>(kMostOutputs / out, 1, rows)), x_(type) {
  x_.Resize(most_rows_, in_);
  const std::vector<float> zeros(in_);
  for (int64_t r = 0; r < most_rows_; ++r) x_.SetRow(r, zeros.data());
  y_.Resize(RoundUpRows(most_rows_) * out_);
}

double ProductTimer::Time(int64_t rows, absl::Span<const absl::Span<const uint8_t>> weights,
                          absl::FunctionRef<void(const MatmulInput&, MatrixView)> run) {
  x_.Resize(rows, in_);
  for (const absl::Span<const uint8_t> piece : weights) LeaveCaches(piece);
  const auto start = std::chrono::steady_clock::now();
  run(x_, {y_.data(), rows, out_, out_});
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace kvasir
