#include "runtime/ops/elementwise.h"

#include <algorithm>

#include "base/check.h"
#include "base/parallel.h"
#include "runtime/kernels/convert.h"
#include "runtime/kernels/elementwise_kernels.h"

namespace kvasir {
namespace {

// Below this many elements an operation runs in the caller: 32k elements take a few microseconds on
// one core, about what waking a team costs.
constexpr int64_t kSerialElements = 32 * 1024;

// body(row) for every row, in parallel when there is enough work. Rows are handed out in groups, so
// that narrow rows do not pay one hand-out each.
template <typename Body>
void ForEachRow(int64_t rows, int64_t cols, const Body& body) {
  if (rows <= 1 || rows * cols < kSerialElements) {
    for (int64_t r = 0; r < rows; ++r) body(r);
    return;
  }
  const int64_t group = std::max<int64_t>(1, kSerialElements / 4 / std::max<int64_t>(1, cols));
  ParallelFor(static_cast<size_t>((rows + group - 1) / group), [&](size_t index, int) {
    const int64_t begin = static_cast<int64_t>(index) * group;
    const int64_t end = std::min(rows, begin + group);
    for (int64_t r = begin; r < end; ++r) body(r);
  });
}

template <typename T>
T* OutRow(MatmulInput* out, int64_t row) {
  return static_cast<T*>(out->mutable_data()) + row * out->cols();
}

// Where the row of one position, in one head's tile, begins.
template <typename T>
T* SlotRow(uint8_t* tile, int slot, int64_t dim) {
  return reinterpret_cast<T*>(tile) + slot * dim;
}

// Stores one token's heads; `tile` and `scale` give a head's tile and its scales in the token's
// block.
template <typename Tile, typename Scale>
void StoreHeads(const float* row, int64_t dim, int kv_heads, int slot, KvElementType type,
                const Tile& tile, const Scale& scale) {
  for (int head = 0; head < kv_heads; ++head, row += dim) {
    switch (type) {
      case KvElementType::kF32:
        std::copy_n(row, dim, SlotRow<float>(tile(head), slot, dim));
        break;
      case KvElementType::kBf16:
        FromFloats(row, dim, SlotRow<bf16>(tile(head), slot, dim));
        break;
      case KvElementType::kF16:
        FromFloats(row, dim, SlotRow<f16>(tile(head), slot, dim));
        break;
      case KvElementType::kInt8:
        scale(head)[slot] = QuantizeS8(row, dim, 127, SlotRow<int8_t>(tile(head), slot, dim));
        break;
    }
  }
}

}  // namespace

void RmsNorm(MatrixView x, absl::Span<const int32_t> rows, const float* weight, float epsilon,
             MatmulInput* out) {
  const int64_t count = rows.empty() ? x.rows : static_cast<int64_t>(rows.size());
  out->Resize(count, x.cols);
  ForEachRow(count, x.cols, [&](int64_t r) {
    const float* row = x.row(rows.empty() ? r : rows[r]);
    switch (out->compute_type()) {
      case ComputeType::kF32:
        RmsNormRow(row, weight, x.cols, epsilon, OutRow<float>(out, r));
        break;
      case ComputeType::kBf16:
        RmsNormRow(row, weight, x.cols, epsilon, OutRow<bf16>(out, r));
        break;
      case ComputeType::kInt8:
        out->mutable_row_scales()[r] =
            RmsNormRow(row, weight, x.cols, epsilon, OutRow<uint8_t>(out, r));
        break;
    }
  });
}

void SiluMul(MatrixView gate_up, MatmulInput* out) {
  const int64_t half = gate_up.cols / 2;
  out->Resize(gate_up.rows, half);
  ForEachRow(gate_up.rows, gate_up.cols, [&](int64_t r) {
    float* gate = gate_up.row(r);
    const float* up = gate + half;
    switch (out->compute_type()) {
      case ComputeType::kF32:
        SiluMulRow(gate, up, half, OutRow<float>(out, r));
        break;
      case ComputeType::kBf16:
        SiluMulRow(gate, up, half, OutRow<bf16>(out, r));
        break;
      case ComputeType::kInt8:
        out->mutable_row_scales()[r] = SiluMulRow(gate, up, half, OutRow<uint8_t>(out, r));
        break;
    }
  });
}

void ApplyRope(MatrixView x, int num_heads, int head_dim, absl::Span<const int32_t> positions,
               RopeView rope) {
  KVASIR_CHECK(static_cast<int64_t>(positions.size()) >= x.rows);
  const int64_t half = rope.rotary_dim / 2;
  ForEachRow(x.rows, static_cast<int64_t>(num_heads) * head_dim, [&](int64_t r) {
    const float* cos = rope.cos + positions[r] * half;
    const float* sin = rope.sin + positions[r] * half;
    float* row = x.row(r);
    for (int head = 0; head < num_heads; ++head) RopeHead(row + head * head_dim, cos, sin, half);
  });
}

void WriteKv(MatrixView k, MatrixView v, absl::Span<const int32_t> positions,
             absl::Span<const BlockId> slot_blocks, const KvView& kv) {
  KVASIR_CHECK(k.cols == int64_t{kv.slice.kv_heads} * kv.k_dim &&
               v.cols == int64_t{kv.slice.kv_heads} * kv.v_dim);
  ForEachRow(k.rows, k.cols + v.cols, [&](int64_t r) {
    const BlockId block = slot_blocks[r];
    const int slot = positions[r] % kv.block_tokens;
    StoreHeads(
        k.row(r), kv.k_dim, kv.slice.kv_heads, slot, kv.element_type,
        [&](int head) { return kv.K(block, head); },
        [&](int head) { return kv.KScale(block, head); });
    StoreHeads(
        v.row(r), kv.v_dim, kv.slice.kv_heads, slot, kv.element_type,
        [&](int head) { return kv.V(block, head); },
        [&](int head) { return kv.VScale(block, head); });
  });
}

}  // namespace kvasir
