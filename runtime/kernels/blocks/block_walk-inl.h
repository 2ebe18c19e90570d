// How the block kernels of one instruction set walk a panel: codes of a quad, and scales of a
// chunk. Each including file defines `struct Simd` (16 lanes, or 1) in the namespace
// KVASIR_BLOCK_NAMESPACE first, and encloses both in its target's pragmas. Simd's members:
//   kLanes, F (floats), I (32-bit integers, or four bytes per lane)
//   kUnsignedProducts: Dot multiplies unsigned bytes of any size; else codes of signed kinds are
//   made signed, and unsigned ones are below 64.
//   kShortSums: MulPairs gives sums of two products of unsigned codes in 16 bits, AddShorts adds
//   such, AddPairs widens them.
// No include guard.

namespace kvasir::KVASIR_BLOCK_NAMESPACE {

using F = Simd::F;
using I = Simd::I;

// Moves bits up (left > 0) or down in each byte; what crosses a byte's border must be masked away.
template <int kLeft>
KVASIR_INLINE I Shift(I v) {
  if constexpr (kLeft > 0) return Simd::template ShiftLeft<kLeft>(v);
  if constexpr (kLeft < 0) return Simd::template ShiftRight<-kLeft>(v);
  return v;
}

// Codes of quad kQuad of a step, at byte `lane` of each vector.
template <int kBits, int kQuad>
KVASIR_INLINE I LoadCodes(const uint8_t* step, int lane) {
  const uint8_t* from = step + lane;
  if constexpr (kBits == 8) return Simd::LoadBytes(from + kQuad * kVectorBytes);
  if constexpr (kBits >= 4) {
    const I low =
        Simd::And(Shift < kQuad < 4 ? 0 : -4 > (Simd::LoadBytes(from + kQuad % 4 * kVectorBytes)),
                  Simd::SetBytes(0x0f));
    if constexpr (kBits == 4) return low;
    const uint8_t* high = from + 4 * kVectorBytes;
    if constexpr (kBits == 5) {
      const I bit = Shift<4 - kQuad>(Simd::LoadBytes(high));
      return Simd::Or(low, Simd::And(bit, Simd::SetBytes(0x10)));
    } else {
      const I pair = Shift<4 - 2 * (kQuad % 4)>(Simd::LoadBytes(high + kQuad / 4 * kVectorBytes));
      return Simd::Or(low, Simd::And(pair, Simd::SetBytes(0x30)));
    }
  } else {
    const I pair = Shift<-2 * (kQuad % 4)>(Simd::LoadBytes(from + kQuad / 4 * kVectorBytes));
    const I low = Simd::And(pair, Simd::SetBytes(0x03));
    if constexpr (kBits == 2) return low;
    const I bit = Shift<2 - kQuad>(Simd::LoadBytes(from + 2 * kVectorBytes));
    return Simd::Or(low, Simd::And(bit, Simd::SetBytes(0x04)));
  }
}

// Signed kinds: as Dot wants them.
template <BlockKind kKind>
KVASIR_INLINE I FormCodes(I codes, I table) {
  if constexpr (kKind.table) return Simd::Lookup(table, codes);
  if constexpr (kKind.signed_codes() && !Simd::kUnsignedProducts) {
    return Simd::Xor(codes, Simd::SetBytes(0x80));
  }
  return codes;
}

// One panel's walk: where the current chunk's parts are.
template <BlockKind kKind>
struct Chunk {
  const uint8_t* header;
  const uint8_t* codes;
  int steps;
  F d, dmin;

  KVASIR_INLINE void Enter(const uint8_t* at, int num_steps, int lane) {
    header = at;
    steps = num_steps;
    codes = at + kKind.header_bytes(num_steps);
    if constexpr (kKind.scale == BlockScale::kTwoLevel) {
      d = Simd::LoadHalves(header + 2 * lane);
      if constexpr (kKind.mins) dmin = Simd::LoadHalves(header + 2 * (kPanelRows + lane));
    }
  }

  // Of group `g` of the chunk.
  KVASIR_INLINE F Scale(int g, int lane) const {
    const uint8_t* at = header + kKind.scales_at() + (g * kPanelRows + lane) * kKind.scale_bytes();
    if constexpr (kKind.scale == BlockScale::kF16) return Simd::LoadHalves(at);
    if constexpr (kKind.scale == BlockScale::kF32) return Simd::LoadFloats(at);
    if constexpr (kKind.scale == BlockScale::kE8m0) return Simd::LoadExponents(at);
    return Simd::Mul(d, Simd::ToFloat(Simd::WidenSigned(at)));
  }
  KVASIR_INLINE F Min(int g, int lane) const {
    const uint8_t* at = header + kKind.mins_at(steps) + (g * kPanelRows + lane) * kKind.min_bytes();
    if constexpr (kKind.scale == BlockScale::kF16) return Simd::LoadHalves(at);
    return Simd::Mul(dmin, Simd::ToFloat(Simd::WidenUnsigned(at)));
  }
  KVASIR_INLINE I ZeroPoints(int g, int lane) const {
    return Simd::WidenUnsigned(header + kKind.mins_at(steps) + g * kPanelRows + lane);
  }
};

// --- Asking for what comes next ---

// Between the codes that are multiplied and those that are asked for: the machine's latency times
// one core's share of its bandwidth, several times over, and little beside the second cache level.
// A CPU's own prefetchers stop at each page: with them alone two cores of a Xeon read these streams
// at half of its bandwidth.
constexpr int kAheadBytes = 8 * 1024;

// Brings the lines of [from, from + bytes) into the second cache level, but as far on as `ahead`:
// of every so many lines one, from the first on. They may lie outside of the weights: asking for
// nothing does nothing. Whoever wraps this is inlined too: compilers drop calls that only prefetch.
KVASIR_INLINE void AskAhead(const uint8_t* from, int bytes, int64_t ahead = kAheadBytes,
                            int first = 0, int every = 1) {
  for (int line = first * kVectorBytes; line < bytes; line += every * kVectorBytes) {
    __builtin_prefetch(from + ahead + line, /*rw=*/0, /*locality=*/2);
  }
}

// Of every pair of lines the first, wherever `from` is: chunks may have an odd number of lines. One
// core of a fourth-generation EPYC read half as fast when it asked for the second ones.
KVASIR_INLINE void AskForPairs(const uint8_t* from, int bytes) {
  const int first = static_cast<int>(reinterpret_cast<uintptr_t>(from) / kVectorBytes % 2);
  AskAhead(from, bytes, kAheadBytes, first, 2);
}

}  // namespace kvasir::KVASIR_BLOCK_NAMESPACE
