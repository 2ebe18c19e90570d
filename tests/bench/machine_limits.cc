#include "tests/bench/machine_limits.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/parallel.h"
#include "dnnl.hpp"
#include "runtime/ops/matmul.h"
#include "runtime/ops/onednn_version.h"

namespace kvasir {
namespace {

using Clock = std::chrono::steady_clock;

// Best so far; 0 = not measured yet.
double best_bandwidth = 0;
double best_rates[3] = {};

double Seconds(Clock::time_point from) {
  return std::chrono::duration<double>(Clock::now() - from).count();
}

// In the widest vectors the CPU has: with narrower ones a core tracks fewer lines at a time.
__attribute__((target_clones("avx512f", "avx2", "default"))) uint64_t Sum(const uint64_t* from,
                                                                          size_t count) {
  uint64_t lanes[32] =
      {};  // independent sums, so that the loop vectorises and only memory limits it
  for (size_t i = 0; i < count; i += 32) {
    for (size_t j = 0; j < 32; ++j) lanes[j] += from[i + j];
  }
  uint64_t sum = 0;
  for (const uint64_t lane : lanes) sum += lane;
  return sum;
}

// Best of `repeats` passes over memory far beyond any last-level cache.
double MeasureBandwidth(int repeats) {
  constexpr size_t kBytes = size_t{512} << 20;
  constexpr size_t kPieceBytes = size_t{8} << 20;
  static AlignedBuffer<uint64_t>* const memory = [] {
    auto* buffer = new AlignedBuffer<uint64_t>(kBytes / 8);
    std::memset(buffer->data(), 1, kBytes);
    return buffer;
  }();
  std::vector<uint64_t> sums(kBytes / kPieceBytes);
  double best = 0;
  for (int repeat = 0; repeat < repeats; ++repeat) {
    const auto start = Clock::now();
    ParallelFor(sums.size(), [&](size_t piece, int) {
      sums[piece] = Sum(memory->data() + piece * (kPieceBytes / 8), kPieceBytes / 8);
    });
    best = std::max(best, kBytes / Seconds(start));
  }
  return best;
}

double MeasureProduct(ComputeType type) {
  using dnnl::memory;
  constexpr int64_t kRows = 2048, kIn = 2048, kOut = 8192;
  const bool int8 = type == ComputeType::kInt8;
  const auto weight_type = int8                         ? memory::data_type::s8
                           : type == ComputeType::kBf16 ? memory::data_type::bf16
                                                        : memory::data_type::f32;
  const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  const auto description = DescribeMatmul(
      memory::desc({kRows, kIn}, int8 ? memory::data_type::u8 : weight_type,
                   memory::format_tag::ab),
      memory::desc({kIn, kOut}, weight_type, memory::format_tag::any), memory::desc(),
      memory::desc({kRows, kOut}, int8 ? memory::data_type::s32 : memory::data_type::f32,
                   memory::format_tag::ab),
      dnnl::primitive_attr(), engine);
  const dnnl::matmul product(description);
  memory x(description.src_desc(), engine), w(description.weights_desc(), engine),
      y(description.dst_desc(), engine);
  std::memset(x.get_data_handle(), 0x3c, description.src_desc().get_size());
  std::memset(w.get_data_handle(), 0x3c, description.weights_desc().get_size());
  double best = 0;
  for (int repeat = 0; repeat < 8; ++repeat) {
    const auto start = Clock::now();
    product.execute(stream, {{DNNL_ARG_SRC, x}, {DNNL_ARG_WEIGHTS, w}, {DNNL_ARG_DST, y}});
    stream.wait();
    best = std::max(best, 2.0 * kRows * kIn * kOut / Seconds(start));
  }
  return best;
}

}  // namespace

double ReadBandwidth() {
  if (best_bandwidth == 0) best_bandwidth = MeasureBandwidth(8);
  return best_bandwidth;
}

double ReadBandwidthNow() { return MeasureBandwidth(2); }

double ProductRate(ComputeType wanted) {
  const ComputeType compute_type = EffectiveComputeType(wanted);
  double& rate = best_rates[static_cast<int>(compute_type)];
  if (rate == 0) rate = MeasureProduct(compute_type);
  return rate;
}

void MeasureAgain(ComputeType compute_type) {
  best_bandwidth = std::max(best_bandwidth, MeasureBandwidth(8));
  double& rate = best_rates[static_cast<int>(compute_type)];
  rate = std::max(rate, MeasureProduct(compute_type));
}

}  // namespace kvasir
