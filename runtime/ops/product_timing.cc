#include "runtime/ops/product_timing.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <chrono>
#include <limits>
#include <vector>

#include "runtime/ops/onednn_matmul.h"

namespace kvasir {
namespace {

constexpr int64_t kMostOutputs = int64_t{16} << 20;

// Reads of fewer bytes are over before they are a stream.
constexpr size_t kLeastStreamBytes = size_t{2} << 20;
constexpr int kAskingRounds = 7;

thread_local StreamAsking t_asking = StreamAsking::kHalf;
thread_local bool t_asking_chosen = false;

// Whatever a cache holds of these bytes.
#if defined(__x86_64__)
constexpr size_t kLine = 64;

// CPUs with AVX-512 have the faster instruction.
__attribute__((target("clflushopt"))) void FlushFast(absl::Span<const uint8_t> bytes) {
  for (size_t i = 0; i < bytes.size(); i += kLine)
    _mm_clflushopt(const_cast<uint8_t*>(bytes.data() + i));
}

void LeaveCaches(absl::Span<const uint8_t> bytes) {
  if (OneDnnHasAvx512()) {
    FlushFast(bytes);
  } else {
    for (size_t i = 0; i < bytes.size(); i += kLine) _mm_clflush(bytes.data() + i);
  }
  _mm_mfence();
}
#else
void LeaveCaches(absl::Span<const uint8_t>) {}
#endif

}  // namespace

StreamAsking Asking() { return t_asking; }

void ChooseAsking(size_t bytes, absl::FunctionRef<double()> time) {
  if (t_asking_chosen || bytes < kLeastStreamBytes) return;
  t_asking_chosen = true;
  // The shortest counts, for what disturbs a run only makes it longer.
  double all = std::numeric_limits<double>::infinity(), half = all;
  for (int round = 0; round < kAskingRounds; ++round) {
    t_asking = StreamAsking::kAllLines;
    all = std::min(all, time());
    t_asking = StreamAsking::kHalf;
    half = std::min(half, time());
  }
  if (all < half) t_asking = StreamAsking::kAllLines;
}

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
