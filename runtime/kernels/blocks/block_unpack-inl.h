// A panel's weights as numbers, compiled once per instruction set: behind a `struct Simd` and
// block_walk-inl.h, which says what the including file defines. No include guard.

namespace kvasir::KVASIR_BLOCK_NAMESPACE {

// Values of input kByte of a quad of codes.
template <BlockKind kKind, int kByte>
KVASIR_INLINE F Value(I codes, I zero, F scale, F min) {
  if constexpr (kKind.e4m3) return Simd::Mul(scale, Simd::template E4m3<kByte>(codes));
  const I code = kKind.table ? Simd::template SignedByte<kByte>(codes)
                             : Simd::Sub(Simd::template UnsignedByte<kByte>(codes), zero);
  const F product = Simd::Mul(scale, Simd::ToFloat(code));
  if constexpr (kKind.mins) return Simd::Sub(product, min);
  return product;
}

KVASIR_INLINE void StorePair(F first, F second, float* out, int64_t stride, int lane) {
  Simd::Store(first, out + lane);
  Simd::Store(second, out + stride + lane);
}
KVASIR_INLINE void StorePair(F first, F second, bf16* out, int64_t, int lane) {
  Simd::StorePairs(first, second, out + 2 * lane);
}
constexpr int64_t RowsPerPair(const float*) { return 2; }
constexpr int64_t RowsPerPair(const bf16*) { return 1; }

template <BlockKind kKind, int kQuad, int kQuads, typename T>
KVASIR_INLINE void UnpackQuads(const Chunk<kKind>& chunk, int step, int lane, I table, I fixed_zero,
                               T* out, int64_t stride) {
  const int g = kKind.group_of(step, kQuad * 4 / kKind.inputs_per_part());
  const F scale = chunk.Scale(g, lane);
  F min{};
  if constexpr (kKind.mins) min = chunk.Min(g, lane);
  I zero = fixed_zero;
  if constexpr (kKind.zero_points) zero = chunk.ZeroPoints(g, lane);
  I codes = LoadCodes<kKind.bits, kQuad>(chunk.codes + step * kKind.step_bytes(), 4 * lane);
  if constexpr (kKind.table) codes = Simd::LookupSigned(table, codes);
  T* to = out + kQuad * 2 * RowsPerPair(out) * stride;
  StorePair(Value<kKind, 0>(codes, zero, scale, min), Value<kKind, 1>(codes, zero, scale, min), to,
            stride, lane);
  StorePair(Value<kKind, 2>(codes, zero, scale, min), Value<kKind, 3>(codes, zero, scale, min),
            to + RowsPerPair(out) * stride, stride, lane);
  if constexpr (kQuads > 1) {
    UnpackQuads<kKind, kQuad + 1, kQuads - 1>(chunk, step, lane, table, fixed_zero, out, stride);
  }
}

template <BlockKind kKind, typename T>
KVASIR_NOINLINE void UnpackPanel(const BlockPanel& panel, int64_t inputs, T* out, int64_t stride) {
  const int64_t steps = inputs / kStepInputs;
  I table{};
  if constexpr (kKind.table) table = Simd::LoadSignedTable(panel.table);
  const I zero = Simd::SetInts(panel.zero);
  for (int lane = 0; lane < kPanelRows; lane += Simd::kLanes) {
    const uint8_t* at = panel.data;
    T* to = out;
    Chunk<kKind> chunk;
    for (int64_t begin = 0; begin < steps; begin += kChunkSteps) {
      const int count = static_cast<int>(steps - begin < kChunkSteps ? steps - begin : kChunkSteps);
      chunk.Enter(at, count, lane);
      for (int step = 0; step < count; ++step) {
        UnpackQuads<kKind, 0, 8>(chunk, step, lane, table, zero, to, stride);
        to += kStepInputs / 2 * RowsPerPair(out) * stride;
      }
      at += kKind.chunk_bytes(count);
    }
  }
}

}  // namespace kvasir::KVASIR_BLOCK_NAMESPACE
