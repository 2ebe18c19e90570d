// SparQ attention against dense attention on one layer and one decoding sequence, and against the byte model. Not a
// test.
//
//   build/release/bin/kvasir-sparq-bench [max_positions] [repetitions]
//
// Columns: milliseconds of each (the median), dense over SparQ, the same ratio of the bytes that each reads, and the
// first as a share of the second: 1.00 means that SparQ is as near to the memory's bandwidth as dense attention.
// Rank is head_dim / 8, top_k max(128, positions / 16), no mean value in groups.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <vector>

#include "kvcache/kv_arena.h"
#include "runtime/base/bf16.h"
#include "runtime/base/parallel.h"
#include "runtime/ops/key_columns.h"
#include "runtime/ops/paged_attention.h"
#include "runtime/ops/sparq_attention.h"

namespace kvasir {
namespace {

// Reading this much between two runs leaves nothing of a layer in any cache.
constexpr size_t kColdBytes = size_t{256} << 20;

struct Shape {
  const char* name;
  int query_heads, kv_heads, dim;
};

double MedianMilliseconds(int repetitions, const std::function<void(int)>& run, int layers) {
  std::vector<double> times;
  for (int i = 0; i < repetitions; ++i) {
    const auto start = std::chrono::steady_clock::now();
    run(i % layers);
    times.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
  }
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  return times[times.size() / 2];
}

void Compare(const Shape& shape, int positions, int block_tokens, SparqKeys keys, SparqSelection selection,
             int repetitions) {
  KvLayoutSpec spec;
  spec.owner = {0};
  spec.kv_heads = {shape.kv_heads};
  spec.k_dim = spec.v_dim = shape.dim;
  spec.block_tokens = block_tokens;
  spec.sparq_keys = keys;
  const KvLayout layout = *KvLayout::Create(spec);
  const int blocks_each = layout.BlocksFor(positions);
  const size_t sparse_bytes = static_cast<size_t>(positions) * layout.resident_bytes_per_token() / 8;
  const int layers = static_cast<int>(std::min<size_t>(16, 1 + kColdBytes / sparse_bytes / 2));
  auto arena = *KvArena::Create(layout, blocks_each * layers);
  // The values decide only which rows are picked; normal ones pick scattered rows, which is the hard case.
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<bf16> noise(1 << 16);
  for (bf16& x : noise) x = ToBf16(normal(random));
  size_t at = 0;
  for (int b = 0; b < arena->num_blocks(); ++b) {
    const KvView kv = arena->View(0);
    for (int head = 0; head < shape.kv_heads; ++head) {
      for (uint8_t* tile : {kv.K(b, head), kv.V(b, head)}) {
        for (int row = 0; row < block_tokens; ++row) {
          std::copy_n(&noise[at % (noise.size() - shape.dim)], shape.dim, reinterpret_cast<bf16*>(tile) + row * shape.dim);
          at += 977;
        }
      }
    }
  }
  std::vector<BlockId> table(arena->num_blocks());
  for (size_t b = 0; b < table.size(); ++b) table[b] = static_cast<BlockId>(b);
  std::shuffle(table.begin(), table.end(), random);
  const auto blocks = [&](int layer) {
    return absl::MakeConstSpan(table).subspan(static_cast<size_t>(layer) * blocks_each, blocks_each);
  };
  const KvView kv = arena->View(0);
  for (int layer = 0; layer < layers; ++layer) FillKeyColumns({FilledBlocks{blocks(layer), 0, positions / block_tokens}}, kv);

  std::vector<float> q(static_cast<size_t>(shape.query_heads) * shape.dim);
  for (float& x : q) x = normal(random);
  const int64_t cols = static_cast<int64_t>(q.size());
  const MatrixView queries{q.data(), 1, cols, cols};
  const float scale = 0.088f;
  MatmulInput out(ComputeType::kBf16);
  PagedAttention dense;
  SparqAttention sparse;
  SparqParams params{shape.dim / 8, std::max(128, positions / 16), 32, shape.query_heads == shape.kv_heads, selection};
  const auto run_dense = [&](int layer) {
    dense.Run(queries, shape.query_heads, scale, {AttentionSequence{0, 1, positions - 1, blocks(layer)}}, kv, &out);
  };
  const auto run_sparse = [&](int layer) {
    sparse.Run(queries, shape.query_heads, scale, {SparqSequence{{0, 1, positions - 1, blocks(layer)}, params}}, kv, &out);
  };
  run_dense(0);
  run_sparse(0);
  const double dense_ms = MedianMilliseconds(repetitions, run_dense, layers);
  const double sparse_ms = MedianMilliseconds(repetitions, run_sparse, layers);
  const double model = static_cast<double>(positions) * layout.read_bytes_per_token() /
                       static_cast<double>(SparqBytesRead(layout, 0, positions, params));
  std::printf("%-14s %7d  B %3d  keys %-4s %-11s dense %8.3f ms  sparq %8.3f ms  ratio %5.2f  model %5.2f  share %4.2f\n",
              shape.name, positions, block_tokens, SparqKeysName(keys),
              selection == SparqSelection::kSoftmaxSum ? "softmax sum" : "logit sum", dense_ms, sparse_ms,
              dense_ms / sparse_ms, model, dense_ms / sparse_ms / model);
  std::fflush(stdout);
}

}  // namespace
}  // namespace kvasir

int main(int argc, char** argv) {
  using namespace kvasir;
  const int max_positions = argc > 1 ? std::atoi(argv[1]) : 65536;
  const int repetitions = argc > 2 ? std::atoi(argv[2]) : 15;
  SetComputeThreads(ComputeThreads());
  std::printf("threads %d, medians of %d\n", ComputeThreads(), repetitions);
  const Shape shapes[] = {{"mha32x128", 32, 32, 128}, {"gqa32/8x128", 32, 8, 128}, {"mqa32x128", 32, 1, 128}};
  for (const Shape& shape : shapes) {
    for (const int positions : {4096, 16384, 32768, 65536, 131072}) {
      if (positions > max_positions) continue;
      Compare(shape, positions, 32, SparqKeys::kSame, SparqSelection::kSoftmaxSum, repetitions);
      if (shape.query_heads > shape.kv_heads) {
        Compare(shape, positions, 32, SparqKeys::kSame, SparqSelection::kLogitSum, repetitions);
      }
      Compare(shape, positions, 64, SparqKeys::kInt8, SparqSelection::kSoftmaxSum, repetitions);
    }
  }
  return 0;
}
