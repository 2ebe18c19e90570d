#include "tests/bench/machine_probe.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kvcache/check.h"
#include "runtime/base/aligned_buffer.h"
#include "runtime/base/parallel.h"
#include "runtime/ops/matmul.h"

namespace kvasir::bench {
namespace {

double Seconds(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace

double ReadBandwidth(int repeats) {
  constexpr size_t kBytes = size_t{1} << 30;
  constexpr size_t kPieces = 256;
  constexpr size_t kWords = kBytes / sizeof(uint64_t) / kPieces;
  AlignedBuffer<uint64_t> buffer(kWords * kPieces);
  ParallelFor(kPieces, [&](size_t piece, int) {
    std::memset(&buffer[piece * kWords], 1, kWords * sizeof(uint64_t));
  });

  double best = 0;
  std::vector<uint64_t> sums(kPieces);
  for (int r = 0; r < repeats; ++r) {
    const auto begin = std::chrono::steady_clock::now();
    ParallelFor(kPieces, [&](size_t piece, int) {
      // Several sums, so that loads and not additions are what is waited for.
      uint64_t sum[8] = {};
      const uint64_t* words = &buffer[piece * kWords];
      for (size_t i = 0; i < kWords; i += 8) {
        for (size_t j = 0; j < 8; ++j) sum[j] += words[i + j];
      }
      for (uint64_t s : sum) sums[piece] += s;
    });
    best = std::max(best, static_cast<double>(kBytes) / Seconds(begin));
  }
  uint64_t total = 0;
  for (uint64_t sum : sums) total += sum;
  KVASIR_CHECK(total ==
               uint64_t{0x0101010101010101} * (kWords * kPieces) * static_cast<uint64_t>(repeats));
  return best;
}

double LargeProductRate(ComputeType compute_type, int repeats) {
  constexpr int64_t kRows = 512, kIn = 2048, kOut = 8192;
  std::vector<bf16> weights(kIn * kOut);
  for (size_t i = 0; i < weights.size(); ++i)
    weights[i] = ToBf16(static_cast<float>(static_cast<int>(i % 17) - 8) / 64);
  const StoredMatrix stored{weights.data(), DataType::kBf16, kOut, kIn};
  auto linear = Linear::Create({&stored, 1}, {}, compute_type).value();

  MatmulInput input(compute_type);
  input.Resize(kRows, kIn);
  std::vector<float> row(kIn, 0.25f);
  for (int64_t r = 0; r < kRows; ++r) input.SetRow(r, row.data());
  AlignedBuffer<float> output(RoundUpRows(kRows) * kOut);
  const MatrixView y{output.data(), kRows, kOut, kOut};
  linear->Run(input, y, false);

  double best = 0;
  for (int r = 0; r < repeats; ++r) {
    const auto begin = std::chrono::steady_clock::now();
    linear->Run(input, y, false);
    best = std::max(best, 2.0 * kRows * kIn * kOut / Seconds(begin));
  }
  return best;
}

}  // namespace kvasir::bench
