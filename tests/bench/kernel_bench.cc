// How near the operations come to the machine's limits. Not a test.
//
//   build/release/bin/kvasir-kernel-bench [--benchmark_filter=Decode] [--benchmark_repetitions=5]
//
// Columns: GB/s of weights or K/V read, GFLOP/s, and as ratios to figures measured in the same run:
// of_bw to the read bandwidth, of_peak to oneDNN's large product in the same type, and of_roof to
// whichever of the two limits the operation first. Working sets are rotated so that they come from
// memory, not from caches; the bandwidth is the median of measurements between the rotations, for
// on a shared machine it changes by a factor of two within seconds.
//
// Tile/... is decode attention on one core over K/V in its second cache level: ns a token and KV
// head for the arithmetic alone. Where that is more than what reading takes, it is the bound.

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/aligned_buffer.h"
#include "base/bf16.h"
#include "base/parallel.h"
#include "benchmark/benchmark.h"
#include "kvcache/kv_layout.h"
#include "kvcache/kv_view.h"
#include "runtime/kernels/convert.h"
#include "runtime/ops/attention_tile.h"
#include "runtime/ops/elementwise.h"
#include "runtime/ops/matmul.h"
#include "runtime/ops/paged_attention.h"
#include "runtime/ops/quantized/quantize_matrix.h"
#include "tests/bench/bench_report.h"
#include "tests/bench/machine_limits.h"

namespace kvasir {
namespace {

const char* Name(ComputeType type) {
  return type == ComputeType::kF32 ? "f32" : type == ComputeType::kBf16 ? "bf16" : "int8";
}

std::vector<float> RandomFloats(size_t n, uint32_t seed) {
  std::vector<float> values(n);
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> uniform(-1, 1);
  for (float& x : values) x = uniform(random);
  return values;
}

// ---- Linear ----

constexpr int64_t kIn = 2048, kOut = 8192;

StoredMatrix PlainWeights() {
  static const std::vector<float> weights = RandomFloats(kIn * kOut, 1);
  return {weights.data(), WeightFormat::kF32, kOut, kIn};
}

// As a checkpoint stores what is computed in `type`.
StoredMatrix PlainWeights(ComputeType type) {
  if (type != ComputeType::kBf16) return PlainWeights();
  static const std::vector<bf16> narrow = [] {
    std::vector<bf16> values(kIn * kOut);
    FromFloats(static_cast<const float*>(PlainWeights().data), values.size(), values.data());
    return values;
  }();
  return {narrow.data(), WeightFormat::kBf16, kOut, kIn};
}

void BenchLinear(benchmark::State& state, const StoredMatrix& stored, ComputeType type,
                 bool accumulate) {
  const int64_t rows = state.range(0);
  std::vector<std::unique_ptr<Linear>> linears;
  size_t total = 0;
  while (total < kColdBytes && (rows <= 32 || linears.empty())) {
    linears.push_back(*Linear::Create({stored}, {}, type));
    total += linears.back()->packed_bytes();
  }
  linears[0]->Warm(rows);  // chooses the way for all of the shape, as a model's load does
  MatmulInput input(EffectiveComputeType(type));
  input.Resize(rows, kIn);
  const std::vector<float> x = RandomFloats(kIn, 2);
  for (int64_t r = 0; r < rows; ++r) input.SetRow(r, x.data());
  AlignedBuffer<float> y(RoundUpRows(rows) * kOut);
  std::fill_n(y.data(), y.size(), 0.0f);
  for (auto& linear : linears) linear->Run(input, {y.data(), rows, kOut, kOut}, accumulate);
  Bandwidth reads;
  size_t next = 0;
  for (auto _ : state) {
    linears[next]->Run(input, {y.data(), rows, kOut, kOut}, accumulate);
    next = (next + 1) % linears.size();
    if (next == 0) reads.SampleBetween(state);
  }
  Report(state, reads, static_cast<double>(linears[0]->packed_bytes()), 2.0 * rows * kIn * kOut,
         type);
}

void BenchBlocks(benchmark::State& state, WeightFormat format) {
  const AlignedBuffer<uint8_t> blocks = QuantizeMatrix(PlainWeights(), format);
  BenchLinear(state, {blocks.data(), format, kOut, kIn}, ComputeType::kBf16, false);
}

// ---- Attention ----

// Some layers' K/V of a few sequences in one arena.
struct Pool {
  Pool(int kv_heads, int dim, KvElementType type, int positions, int sequences, size_t cold_bytes) {
    KvLayoutSpec spec;
    spec.layers = UniformKvLayers({0}, kv_heads, dim, dim);
    spec.element_type = type;
    const auto layout = *KvLayout::Create(spec);
    blocks_each = layout.BlocksFor(positions);
    const size_t layer_bytes = static_cast<size_t>(blocks_each) * sequences * layout.block_bytes();
    layers = static_cast<int>(std::max<size_t>(1, cold_bytes / layer_bytes));
    memory.Resize(layer_bytes * layers);
    const uintptr_t page = (reinterpret_cast<uintptr_t>(memory.data()) + 4095) / 4096 * 4096;
    madvise(reinterpret_cast<void*>(page), memory.size() - 4096,
            MADV_HUGEPAGE);  // as the pool does
    // Any finite pattern will do: small values in every element type, scales included.
    if (type == KvElementType::kBf16 || type == KvElementType::kF16) {
      std::fill_n(reinterpret_cast<uint16_t*>(memory.data()), memory.size() / 2, uint16_t{0x3c40});
    } else {
      std::fill_n(reinterpret_cast<float*>(memory.data()), memory.size() / 4, 0.01f);
    }
    view.base = memory.data();
    view.block_bytes = layout.block_bytes();
    view.slice = layout.slice(0);
    view.element_type = type;
    view.block_tokens = spec.block_tokens;
    view.k_dim = view.v_dim = view.v_stride = dim;
    bytes_per_token = layout.read_bytes_per_token();
    const int count = blocks_each * sequences * layers;
    for (int b = 0; b < count; ++b) table.push_back(b);
    std::shuffle(table.begin(), table.end(), std::mt19937(3));
  }

  absl::Span<const BlockId> Blocks(int layer, int sequence, int sequences) const {
    return absl::MakeConstSpan(table).subspan(
        (static_cast<size_t>(layer) * sequences + sequence) * blocks_each, blocks_each);
  }

  AlignedBuffer<uint8_t> memory;
  KvView view;
  std::vector<BlockId> table;
  int blocks_each = 0;
  int layers = 1;
  size_t bytes_per_token = 0;
};

struct AttentionShape {
  int query_heads, kv_heads, dim;
};

void BenchAttention(benchmark::State& state, AttentionShape shape, KvElementType kv_type,
                    ComputeType type, int positions, int new_tokens, int sequences) {
  const size_t cold = new_tokens == 1 ? kColdBytes : 0;
  const Pool pool(shape.kv_heads, shape.dim, kv_type, positions, sequences, cold);
  const int64_t rows = int64_t{new_tokens} * sequences;
  std::vector<float> q = RandomFloats(rows * shape.query_heads * shape.dim, 5);
  const int64_t cols = int64_t{shape.query_heads} * shape.dim;
  AttentionRules rules;
  rules.scale = 0.125f;
  PagedAttention attention;
  MatmulInput out(type);
  std::vector<AttentionSequence> batch(sequences);
  const auto run = [&](int layer) {
    for (int s = 0; s < sequences; ++s) {
      batch[s] = {s * new_tokens, new_tokens, positions - new_tokens,
                  pool.Blocks(layer, s, sequences)};
    }
    attention.Run({{q.data(), rows, cols, cols}, shape.query_heads, {}}, rules, batch, pool.view,
                  &out);
  };
  Bandwidth reads;
  run(0);
  int layer = 0;
  for (auto _ : state) {
    run(layer);
    layer = (layer + 1) % pool.layers;
    if (layer == 0) reads.SampleBetween(state);
  }
  // Exactly the causal pairs: two products of `dim` each.
  const double pairs = static_cast<double>(new_tokens) * (positions - new_tokens) +
                       0.5 * new_tokens * (new_tokens + 1.0);
  const double operations = 4.0 * shape.dim * shape.query_heads * pairs * sequences;
  const double bytes = static_cast<double>(pool.bytes_per_token) * positions * sequences;
  const bool f32 = type == ComputeType::kF32;
  Report(state, reads, bytes, operations, f32 ? ComputeType::kF32 : ComputeType::kBf16);
}

void BenchTile(benchmark::State& state, AttentionShape shape, KvElementType kv_type,
               ComputeType type) {
  const int positions = static_cast<int>((size_t{512} << 10) /
                                         (2 * shape.dim * KvElementBytes(kv_type)) / kChunkTokens) *
                        kChunkTokens;
  const Pool pool(1, shape.dim, kv_type, positions, 1, 0);
  const int group = shape.query_heads / shape.kv_heads;
  std::vector<float> q = RandomFloats(static_cast<size_t>(group) * shape.dim, 5);
  const int64_t cols = static_cast<int64_t>(q.size());
  AttentionRules rules;
  rules.scale = 0.125f;
  AttentionTile tile;
  tile.Prepare(ChooseTileArithmetic(type, pool.view), pool.view, group);
  TileQueries queries;
  queries.q = {q.data(), 1, cols, cols};
  queries.num_tokens = 1;
  queries.first_position = positions - 1;
  queries.group = group;
  for (auto _ : state) {
    tile.SetQueries(queries, rules);
    const TilePartial total = tile.total_partial();
    for (int chunk = 0; chunk < positions / kChunkTokens; ++chunk) {
      const TilePartial part = chunk == 0 ? total : tile.chunk_partial();
      tile.Attend(pool.Blocks(0, 0, 1), 0, chunk, part);
      if (chunk > 0) AttentionTile::Merge(part, 0, group, tile.v_stride(), total);
    }
  }
  const double operations = 4.0 * shape.dim * group * positions;
  const double peak = ProductRate(type) / ComputeThreads();
  state.counters["tokens"] = positions;
  state.counters["s/token"] =
      benchmark::Counter(static_cast<double>(positions) * static_cast<double>(state.iterations()),
                         benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
  state.counters["of_peak"] = benchmark::Counter(
      operations * static_cast<double>(state.iterations()) / peak, benchmark::Counter::kIsRate);
}

template <typename... Args>
void Register(const std::string& name, int64_t range, Args... args) {
  auto* b = benchmark::RegisterBenchmark(name.c_str(), args...);
  if (range > 0) b->Arg(range);
  b->UseRealTime()->Unit(benchmark::kMicrosecond)->MinTime(0.3);
}

void RegisterAll() {
  for (const ComputeType type : {ComputeType::kF32, ComputeType::kBf16, ComputeType::kInt8}) {
    for (const int64_t rows : {1, 2, 4, 8, 16, 32, 128, 512}) {
      Register(std::string("Linear/2048x8192/") + Name(type), rows,
               [type](benchmark::State& s) { BenchLinear(s, PlainWeights(type), type, false); });
    }
    Register(std::string("LinearAdd/2048x8192/") + Name(type), 16,
             [type](benchmark::State& s) { BenchLinear(s, PlainWeights(type), type, true); });
  }
  for (const WeightFormat format : {WeightFormat::kQ8_0, WeightFormat::kQ4_0, WeightFormat::kQ4_K,
                                    WeightFormat::kInt4Group128}) {
    for (const int64_t rows : {1, 2, 4, 8, 16, 32, 64, 128, 512}) {
      Register(absl::StrCat("Linear/2048x8192/", Info(format).name), rows,
               [format](benchmark::State& s) { BenchBlocks(s, format); });
    }
  }
  struct Named {
    const char* name;
    AttentionShape shape;
  };
  const std::vector<Named> shapes = {{"gqa32/8x64", {32, 8, 64}}, {"gqa32/8x128", {32, 8, 128}},
                                     {"mha32x64", {32, 32, 64}},  {"mqa8x64", {8, 1, 64}},
                                     {"mqa32x64", {32, 1, 64}},   {"mqa32x128", {32, 1, 128}}};
  struct Form {
    KvElementType kv;
    ComputeType compute;
  };
  const std::vector<Form> forms = {{KvElementType::kBf16, ComputeType::kBf16},
                                   {KvElementType::kInt8, ComputeType::kBf16},
                                   {KvElementType::kBf16, ComputeType::kF32},
                                   {KvElementType::kF32, ComputeType::kF32}};
  for (const Named& n : shapes) {
    for (const Form& f : forms) {
      const std::string suffix =
          std::string(n.name) + "/kv_" + KvElementTypeName(f.kv) + "/compute_" + Name(f.compute);
      for (const int positions : {2048, 16384, 65536}) {
        Register("Decode/" + suffix + "/" + std::to_string(positions), 0, [=](benchmark::State& s) {
          BenchAttention(s, n.shape, f.kv, f.compute, positions, 1, 1);
        });
      }
      Register("Decode16/" + suffix + "/2048", 0, [=](benchmark::State& s) {
        BenchAttention(s, n.shape, f.kv, f.compute, 2048, 1, 16);
      });
      Register("Tile/" + suffix, 0,
               [=](benchmark::State& s) { BenchTile(s, n.shape, f.kv, f.compute); });
      Register("Prefill/" + suffix + "/4096", 0, [=](benchmark::State& s) {
        BenchAttention(s, n.shape, f.kv, f.compute, 4096, 4096, 1);
      });
    }
  }
}

}  // namespace
}  // namespace kvasir

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  kvasir::SetComputeThreads(kvasir::ComputeThreads());
  std::printf(
      "threads %d, read bandwidth %.1f GB/s, oneDNN product: f32 %.0f, bf16 %.0f GFLOP/s, int8 "
      "%.0f GOP/s\n",
      kvasir::ComputeThreads(), kvasir::ReadBandwidth() / 1e9,
      kvasir::ProductRate(kvasir::ComputeType::kF32) / 1e9,
      kvasir::ProductRate(kvasir::EffectiveComputeType(kvasir::ComputeType::kBf16)) / 1e9,
      kvasir::ProductRate(kvasir::ComputeType::kInt8) / 1e9);
  std::fflush(stdout);
  kvasir::RegisterAll();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
