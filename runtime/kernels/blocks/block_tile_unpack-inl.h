// One step of a panel as an A tile of bf16, [16 outputs][32 inputs], behind block_walk-inl.h of
// AVX-512. No include guard.
//
// The inputs of a step stand in the order that four shifts of one vector give: value p of a row is
// input TileInput(p). Rows of inputs are packed in the same order.

namespace kvasir::KVASIR_BLOCK_NAMESPACE {

constexpr int TileInput(int p) { return p % 8 * 2 + p / 8 % 2 * 16 + p / 16; }

struct Words {
  alignas(64) uint16_t at[32];
};
template <typename Function>
constexpr Words MakeWords(Function of) {
  Words words{};
  for (int p = 0; p < 32; ++p) words.at[p] = static_cast<uint16_t>(of(p));
  return words;
}
// Where nibble p is: 128-bit lanes are copies of the same 16 bytes.
inline constexpr Words kNibbleShifts = MakeWords([](int p) { return p / 8 * 4; });
// The fifth bit of the code at p, in copies of a row's word of 32.
inline constexpr Words kFifthBits =
    MakeWords([](int p) { return 1 << (p / 16 * 8 + TileInput(p) / 4); });
// 16 for inputs of a step's second group of 16.
inline constexpr Words kSecondGroups = MakeWords([](int p) { return p / 8 % 2 * 16; });

KVASIR_INLINE I Load(const Words& words) { return _mm512_load_si512(words.at); }

// What was stored is loaded again: from memory a copy of a few bytes in all lanes costs nothing
// beside the vectors' shuffles, which are what a core has fewest of. Compilers would shuffle.
template <typename T>
KVASIR_INLINE void KeepInMemory(T* stored) {
  asm("" : "+m"(*stored));
}

// Numbers of the 16 outputs' groups.
struct GroupNumbers {
  alignas(64) float scales[kPanelRows];
  alignas(64) float mins[kPanelRows];
  alignas(64) float zeros[kPanelRows];
};

template <BlockKind kKind>
KVASIR_INLINE void ReadGroup(const Chunk<kKind>& chunk, int g, GroupNumbers* numbers) {
  _mm512_store_ps(numbers->scales, chunk.Scale(g, 0));
  if constexpr (kKind.mins) _mm512_store_ps(numbers->mins, chunk.Min(g, 0));
  if constexpr (kKind.zero_points) {
    _mm512_store_ps(numbers->zeros, Simd::ToFloat(chunk.ZeroPoints(g, 0)));
  }
  KeepInMemory(numbers);
}

// What codes stand for in one output's group, rounded as Value (block_unpack-inl.h) rounds.
template <BlockKind kKind>
KVASIR_INLINE F Scaled(F codes, const GroupNumbers& numbers, int row) {
  if constexpr (kKind.zero_points) {
    codes = Simd::Sub(codes, Simd::SetFloats(numbers.zeros[row]));
  }
  F values = Simd::Mul(Simd::SetFloats(numbers.scales[row]), codes);
  if constexpr (kKind.mins) values = Simd::Sub(values, Simd::SetFloats(numbers.mins[row]));
  return values;
}

KVASIR_INLINE I Halves(F low, F high) {
  return reinterpret_cast<I>(_mm512_cvtne2ps_pbh(high, low));
}

// Four vectors of a dword for each row become rows of 16 bytes: row r at 64 * (r % 4) + 16 * (r /
// 4).
struct CodeRows {
  alignas(64) uint8_t bytes[4 * kVectorBytes];
};
KVASIR_INLINE void StoreRows(I v0, I v1, I v2, I v3, CodeRows* rows) {
  uint8_t* const to = rows->bytes;
  const I low01 = _mm512_unpacklo_epi32(v0, v1), high01 = _mm512_unpackhi_epi32(v0, v1);
  const I low23 = _mm512_unpacklo_epi32(v2, v3), high23 = _mm512_unpackhi_epi32(v2, v3);
  _mm512_store_si512(to, _mm512_unpacklo_epi64(low01, low23));
  _mm512_store_si512(to + 64, _mm512_unpackhi_epi64(low01, low23));
  _mm512_store_si512(to + 128, _mm512_unpacklo_epi64(high01, high23));
  _mm512_store_si512(to + 192, _mm512_unpackhi_epi64(high01, high23));
  KeepInMemory(rows);
}
constexpr int RowAt(int row) { return 64 * (row % 4) + 16 * (row / 4); }

// The 32 nibbles of a row, each in the low bits of a word.
KVASIR_INLINE I Nibbles(const uint8_t* row, I shifts) {
  const I copies = _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(row)));
  return _mm512_srlv_epi16(copies, shifts);
}

KVASIR_INLINE void StoreTileRow(I values, int row, bf16* tile) {
  _mm512_store_si512(tile + row * kStepInputs, values);
}

// (words & 15) | others
KVASIR_INLINE I LowBitsOr(I words, I others) {
  return _mm512_ternarylogic_epi32(words, Simd::SetInts(0x000f000f), others, 0xea);
}

// What the kind's codes stand for before they are scaled; `first`: of 16 codes.
template <BlockKind kKind>
KVASIR_INLINE F CodeNumbers(const BlockPanel& panel, int first) {
  if constexpr (kKind.table) {
    return Simd::ToFloat(Simd::WidenSigned(reinterpret_cast<const uint8_t*>(panel.table)));
  }
  const F from_0 = _mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const int zero = kKind.zero_points ? 0 : panel.zero;
  return _mm512_add_ps(from_0, Simd::SetFloats(static_cast<float>(first - zero)));
}

// A table of each row's group, or of two rows' or groups' 16 codes.
template <BlockKind kKind>
KVASIR_INLINE void LookUpStep(const BlockPanel& panel, const Chunk<kKind>& chunk, int step,
                              bf16* tile) {
  const uint8_t* codes = chunk.codes + step * kKind.step_bytes();
  CodeRows rows;
  StoreRows(Simd::LoadBytes(codes), Simd::LoadBytes(codes + kVectorBytes),
            Simd::LoadBytes(codes + 2 * kVectorBytes), Simd::LoadBytes(codes + 3 * kVectorBytes),
            &rows);
  GroupNumbers numbers, second;
  ReadGroup(chunk, kKind.group_of(step, 0), &numbers);
  const F low = CodeNumbers<kKind>(panel, 0);
  const I shifts = Load(kNibbleShifts);
  if constexpr (kKind.bits == 5) {
    const F high = CodeNumbers<kKind>(panel, 16);
    const I fifth_bits = Load(kFifthBits);
    const auto* fifths = reinterpret_cast<const int32_t*>(codes + 4 * kVectorBytes);
#pragma GCC unroll 16
    for (int r = 0; r < kPanelRows; ++r) {
      const I table = Halves(Scaled<kKind>(low, numbers, r), Scaled<kKind>(high, numbers, r));
      const I words = Simd::And(Nibbles(rows.bytes + RowAt(r), shifts), Simd::SetInts(0x000f000f));
      const __mmask32 set = _mm512_test_epi16_mask(Simd::SetInts(fifths[r]), fifth_bits);
      const I index = _mm512_mask_add_epi16(words, set, words, Simd::SetInts(0x00100010));
      StoreTileRow(_mm512_permutexvar_epi16(index, table), r, tile);
    }
  } else if constexpr (kKind.group < kStepInputs) {
    ReadGroup(chunk, kKind.group_of(step, 1), &second);
    const I second_groups = Load(kSecondGroups);
#pragma GCC unroll 16
    for (int r = 0; r < kPanelRows; ++r) {
      const I table = Halves(Scaled<kKind>(low, numbers, r), Scaled<kKind>(low, second, r));
      const I index = LowBitsOr(Nibbles(rows.bytes + RowAt(r), shifts), second_groups);
      StoreTileRow(_mm512_permutexvar_epi16(index, table), r, tile);
    }
  } else {
    const I second_row = Simd::SetInts(0x00100010), first_row = Simd::SetInts(0);
#pragma GCC unroll 8
    for (int r = 0; r < kPanelRows; r += 2) {
      const I table = Halves(Scaled<kKind>(low, numbers, r), Scaled<kKind>(low, numbers, r + 1));
      const I first = LowBitsOr(Nibbles(rows.bytes + RowAt(r), shifts), first_row);
      const I other = LowBitsOr(Nibbles(rows.bytes + RowAt(r + 1), shifts), second_row);
      StoreTileRow(_mm512_permutexvar_epi16(first, table), r, tile);
      StoreTileRow(_mm512_permutexvar_epi16(other, table), r + 1, tile);
    }
  }
}

// Step `step` of a chunk of `steps`. Asks for what lies `ahead` bytes further on.
template <BlockKind kKind>
KVASIR_NOINLINE void UnpackTile(const BlockPanel& panel, const uint8_t* at, int steps, int step,
                                int64_t ahead, bf16* tile) {
  Chunk<kKind> chunk;
  chunk.Enter(at, steps, 0);
  const uint8_t* const ask = at + (ahead - kAheadBytes);
  if (step == 0) AskAhead(ask, kKind.header_bytes(kChunkSteps));
  AskAhead(ask + kKind.header_bytes(steps) + step * kKind.step_bytes(), kKind.step_bytes());
  LookUpStep<kKind>(panel, chunk, step, tile);
}

}  // namespace kvasir::KVASIR_BLOCK_NAMESPACE
