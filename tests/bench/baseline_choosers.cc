#include "tests/bench/baseline_choosers.h"

#include <algorithm>
#include <numeric>

#include "base/bf16.h"
#include "base/check.h"

namespace kvasir::bench {
namespace {

template <class T>
float BoundOfBlock(const SparseItem& item, const KvView& kv, BlockId block) {
  const T* columns = reinterpret_cast<const T*>(kv.KeyColumns(block, item.kv_head));
  float bound = 0;
  for (int d = 0; d < kv.k_dim; ++d) {
    const T* column = columns + static_cast<size_t>(d) * kv.block_tokens;
    float least = ToFloat(column[0]), largest = least;
    for (int t = 1; t < kv.block_tokens; ++t) {
      least = std::min(least, ToFloat(column[t]));
      largest = std::max(largest, ToFloat(column[t]));
    }
    if (kv.k_columns == KvColumns::kInt8) {
      const float scale = kv.KeyColumnScales(block, item.kv_head)[d];
      least *= scale;
      largest *= scale;
    }
    for (int h = 0; h < item.group; ++h) {
      const float q = item.q[static_cast<size_t>(h) * kv.k_dim + d];
      bound += std::max(q * least, q * largest);
    }
  }
  return bound;
}

float BoundOf(const SparseItem& item, const KvView& kv, BlockId block) {
  switch (kv.column_type()) {
    case KvElementType::kF32:
      return BoundOfBlock<float>(item, kv, block);
    case KvElementType::kBf16:
      return BoundOfBlock<bf16>(item, kv, block);
    case KvElementType::kF16:
      return BoundOfBlock<f16>(item, kv, block);
    case KvElementType::kInt8:
      return BoundOfBlock<int8_t>(item, kv, block);
  }
  return 0;
}

void AppendRange(int begin, int end, std::vector<int32_t>* positions) {
  const size_t size = positions->size();
  positions->resize(size + (end - begin));
  std::iota(positions->begin() + size, positions->end(), begin);
}

void ChooseBlocks(const SparseItem& item, const KvView& kv, std::vector<int32_t>* positions) {
  const int always_from = (item.positions - item.params.local_window) / kv.block_tokens;  // block
  const int always = item.positions - always_from * kv.block_tokens;
  const int others =
      std::min(always_from, std::max(0, item.params.top_k - always) / kv.block_tokens);
  std::vector<float> bounds(always_from);
  for (int b = 0; b < always_from; ++b) bounds[b] = BoundOf(item, kv, item.blocks[b]);
  std::vector<int> order(always_from);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return bounds[a] > bounds[b]; });
  order.resize(others);
  std::sort(order.begin(), order.end());
  for (const int b : order) AppendRange(b * kv.block_tokens, (b + 1) * kv.block_tokens, positions);
  AppendRange(item.positions - always, item.positions, positions);
  // A window and a tail that do not fit lose their oldest positions, and something is always
  // attended to.
  const int most = item.params.top_k;
  if (static_cast<int>(positions->size()) > most)
    positions->erase(positions->begin(), positions->end() - most);
  if (positions->empty()) positions->push_back(item.positions - 1);
}

// Positions to choose anew; every head's mass on them is 1.
std::vector<int32_t>* Begin(const SparseItem& item, SparsePicks* picks) {
  KVASIR_CHECK(item.positions > item.params.top_k);
  picks->alpha.assign(item.group, 1.0f);
  picks->positions.clear();
  return &picks->positions;
}

}  // namespace

void WindowChooser::Choose(const SparseItem& item, const KvView&, SparsePicks* picks) const {
  std::vector<int32_t>* positions = Begin(item, picks);
  const int top_k = item.params.top_k, sinks = std::min(kSinkTokens, top_k - 1);
  AppendRange(0, sinks, positions);
  AppendRange(item.positions - (top_k - sinks), item.positions, positions);
}

int64_t WindowChooser::BytesRead(const KvView&, int64_t) const { return 0; }

void BlockBoundChooser::Choose(const SparseItem& item, const KvView& kv, SparsePicks* picks) const {
  ChooseBlocks(item, kv, Begin(item, picks));
}

int64_t BlockBoundChooser::BytesRead(const KvView& kv, int64_t positions) const {
  const int64_t row = kv.k_dim * static_cast<int64_t>(KvElementBytes(kv.element_type));
  return positions / kv.block_tokens * 2 * row;
}

}  // namespace kvasir::bench
