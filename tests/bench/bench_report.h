// What a benchmark reports beside its time: rates, and ratios to the machine's limits of the same
// minutes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "benchmark/benchmark.h"
#include "runtime/ops/tensor.h"
#include "tests/bench/machine_limits.h"

namespace kvasir {

// Enough that nothing survives in a last-level cache from one use to the next.
inline constexpr size_t kColdBytes = size_t{384} << 20;

// The read bandwidth while a benchmark runs.
class Bandwidth {
 public:
  Bandwidth() { Sample(); }

  // Between two iterations, outside their time.
  void SampleBetween(benchmark::State& state) {
    state.PauseTiming();
    Sample();
    state.ResumeTiming();
  }

  double Median() {
    std::nth_element(samples_.begin(), samples_.begin() + samples_.size() / 2, samples_.end());
    return samples_[samples_.size() / 2];
  }

 private:
  void Sample() { samples_.push_back(ReadBandwidthNow()); }

  std::vector<double> samples_;
};

inline void Report(benchmark::State& state, Bandwidth& reads, double bytes, double operations,
                   ComputeType arithmetic) {
  const double n = static_cast<double>(state.iterations());
  const double bandwidth = reads.Median(), peak = ProductRate(arithmetic);
  const auto rate = benchmark::Counter::kIsRate;
  state.counters["GB/s"] = benchmark::Counter(bytes * n / 1e9, rate);
  state.counters["GFLOP/s"] = benchmark::Counter(operations * n / 1e9, rate);
  state.counters["bw_GB/s"] = bandwidth / 1e9;
  state.counters["of_bw"] = benchmark::Counter(bytes * n / bandwidth, rate);
  state.counters["of_peak"] = benchmark::Counter(operations * n / peak, rate);
  state.counters["of_roof"] =
      benchmark::Counter(n * std::max(bytes / bandwidth, operations / peak), rate);
}

}  // namespace kvasir
