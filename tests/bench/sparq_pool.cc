#include "tests/bench/sparq_pool.h"

#include <algorithm>
#include <random>

#include "kvcache/check.h"
#include "runtime/base/bf16.h"
#include "runtime/ops/key_columns.h"

namespace kvasir::bench {
namespace {

// Reading this much between two runs leaves nothing of a sequence in any cache.
constexpr size_t kColdBytes = size_t{64} << 20;

constexpr size_t kMostSequences = 16;

}  // namespace

SparqPool::SparqPool(const AttentionShape& shape, int positions, int block_tokens, SparqKeys keys) {
  KvLayoutSpec spec;
  spec.owner = {0};
  spec.kv_heads = {shape.kv_heads};
  spec.k_dim = spec.v_dim = shape.dim;
  spec.block_tokens = block_tokens;
  spec.sparq_keys = keys;
  KvLayout layout = *KvLayout::Create(spec);
  blocks_each_ = layout.BlocksFor(positions);
  const size_t sparse_bytes = static_cast<size_t>(positions) * layout.read_bytes_per_token() / 8;
  num_sequences_ = static_cast<int>(std::min(kMostSequences, 1 + kColdBytes / sparse_bytes));
  auto arena = KvArena::Create(std::move(layout), blocks_each_ * num_sequences_);
  KVASIR_CHECK(arena.ok());
  arena_ = std::move(*arena);

  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<bf16> noise(1 << 16);
  for (bf16& x : noise) x = ToBf16(normal(random));
  size_t at = 0;
  for (int b = 0; b < arena_->num_blocks(); ++b) {
    for (int head = 0; head < shape.kv_heads; ++head) {
      for (uint8_t* tile : {view().K(b, head), view().V(b, head)}) {
        for (int row = 0; row < block_tokens; ++row) {
          std::copy_n(&noise[at % (noise.size() - shape.dim)], shape.dim,
                      reinterpret_cast<bf16*>(tile) + static_cast<size_t>(row) * shape.dim);
          at += 977;
        }
      }
    }
  }
  table_.resize(arena_->num_blocks());
  for (size_t b = 0; b < table_.size(); ++b) table_[b] = static_cast<BlockId>(b);
  std::shuffle(table_.begin(), table_.end(), random);
  for (int s = 0; s < num_sequences_; ++s) {
    FillKeyColumns({FilledBlocks{blocks(s), 0, positions / block_tokens}}, view());
  }
  queries_.resize(static_cast<size_t>(shape.query_heads) * shape.dim);
  for (float& x : queries_) x = normal(random);
}

absl::Span<const BlockId> SparqPool::blocks(int sequence) const {
  return absl::MakeConstSpan(table_).subspan(static_cast<size_t>(sequence) * blocks_each_, blocks_each_);
}

MatrixView SparqPool::queries() const {
  const int64_t cols = static_cast<int64_t>(queries_.size());
  return {const_cast<float*>(queries_.data()), 1, cols, cols};
}

}  // namespace kvasir::bench
