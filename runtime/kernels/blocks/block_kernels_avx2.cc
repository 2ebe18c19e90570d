// The block kernels on AVX2: eight rows in a vector, two passes over a panel that the first brings
// into the first cache level. VPMADDUBSW sums two products in 16 bits: unsigned codes are below 64
// (64 * 127 * 2 < 2^15), signed ones pass as magnitudes with their signs moved to the inputs
// (128 * 127 * 2 < 2^15).

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
  static constexpr int kLanes = 8;
  static constexpr bool kUnsignedProducts = false;
  using F = __m256;
  using I = __m256i;

  static KVASIR_INLINE I LoadBytes(const uint8_t* from) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  }
  static KVASIR_INLINE I SetBytes(int value) { return _mm256_set1_epi8(static_cast<char>(value)); }
  static KVASIR_INLINE I SetInts(int32_t value) { return _mm256_set1_epi32(value); }
  static KVASIR_INLINE F SetFloats(float value) { return _mm256_set1_ps(value); }
  static KVASIR_INLINE I And(I a, I b) { return _mm256_and_si256(a, b); }
  static KVASIR_INLINE I Or(I a, I b) { return _mm256_or_si256(a, b); }
  static KVASIR_INLINE I Xor(I a, I b) { return _mm256_xor_si256(a, b); }
  static KVASIR_INLINE I Sub(I a, I b) { return _mm256_sub_epi32(a, b); }
  static KVASIR_INLINE I Negate(I a) { return _mm256_sub_epi32(_mm256_setzero_si256(), a); }
  static KVASIR_INLINE I MulInts(I a, I b) { return _mm256_mullo_epi32(a, b); }
  template <int kBits>
  static KVASIR_INLINE I ShiftLeft(I a) {
    return _mm256_slli_epi16(a, kBits);
  }
  template <int kBits>
  static KVASIR_INLINE I ShiftRight(I a) {
    return _mm256_srli_epi16(a, kBits);
  }
  template <int kByte>
  static KVASIR_INLINE I UnsignedByte(I a) {
    return _mm256_and_si256(_mm256_srli_epi32(a, 8 * kByte), _mm256_set1_epi32(0xff));
  }
  template <int kByte>
  static KVASIR_INLINE I SignedByte(I a) {
    return _mm256_srai_epi32(_mm256_slli_epi32(a, 24 - 8 * kByte), 24);
  }
  static KVASIR_INLINE I BroadcastFour(const int8_t* x) {
    int32_t four;
    __builtin_memcpy(&four, x, sizeof(four));
    return _mm256_set1_epi32(four);
  }
  template <bool kSigned>
  static KVASIR_INLINE I Dot(I sums, I codes, I x) {
    const I pairs = kSigned
                        ? _mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(x, codes))
                        : _mm256_maddubs_epi16(codes, x);
    return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  static KVASIR_INLINE I WidenSigned(const uint8_t* from) {
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
  }
  static KVASIR_INLINE I WidenUnsigned(const uint8_t* from) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
  }
  static KVASIR_INLINE F LoadHalves(const uint8_t* from) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
  static KVASIR_INLINE F LoadFloats(const uint8_t* from) {
    return _mm256_loadu_ps(reinterpret_cast<const float*>(from));
  }
  // As block_kernels_vnni.cc explains.
  template <int kByte>
  static KVASIR_INLINE F E4m3(I codes) {
    const I top = _mm256_slli_epi32(codes, 24 - 8 * kByte);
    const I bits = _mm256_and_si256(_mm256_srli_epi32(top, 4), SetInts(0x07f00000));
    const F t = _mm256_castsi256_ps(_mm256_add_epi32(bits, SetInts(120 << 23)));
    const F magnitude = _mm256_min_ps(t, _mm256_fmadd_ps(t, SetFloats(2.0f), SetFloats(-0x1p-6f)));
    const I sign = _mm256_and_si256(top, SetInts(INT32_MIN));
    return _mm256_castsi256_ps(_mm256_or_si256(_mm256_castps_si256(magnitude), sign));
  }
  static KVASIR_INLINE F LoadExponents(const uint8_t* from) {
    const I one = _mm256_set1_epi32(1);
    const I e = _mm256_sub_epi32(_mm256_max_epi32(WidenUnsigned(from), one), one);
    return _mm256_castsi256_ps(_mm256_slli_epi32(e, 23));
  }
  static KVASIR_INLINE I LoadSignedTable(const int8_t* table) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
  }
  static KVASIR_INLINE I LoadTable(const int8_t* table) { return LoadSignedTable(table); }
  static KVASIR_INLINE I Lookup(I table, I codes) { return _mm256_shuffle_epi8(table, codes); }
  static KVASIR_INLINE I LookupSigned(I table, I codes) { return Lookup(table, codes); }
  static KVASIR_INLINE F ToFloat(I a) { return _mm256_cvtepi32_ps(a); }
  static KVASIR_INLINE F Mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static KVASIR_INLINE F Sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static KVASIR_INLINE F MulAdd(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static KVASIR_INLINE F NegMulAdd(F a, F b, F c) { return _mm256_fnmadd_ps(a, b, c); }
  static KVASIR_INLINE void Store(F a, float* to) { _mm256_storeu_ps(to, a); }
  static KVASIR_INLINE I Round(F a) {
    const I bits = _mm256_castps_si256(a);
    const I odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    return _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  }
  static KVASIR_INLINE void StorePairs(F first, F second, bf16* to) {
    const I high = _mm256_and_si256(Round(second), _mm256_set1_epi32(-65536));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                        _mm256_or_si256(_mm256_srli_epi32(Round(first), 16), high));
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
