#include "runtime/ops/sparse/chosen_columns.h"

#include <algorithm>

#include "base/bf16.h"

namespace kvasir {
namespace {

// What is asked for ahead: as much as a core needs on its way to reach the memory's bandwidth, and
// a part of the first cache level.
constexpr size_t kAheadBytes = 8192;
constexpr int kMaxBlocksAhead = 16;

constexpr size_t kLineBytes = 64;

// rows: [count][k_dim], and their scales unless null.
template <class T>
void GatherDims(const T* rows, const float* scales, int k_dim, int count,
                absl::Span<const int32_t> dims, size_t stride, float* out) {
  for (size_t i = 0; i < dims.size(); ++i) {
    float* to = out + i * stride;
    for (int t = 0; t < count; ++t) {
      to[t] = ToFloat(rows[static_cast<size_t>(t) * k_dim + dims[i]]) *
              (scales == nullptr ? 1.0f : scales[t]);
    }
    std::fill(to + count, to + stride, 0.0f);
  }
}

// The lines that hold the scales of ascending dimensions.
void PrefetchScales(const float* scales, absl::Span<const int32_t> dims) {
  constexpr int kPerLine = kLineBytes / sizeof(float);
  int line = -1;
  for (const int32_t d : dims) {
    if (d / kPerLine != line) __builtin_prefetch(scales + d);
    line = d / kPerLine;
  }
}

}  // namespace

ChosenColumns::ChosenColumns(const SparseItem& item, const KvView& kv,
                             absl::Span<const int32_t> dims)
    : kv_(kv),
      blocks_(item.blocks),
      dims_(dims),
      kv_head_(item.kv_head),
      num_blocks_(item.positions / kv.block_tokens) {
  const size_t block_bytes = dims.size() * kv.block_tokens * KvElementBytes(kv.column_type());
  group_blocks_ = std::clamp(static_cast<int>(kAheadBytes / block_bytes), 1, kMaxBlocksAhead);
}

void ChosenColumns::PrefetchAhead(int begin, int end) const {
  const int group_tokens = group_blocks_ * kv_.block_tokens;
  const int group_begin = begin / group_tokens * group_tokens;
  const int first_block = group_begin / kv_.block_tokens + group_blocks_;
  const int blocks = std::min(group_blocks_, num_blocks_ - first_block);
  if (blocks <= 0) return;
  const uint8_t* columns[kMaxBlocksAhead];
  for (int b = 0; b < blocks; ++b) columns[b] = Block(first_block + b);
  // Of n things the piece asks for those from Share(n, begin) to Share(n, end).
  const auto share = [&](int n, int position) {
    return static_cast<int>(int64_t{n} * std::min(position - group_begin, group_tokens) /
                            group_tokens);
  };
  if (is_int8()) {
    for (int b = share(blocks, begin); b < share(blocks, end); ++b)
      PrefetchScales(Scales(first_block + b), dims_);
  }
  const int rank = static_cast<int>(dims_.size());
  const size_t row_bytes = kv_.block_tokens * KvElementBytes(kv_.column_type());
  const int lines = static_cast<int>((row_bytes + kLineBytes - 1) / kLineBytes);  // of a row
  // Blocks within rows within lines.
  for (int i = share(lines * rank, begin), last = share(lines * rank, end); i < last; ++i) {
    const size_t offset = dims_[i % rank] * row_bytes + i / rank * kLineBytes;
    for (int b = 0; b < blocks; ++b) __builtin_prefetch(columns[b] + offset);
  }
}

void ChosenColumns::CopyRows(int begin, int end, size_t stride, float* out) const {
  const int first = begin % kv_.block_tokens, count = end - begin;
  const BlockId block = blocks_[begin / kv_.block_tokens];
  const size_t skip = static_cast<size_t>(first) * kv_.k_dim;
  const uint8_t* tile = kv_.K(block, kv_head_);
  switch (kv_.element_type) {
    case KvElementType::kF32:
      return GatherDims(reinterpret_cast<const float*>(tile) + skip, nullptr, kv_.k_dim, count,
                        dims_, stride, out);
    case KvElementType::kBf16:
      return GatherDims(reinterpret_cast<const bf16*>(tile) + skip, nullptr, kv_.k_dim, count,
                        dims_, stride, out);
    case KvElementType::kF16:
      return GatherDims(reinterpret_cast<const f16*>(tile) + skip, nullptr, kv_.k_dim, count, dims_,
                        stride, out);
    case KvElementType::kInt8:
      return GatherDims(reinterpret_cast<const int8_t*>(tile) + skip,
                        kv_.KScale(block, kv_head_) + first, kv_.k_dim, count, dims_, stride, out);
  }
}

}  // namespace kvasir
