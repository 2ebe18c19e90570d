#include "runtime/ops/sparse/key_columns.h"

#include <algorithm>

#include "base/aligned_buffer.h"
#include "base/check.h"
#include "base/parallel.h"
#include "runtime/kernels/attention_kernels.h"
#include "runtime/kernels/convert.h"
#include "runtime/kernels/pick_kernels.h"

namespace kvasir {
namespace {

// [k_dim][block_tokens] of f32, transposed from one head's K tile.
void Transpose(const KvView& kv, BlockId block, int kv_head, float* out) {
  const size_t count = kv.block_tokens;
  const size_t dim = kv.k_dim;
  const uint8_t* tile = kv.K(block, kv_head);
  switch (kv.element_type) {
    case KvElementType::kF32:
      return PackKeys(reinterpret_cast<const float*>(tile), count, dim, nullptr, out, count);
    case KvElementType::kBf16:
      return PackKeys(reinterpret_cast<const bf16*>(tile), count, dim, nullptr, out, count);
    case KvElementType::kF16:
      return PackKeys(reinterpret_cast<const f16*>(tile), count, dim, nullptr, out, count);
    case KvElementType::kInt8:
      return PackKeys(reinterpret_cast<const int8_t*>(tile), kv.KScale(block, kv_head), count, dim,
                      nullptr, out, count);
  }
}

void FillColumns(const KvView& kv, BlockId block, int kv_head) {
  thread_local AlignedBuffer<float> scratch;
  const size_t count = static_cast<size_t>(kv.k_dim) * kv.block_tokens;
  uint8_t* columns = kv.KeyColumns(block, kv_head);
  if (kv.column_type() == KvElementType::kF32) {
    Transpose(kv, block, kv_head, reinterpret_cast<float*>(columns));
    return;
  }
  scratch.Resize(count);
  Transpose(kv, block, kv_head, scratch.data());
  switch (kv.column_type()) {
    case KvElementType::kF32:
      break;
    case KvElementType::kBf16:  // exact: the floats came from the same type
      FromFloats(scratch.data(), count, reinterpret_cast<bf16*>(columns));
      break;
    case KvElementType::kF16:
      FromFloats(scratch.data(), count, reinterpret_cast<f16*>(columns));
      break;
    case KvElementType::kInt8:
      for (int d = 0; d < kv.k_dim; ++d) {
        const size_t at = static_cast<size_t>(d) * kv.block_tokens;
        kv.KeyColumnScales(block, kv_head)[d] = QuantizeS8(
            scratch.data() + at, kv.block_tokens, 127, reinterpret_cast<int8_t*>(columns) + at);
      }
      break;
  }
}

// sum += the V rows of slots [first, first + count), in ascending order.
void AddSlots(const KvView& kv, BlockId block, int kv_head, int first, int count, float* sum) {
  const uint8_t* tile = kv.V(block, kv_head);
  const size_t dim = kv.v_dim, skip = dim * first;
  switch (kv.element_type) {
    case KvElementType::kF32:
      return AddRows(reinterpret_cast<const float*>(tile) + skip, nullptr, count, dim, sum);
    case KvElementType::kBf16:
      return AddRows(reinterpret_cast<const bf16*>(tile) + skip, nullptr, count, dim, sum);
    case KvElementType::kF16:
      return AddRows(reinterpret_cast<const f16*>(tile) + skip, nullptr, count, dim, sum);
    case KvElementType::kInt8:
      return AddRows(reinterpret_cast<const int8_t*>(tile) + skip,
                     kv.VScale(block, kv_head) + first, count, dim, sum);
  }
}

void FillPrefixSums(const KvView& kv, const FilledBlocks& filled, int kv_head) {
  for (int b = filled.first_block; b < filled.first_block + filled.num_blocks; ++b) {
    float* sum = kv.VPrefixSum(filled.blocks[b], kv_head);
    if (b == 0) {
      std::fill_n(sum, kv.v_dim, 0.0f);
    } else {
      std::copy_n(kv.VPrefixSum(filled.blocks[b - 1], kv_head), kv.v_dim, sum);
    }
    AddValueRows(kv, filled.blocks[b], kv_head, kv.block_tokens, sum);
  }
}

}  // namespace

void AddValueRows(const KvView& kv, BlockId block, int kv_head, int count, float* sum) {
  AddSlots(kv, block, kv_head, 0, count, sum);
}

void AddValueRow(const KvView& kv, BlockId block, int kv_head, int slot, float* sum) {
  AddSlots(kv, block, kv_head, slot, 1, sum);
}

void FillKeyColumns(absl::Span<const FilledBlocks> filled, const KvView& kv) {
  KVASIR_CHECK(kv.k_columns != KvColumns::kOff);
  size_t num_blocks = 0;
  for (const FilledBlocks& f : filled) num_blocks += f.num_blocks;
  if (num_blocks == 0) return;
  const size_t heads = kv.slice.kv_heads;
  // Sums run from block to block, so a sequence's blocks are one task; columns are independent. The
  // sums come first, because they are the longer tasks.
  const size_t sum_tasks = filled.size() * heads;
  ParallelFor(sum_tasks + num_blocks * heads, [&](size_t index, int) {
    if (index < sum_tasks) return FillPrefixSums(kv, filled[index / heads], index % heads);
    index -= sum_tasks;
    size_t block = index / heads;
    size_t f = 0;
    for (; block >= static_cast<size_t>(filled[f].num_blocks); ++f) block -= filled[f].num_blocks;
    FillColumns(kv, filled[f].blocks[filled[f].first_block + block], index % heads);
  });
}

}  // namespace kvasir
