// The block kernels on AVX2: sixteen rows in two vectors. VPMADDUBSW sums two products in 16 bits:
// unsigned codes are below 64 (64 * 127 * 2 < 2^15), signed ones pass as magnitudes with their
// signs moved to the inputs (128 * 127 * 2 < 2^15). Sums of smaller codes stay in 16 bits for as
// many quads as these hold, for widening them takes as long as multiplying.

#include "runtime/kernels/blocks/block_kernel_table.h"

#if defined(__x86_64__)

#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

#define KVASIR_BLOCK_NAMESPACE block_avx2

namespace kvasir::block_avx2 {

struct Simd {
  static constexpr int kLanes = 16;
  static constexpr bool kUnsignedProducts = false;
  static constexpr bool kShortSums = true;
  // Rows 0 to 7, and 8 to 15.
  struct F {
    __m256 low, high;
  };
  struct I {
    __m256i low, high;
  };

  static KVASIR_INLINE __m256i Load(const uint8_t* from) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  }
  static KVASIR_INLINE I LoadBytes(const uint8_t* from) { return {Load(from), Load(from + 32)}; }
  static KVASIR_INLINE I Both(__m256i a) { return {a, a}; }
  static KVASIR_INLINE I SetBytes(int value) {
    return Both(_mm256_set1_epi8(static_cast<char>(value)));
  }
  static KVASIR_INLINE I SetInts(int32_t value) { return Both(_mm256_set1_epi32(value)); }
  static KVASIR_INLINE F SetFloats(float value) {
    const __m256 a = _mm256_set1_ps(value);
    return {a, a};
  }
  static KVASIR_INLINE I And(I a, I b) {
    return {_mm256_and_si256(a.low, b.low), _mm256_and_si256(a.high, b.high)};
  }
  static KVASIR_INLINE I Or(I a, I b) {
    return {_mm256_or_si256(a.low, b.low), _mm256_or_si256(a.high, b.high)};
  }
  static KVASIR_INLINE I Xor(I a, I b) {
    return {_mm256_xor_si256(a.low, b.low), _mm256_xor_si256(a.high, b.high)};
  }
  static KVASIR_INLINE I Sub(I a, I b) {
    return {_mm256_sub_epi32(a.low, b.low), _mm256_sub_epi32(a.high, b.high)};
  }
  static KVASIR_INLINE I Negate(I a) { return Sub(SetInts(0), a); }
  static KVASIR_INLINE I MulInts(I a, I b) {
    return {_mm256_mullo_epi32(a.low, b.low), _mm256_mullo_epi32(a.high, b.high)};
  }
  template <int kBits>
  static KVASIR_INLINE I ShiftLeft(I a) {
    return {_mm256_slli_epi16(a.low, kBits), _mm256_slli_epi16(a.high, kBits)};
  }
  template <int kBits>
  static KVASIR_INLINE I ShiftRight(I a) {
    return {_mm256_srli_epi16(a.low, kBits), _mm256_srli_epi16(a.high, kBits)};
  }
  template <int kByte>
  static KVASIR_INLINE I UnsignedByte(I a) {
    return And({_mm256_srli_epi32(a.low, 8 * kByte), _mm256_srli_epi32(a.high, 8 * kByte)},
               SetInts(0xff));
  }
  template <int kBits>
  static KVASIR_INLINE I ShiftInts(I a) {
    return {_mm256_slli_epi32(a.low, kBits), _mm256_slli_epi32(a.high, kBits)};
  }
  template <int kByte>
  static KVASIR_INLINE I SignedByte(I a) {
    const I top = ShiftInts<24 - 8 * kByte>(a);
    return {_mm256_srai_epi32(top.low, 24), _mm256_srai_epi32(top.high, 24)};
  }
  static KVASIR_INLINE I BroadcastFour(const int8_t* x) {
    int32_t four;
    __builtin_memcpy(&four, x, sizeof(four));
    return SetInts(four);
  }
  // Sums of two products in 16 bits.
  template <bool kSigned>
  static KVASIR_INLINE __m256i Pairs(__m256i codes, __m256i x) {
    if constexpr (!kSigned) return _mm256_maddubs_epi16(codes, x);
    return _mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(x, codes));
  }
  static KVASIR_INLINE I MulPairs(I codes, I x) {
    return {Pairs<false>(codes.low, x.low), Pairs<false>(codes.high, x.high)};
  }
  static KVASIR_INLINE I AddShorts(I a, I b) {
    return {_mm256_add_epi16(a.low, b.low), _mm256_add_epi16(a.high, b.high)};
  }
  static KVASIR_INLINE I AddPairs(I sums, I shorts) {
    const __m256i ones = _mm256_set1_epi16(1);
    return {_mm256_add_epi32(sums.low, _mm256_madd_epi16(shorts.low, ones)),
            _mm256_add_epi32(sums.high, _mm256_madd_epi16(shorts.high, ones))};
  }
  template <bool kSigned>
  static KVASIR_INLINE I Dot(I sums, I codes, I x) {
    return AddPairs(sums, {Pairs<kSigned>(codes.low, x.low), Pairs<kSigned>(codes.high, x.high)});
  }
  static KVASIR_INLINE __m128i LoadEight(const uint8_t* from) {
    return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
  }
  static KVASIR_INLINE I WidenSigned(const uint8_t* from) {
    return {_mm256_cvtepi8_epi32(LoadEight(from)), _mm256_cvtepi8_epi32(LoadEight(from + 8))};
  }
  static KVASIR_INLINE I WidenUnsigned(const uint8_t* from) {
    return {_mm256_cvtepu8_epi32(LoadEight(from)), _mm256_cvtepu8_epi32(LoadEight(from + 8))};
  }
  static KVASIR_INLINE F LoadHalves(const uint8_t* from) {
    const auto* const halves = reinterpret_cast<const __m128i*>(from);
    return {_mm256_cvtph_ps(_mm_loadu_si128(halves)), _mm256_cvtph_ps(_mm_loadu_si128(halves + 1))};
  }
  static KVASIR_INLINE F LoadFloats(const uint8_t* from) {
    const auto* const floats = reinterpret_cast<const float*>(from);
    return {_mm256_loadu_ps(floats), _mm256_loadu_ps(floats + 8)};
  }
  // As block_kernels_vnni.cc explains.
  template <int kByte>
  static KVASIR_INLINE __m256 E4m3Of(__m256i codes) {
    const __m256i top = _mm256_slli_epi32(codes, 24 - 8 * kByte);
    const __m256i bits = _mm256_and_si256(_mm256_srli_epi32(top, 4), _mm256_set1_epi32(0x07f00000));
    const __m256 t = _mm256_castsi256_ps(_mm256_add_epi32(bits, _mm256_set1_epi32(120 << 23)));
    const __m256 magnitude =
        _mm256_min_ps(t, _mm256_fmadd_ps(t, _mm256_set1_ps(2.0f), _mm256_set1_ps(-0x1p-6f)));
    const __m256i sign = _mm256_and_si256(top, _mm256_set1_epi32(INT32_MIN));
    return _mm256_castsi256_ps(_mm256_or_si256(_mm256_castps_si256(magnitude), sign));
  }
  template <int kByte>
  static KVASIR_INLINE F E4m3(I codes) {
    return {E4m3Of<kByte>(codes.low), E4m3Of<kByte>(codes.high)};
  }
  static KVASIR_INLINE __m256 Power(__m256i exponents) {
    const __m256i one = _mm256_set1_epi32(1);
    const __m256i e = _mm256_sub_epi32(_mm256_max_epi32(exponents, one), one);
    return _mm256_castsi256_ps(_mm256_slli_epi32(e, 23));
  }
  static KVASIR_INLINE F LoadExponents(const uint8_t* from) {
    const I exponents = WidenUnsigned(from);
    return {Power(exponents.low), Power(exponents.high)};
  }
  static KVASIR_INLINE I LoadSignedTable(const int8_t* table) {
    return Both(
        _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table))));
  }
  static KVASIR_INLINE I LoadTable(const int8_t* table) { return LoadSignedTable(table); }
  static KVASIR_INLINE I Lookup(I table, I codes) {
    return {_mm256_shuffle_epi8(table.low, codes.low), _mm256_shuffle_epi8(table.high, codes.high)};
  }
  static KVASIR_INLINE I LookupSigned(I table, I codes) { return Lookup(table, codes); }
  static KVASIR_INLINE F ToFloat(I a) {
    return {_mm256_cvtepi32_ps(a.low), _mm256_cvtepi32_ps(a.high)};
  }
  static KVASIR_INLINE F Mul(F a, F b) {
    return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
  }
  static KVASIR_INLINE F Sub(F a, F b) {
    return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
  }
  static KVASIR_INLINE F MulAdd(F a, F b, F c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
  }
  static KVASIR_INLINE F NegMulAdd(F a, F b, F c) {
    return {_mm256_fnmadd_ps(a.low, b.low, c.low), _mm256_fnmadd_ps(a.high, b.high, c.high)};
  }
  static KVASIR_INLINE void Store(F a, float* to) {
    _mm256_storeu_ps(to, a.low);
    _mm256_storeu_ps(to + 8, a.high);
  }
  static KVASIR_INLINE __m256i Round(__m256 a) {
    const __m256i bits = _mm256_castps_si256(a);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    return _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  }
  static KVASIR_INLINE void StorePairsOf(__m256 first, __m256 second, bf16* to) {
    const __m256i high = _mm256_and_si256(Round(second), _mm256_set1_epi32(-65536));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                        _mm256_or_si256(_mm256_srli_epi32(Round(first), 16), high));
  }
  static KVASIR_INLINE void StorePairs(F first, F second, bf16* to) {
    StorePairsOf(first.low, second.low, to);
    StorePairsOf(first.high, second.high, to + 16);
  }
};

}  // namespace kvasir::block_avx2

#include "runtime/kernels/blocks/block_walk-inl.h"
// In this order.
#include "runtime/kernels/blocks/block_unpack-inl.h"
// In this order.
#include "runtime/kernels/blocks/block_kernels-inl.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // __x86_64__
