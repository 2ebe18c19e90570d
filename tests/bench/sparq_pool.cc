#include "tests/bench/sparq_pool.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>

#include "base/bf16.h"
#include "base/parallel.h"
#include "runtime/ops/sparse/key_columns.h"

namespace kvasir::bench {
namespace {

// Reading this much between two runs leaves nothing of a sequence in any cache.
constexpr size_t kColdBytes = size_t{128} << 20;

// What a sparse pass reads of dense attention's bytes in the measurements.
constexpr size_t kSparseShare = 8;

}  // namespace

SparqPool::SparqPool(const KvLayout& layout, int positions, int num_sequences)
    : num_sequences_(num_sequences) {
  blocks_each_ = layout.BlocksFor(positions);
  auto arena = KvArena::Create(
      layout, static_cast<int64_t>(layout.block_bytes()) * blocks_each_ * num_sequences);
  if (!arena.ok()) {
    std::fprintf(stderr, "kvasir-sparq-bench: %s\n", std::string(arena.status().message()).c_str());
    std::exit(2);
  }
  arena_ = std::move(*arena);
  FillWithNoise();
  table_.resize(arena_->num_blocks(0));
  for (size_t b = 0; b < table_.size(); ++b) table_[b] = static_cast<BlockId>(b);
  std::shuffle(table_.begin(), table_.end(), std::mt19937(1));
  for (int layer = 0; layer < layout.num_layers(); ++layer) {
    if (!layout.is_owner(layer)) continue;
    for (int s = 0; s < num_sequences_; ++s) {
      FillKeyColumns({FilledBlocks{blocks(s), 0, positions / layout.block_tokens()}}, view(layer));
    }
  }
}

int SparqPool::ColdSequences(const KvLayout& layout, int positions) {
  const size_t sparse_bytes =
      static_cast<size_t>(positions) * layout.read_bytes_per_token() / kSparseShare;
  return static_cast<int>(1 + kColdBytes / sparse_bytes);
}

void SparqPool::FillWithNoise() {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<bf16> noise(1 << 16);
  for (bf16& x : noise) x = ToBf16(normal(random));
  // Rows begin at different places of the noise.
  constexpr size_t kStep = 977;
  const KvLayout& l = layout();
  ParallelFor(arena_->num_blocks(0), [&](size_t block, int) {
    size_t at = block * 7919;
    for (int layer = 0; layer < l.num_layers(); ++layer) {
      if (!l.is_owner(layer)) continue;
      const KvView kv = view(layer);
      const auto fill = [&](uint8_t* tile, int dim) {
        for (int row = 0; row < kv.block_tokens; ++row, at += kStep) {
          std::copy_n(&noise[at % (noise.size() - dim)], dim,
                      reinterpret_cast<bf16*>(tile) + static_cast<size_t>(row) * dim);
        }
      };
      for (int head = 0; head < kv.slice.kv_heads; ++head) {
        fill(kv.K(static_cast<BlockId>(block), head), kv.k_dim);
        fill(kv.V(static_cast<BlockId>(block), head), kv.v_dim);
      }
    }
  });
}

absl::Span<const BlockId> SparqPool::blocks(int sequence) const {
  return absl::MakeConstSpan(table_).subspan(static_cast<size_t>(sequence) * blocks_each_,
                                             blocks_each_);
}

}  // namespace kvasir::bench
