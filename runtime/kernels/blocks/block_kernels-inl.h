// The body of the block kernels, compiled once per instruction set: behind a `struct Simd` and
// block_walk-inl.h, which says what the including file defines. No include guard.

namespace kvasir::KVASIR_BLOCK_NAMESPACE {

// How many quads' sums of two products 16 bits can hold.
template <BlockKind kKind, class S>
constexpr int ShortQuads() {
  if (!S::kShortSums || kKind.signed_codes()) return 1;
  const int most = 0x7fff / (2 * 127 * ((1 << kKind.bits) - 1));
  return most >= 8 ? 8 : most >= 4 ? 4 : most >= 2 ? 2 : 1;
}

// As sums of 16 bits.
template <BlockKind kKind, int kQuad, int kQuads, int kRows, bool kFirst, class S = Simd>
KVASIR_INLINE void DotShorts(const uint8_t* step, int lane, const int8_t* x, int64_t x_stride,
                             I* sums) {
  const I codes = LoadCodes<kKind.bits, kQuad>(step, 4 * lane);
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    const I pairs = S::MulPairs(codes, S::BroadcastFour(x + r * x_stride + 4 * kQuad));
    sums[r] = kFirst ? pairs : S::AddShorts(sums[r], pairs);
  }
  if constexpr (kQuads > 1) {
    DotShorts<kKind, kQuad + 1, kQuads - 1, kRows, false>(step, lane, x, x_stride, sums);
  }
}

// sums += the products of kQuads quads, from kQuad on.
template <BlockKind kKind, int kQuad, int kQuads, int kRows, class S = Simd>
KVASIR_INLINE void DotQuads(const uint8_t* step, int lane, I table, const int8_t* x,
                            int64_t x_stride, I* sums) {
  constexpr int kShort = ShortQuads<kKind, S>();
  constexpr int kTogether = kShort < kQuads ? kShort : kQuads;
  if constexpr (kTogether > 1) {
    I shorts[kRows];
    DotShorts<kKind, kQuad, kTogether, kRows, true>(step, lane, x, x_stride, shorts);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) sums[r] = S::AddPairs(sums[r], shorts[r]);
  } else {
    const I codes = FormCodes<kKind>(LoadCodes<kKind.bits, kQuad>(step, 4 * lane), table);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      sums[r] = Simd::template Dot<kKind.signed_codes()>(
          sums[r], codes, Simd::BroadcastFour(x + r * x_stride + 4 * kQuad));
    }
  }
  if constexpr (kQuads > kTogether) {
    DotQuads<kKind, kQuad + kTogether, kQuads - kTogether, kRows>(step, lane, table, x, x_stride,
                                                                  sums);
  }
}

// What is subtracted from each code as Dot sees it, times the sum of the inputs' codes.
template <BlockKind kKind>
KVASIR_INLINE I FirstSum(const Chunk<kKind>& chunk, int g, int lane, int zero, int32_t x_sum) {
  if constexpr (kKind.zero_points) {
    return Simd::Negate(Simd::MulInts(chunk.ZeroPoints(g, lane), Simd::SetInts(x_sum)));
  }
  return Simd::SetInts(-zero * x_sum);
}

// Floating-point codes: their products are summed as such.
template <int kByte, int kRows>
KVASIR_INLINE void DotFloatCodes(I codes, const int8_t* x, int64_t x_stride, F* sums) {
  const F weight = Simd::template E4m3<kByte>(codes);
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    const auto input = static_cast<float>(x[r * x_stride + kByte]);
    sums[r] = Simd::MulAdd(weight, Simd::SetFloats(input), sums[r]);
  }
  if constexpr (kByte < 3) DotFloatCodes<kByte + 1, kRows>(codes, x, x_stride, sums);
}

template <BlockKind kKind, int kRows>
KVASIR_INLINE void DotFloatStep(const Chunk<kKind>& chunk, int step, int lane,
                                const QuantizedInputs& x, int64_t first, int64_t k, F* totals) {
  F sums[kRows];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) sums[r] = Simd::SetFloats(0.0f);
  const uint8_t* codes = chunk.codes + step * kKind.step_bytes() + 4 * lane;
  const int8_t* inputs = x.codes + first * x.stride + k;
  for (int quad = 0; quad < kStepInputs / 4; ++quad) {
    DotFloatCodes<0, kRows>(Simd::LoadBytes(codes + quad * kVectorBytes), inputs + 4 * quad,
                            x.stride, sums);
  }
  const F scale = chunk.Scale(kKind.group_of(step, 0), lane);
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    const float x_scale = x.scales[(first + r) * (x.inputs / kStepInputs) + k / kStepInputs];
    totals[r] = Simd::MulAdd(sums[r], Simd::Mul(scale, Simd::SetFloats(x_scale)), totals[r]);
  }
}

template <BlockKind kKind, int kPart, int kRows>
KVASIR_INLINE void DotGroup(const Chunk<kKind>& chunk, int step, int lane, int zero, I table,
                            const QuantizedInputs& x, int64_t first, int64_t k, F* totals) {
  constexpr int kQuads = kKind.inputs_per_part() / 4;
  const int g = kKind.group_of(step, kPart);
  const int64_t x_groups = x.inputs / kStepInputs;
  I sums[kRows];
  int32_t x_sums[kRows];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    const int32_t* halves = x.sums + (first + r) * 2 * x_groups + k / 16;
    x_sums[r] = kQuads == 8 ? halves[0] + halves[1] : halves[kPart];
    sums[r] = FirstSum(chunk, g, lane, zero, x_sums[r]);
  }
  DotQuads<kKind, kPart * kQuads, kQuads, kRows>(chunk.codes + step * kKind.step_bytes(), lane,
                                                 table, x.codes + first * x.stride + k, x.stride,
                                                 sums);
  const F scale = chunk.Scale(g, lane);
  F min;
  if constexpr (kKind.mins) min = chunk.Min(g, lane);
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
    const float x_scale = x.scales[(first + r) * x_groups + k / kStepInputs];
    totals[r] =
        Simd::MulAdd(Simd::ToFloat(sums[r]), Simd::Mul(scale, Simd::SetFloats(x_scale)), totals[r]);
    if constexpr (kKind.mins) {
      totals[r] =
          Simd::NegMulAdd(min, Simd::SetFloats(x_scale * static_cast<float>(x_sums[r])), totals[r]);
    }
  }
}

// One row by itself asks for what comes as it is told. Several passes ask for a part each.
template <int kRows>
KVASIR_INLINE void Ask(const uint8_t* from, int bytes, int64_t ahead, int pass, int passes,
                       StreamAsking asking) {
  if (kRows == 1 && passes == 1 && asking == StreamAsking::kHalf) {
    AskForPairs(from, bytes);
  } else {
    AskAhead(from, bytes, ahead, pass, passes);
  }
}

template <BlockKind kKind, int kRows>
KVASIR_NOINLINE void DotPanel(const BlockPanel& panel, const QuantizedInputs& x, int64_t first,
                              int passes, StreamAsking asking, float* out) {
  const int64_t steps = x.inputs / kStepInputs;
  I table{};
  if constexpr (kKind.table) table = Simd::LoadTable(panel.table);
  [[maybe_unused]] const int zero =
      kKind.signed_codes() ? (Simd::kUnsignedProducts ? 128 : 0) : panel.zero;
  for (int lane = 0; lane < kPanelRows; lane += Simd::kLanes) {
    F totals[kRows];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) totals[r] = Simd::SetFloats(0.0f);
    const uint8_t* at = panel.data;
    // A panel that is read several times leaves time for the next one: each pass asks for a part.
    const bool asks = lane == 0;
    const int64_t ahead = passes == 1 ? kAheadBytes : kKind.panel_bytes(x.inputs);
    const int pass = static_cast<int>(first / kMaxDotRows);
    Chunk<kKind> chunk;
    for (int64_t begin = 0; begin < steps; begin += kChunkSteps) {
      const int count = static_cast<int>(steps - begin < kChunkSteps ? steps - begin : kChunkSteps);
      chunk.Enter(at, count, lane);
      if (asks) Ask<kRows>(at, kKind.header_bytes(kChunkSteps), ahead, pass, passes, asking);
      for (int step = 0; step < count; ++step) {
        const uint8_t* const codes = chunk.codes + step * kKind.step_bytes();
        if (asks) Ask<kRows>(codes, kKind.step_bytes(), ahead, pass, passes, asking);
        const int64_t k = (begin + step) * kStepInputs;
        if constexpr (kKind.e4m3) {
          DotFloatStep<kKind, kRows>(chunk, step, lane, x, first, k, totals);
        } else {
          DotGroup<kKind, 0, kRows>(chunk, step, lane, zero, table, x, first, k, totals);
        }
        if constexpr (kKind.parts_per_step() == 2) {
          DotGroup<kKind, 1, kRows>(chunk, step, lane, zero, table, x, first, k, totals);
        }
      }
      at += kKind.chunk_bytes(count);
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) Simd::Store(totals[r], out + r * kPanelRows + lane);
  }
}

template <BlockKind kKind>
KVASIR_INLINE void DotRows(const BlockPanel& panel, const QuantizedInputs& x, int64_t first,
                           int rows, int passes, StreamAsking asking, float* out) {
  if (rows == 4) return DotPanel<kKind, 4>(panel, x, first, passes, asking, out);
  if (rows >= 2) DotPanel<kKind, 2>(panel, x, first, passes, asking, out);
  if (rows != 2) {  // the first or the third; code for three rows is not worth its size
    DotPanel<kKind, 1>(panel, x, first + rows - 1, passes, asking, out + (rows - 1) * kPanelRows);
  }
}

// --- Tables by kind ---

template <size_t... kKinds>
constexpr BlockKernels MakeKernels(std::index_sequence<kKinds...>) {
  return {{DotRows<kBlockKinds[kKinds]>...},
          {UnpackPanel<kBlockKinds[kKinds], float>...},
          {UnpackPanel<kBlockKinds[kKinds], bf16>...}};
}

const BlockKernels& Kernels() {
  static constexpr BlockKernels kernels = MakeKernels(std::make_index_sequence<kNumBlockKinds>());
  return kernels;
}

}  // namespace kvasir::KVASIR_BLOCK_NAMESPACE
