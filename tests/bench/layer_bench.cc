// Layers beside attention in kvasir-kernel-bench: decode of a gated delta net, whose bytes are its
// state, read once and written once (GB/s counts both), and of a mixture of experts, whose bytes
// are the chosen experts' weights.

#include <algorithm>
#include <memory>
#include <vector>

#include "base/aligned_buffer.h"
#include "benchmark/benchmark.h"
#include "runtime/model/layers/expert_feed_forward.h"
#include "runtime/ops/input_rows.h"
#include "runtime/ops/layers/delta_net.h"
#include "runtime/ops/matmul.h"
#include "tests/bench/bench_report.h"
#include "tests/reference/naive_ops.h"

namespace kvasir {
namespace {

using reference::Matrix;
using reference::RandomMatrix;

MatrixView View(Matrix& m) { return {m.data.data(), m.rows, m.cols, m.cols}; }

// The sizes of Qwen3.5-35B-A3B.
DeltaNetShape Shape() {
  DeltaNetShape shape;
  shape.key_heads = 16;
  shape.value_heads = 32;
  shape.key_dim = shape.value_dim = 128;
  return shape;
}

void BenchDeltaNet(benchmark::State& state, int sequences, int tokens) {
  const DeltaNetShape shape = Shape();
  const Matrix conv = RandomMatrix(shape.conv_kernel, shape.conv_channels(), 1, 0.5f);
  const std::vector<float> ones(std::max(shape.value_heads, shape.value_dim), 1.0f);
  const DeltaNetParameters parameters{conv.data.data(), ones.data(), ones.data(), ones.data()};
  Matrix projected = RandomMatrix(sequences * tokens, shape.projected_columns(), 2);
  const size_t floats = (shape.StateFloats() + 15) / 16 * 16;
  const size_t state_bytes = floats * sizeof(float);
  const size_t sets = std::max<size_t>(1, kColdBytes / (state_bytes * sequences));
  AlignedBuffer<float> states(sets * sequences * floats);
  std::fill_n(states.data(), states.size(), 0.0f);
  DeltaNet net;
  MatmulInput out(ComputeType::kBf16);
  Bandwidth reads;
  size_t next = 0;
  for (auto _ : state) {
    std::vector<RecurrentSequence> batch;
    for (int s = 0; s < sequences; ++s) {
      batch.push_back({s * tokens, tokens, states.data() + (next * sequences + s) * floats, false});
    }
    net.Run(View(projected), shape, parameters, batch, &out);
    next = (next + 1) % sets;
    if (next == 0) reads.SampleBetween(state);
  }
  const double bytes = 2.0 * static_cast<double>(state_bytes) * sequences;
  const double operations = 7.0 * shape.value_heads * shape.key_dim * shape.value_dim;
  Report(state, reads, bytes, operations * sequences * tokens, ComputeType::kF32);
}

// A layer of Qwen3-30B-A3B's sizes with a fourth of its experts.
void BenchExperts(benchmark::State& state, ComputeType type, int rows) {
  MoeSpec spec;
  spec.experts = 32;
  spec.chosen = 8;
  spec.width = 768;
  spec.renormalize = true;
  constexpr int kHidden = 2048;
  const Matrix router = RandomMatrix(spec.experts, kHidden, 1);
  const Matrix up = RandomMatrix(2 * spec.width, kHidden, 2, 0.02f);
  const Matrix down = RandomMatrix(kHidden, spec.width, 3, 0.02f);
  const auto pack = [](const Matrix& m, ComputeType to) {
    return *Linear::Create({StoredMatrix{m.data.data(), WeightFormat::kF32, m.rows, m.cols}}, {},
                           to);
  };
  std::vector<MoeWeights> layers(3);
  for (MoeWeights& layer : layers) {
    layer.router = pack(router, ComputeType::kF32);
    for (int e = 0; e < spec.experts; ++e) {
      layer.experts.push_back({pack(up, type), pack(down, type)});
    }
  }
  ExpertFeedForward feed_forward(type);
  Matrix out(RoundUpRows(rows), kHidden);
  MatmulInput router_x(ComputeType::kF32), x(type);
  Bandwidth reads;
  size_t step = 0;
  const auto run = [&] {
    feed_forward.Run(spec, layers[step % layers.size()], router_x, x,
                     {out.data.data(), rows, kHidden, kHidden});
  };
  // Warm, and other experts in every step.
  std::vector<Matrix> inputs;
  for (int i = 0; i < 16; ++i) inputs.push_back(RandomMatrix(rows, kHidden, 10 + i));
  for (int i = 0; i < 6; ++i) {
    SetRows(View(inputs[i]), &router_x);
    SetRows(View(inputs[i]), &x);
    run();
  }
  const int64_t before = feed_forward.weight_bytes_read();
  for (auto _ : state) {
    state.PauseTiming();
    if (++step % 16 == 0) reads.SampleBetween(state);
    SetRows(View(inputs[step % inputs.size()]), &router_x);
    SetRows(View(inputs[step % inputs.size()]), &x);
    state.ResumeTiming();
    run();
  }
  const double n = static_cast<double>(state.iterations());
  Report(state, reads, static_cast<double>(feed_forward.weight_bytes_read() - before) / n,
         6.0 * rows * spec.chosen * spec.width * kHidden, type);
}

BENCHMARK_CAPTURE(BenchDeltaNet, decode_1, 1, 1)->Name("DeltaNet/decode/1")->UseRealTime();
BENCHMARK_CAPTURE(BenchDeltaNet, decode_16, 16, 1)->Name("DeltaNet/decode/16")->UseRealTime();
BENCHMARK_CAPTURE(BenchDeltaNet, prefill, 1, 512)->Name("DeltaNet/prefill/512")->UseRealTime();
BENCHMARK_CAPTURE(BenchExperts, bf16_1, ComputeType::kBf16, 1)
    ->Name("Experts/bf16/1")
    ->UseRealTime();
BENCHMARK_CAPTURE(BenchExperts, int8_1, ComputeType::kInt8, 1)
    ->Name("Experts/int8/1")
    ->UseRealTime();
BENCHMARK_CAPTURE(BenchExperts, bf16_512, ComputeType::kBf16, 512)
    ->Name("Experts/bf16/512")
    ->UseRealTime();

}  // namespace
}  // namespace kvasir
