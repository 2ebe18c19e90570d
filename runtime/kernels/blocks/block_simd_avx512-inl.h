// The block kernels' Simd (block_walk-inl.h) of sixteen lanes. No include guard.

namespace kvasir::KVASIR_BLOCK_NAMESPACE {

struct Simd {
  static constexpr int kLanes = 16;
  static constexpr bool kUnsignedProducts = true;
  static constexpr bool kShortSums = false;
  using F = __m512;
  using I = __m512i;

  static KVASIR_INLINE I LoadBytes(const uint8_t* from) { return _mm512_loadu_si512(from); }
  static KVASIR_INLINE I SetBytes(int value) { return _mm512_set1_epi8(static_cast<char>(value)); }
  static KVASIR_INLINE I SetInts(int32_t value) { return _mm512_set1_epi32(value); }
  static KVASIR_INLINE F SetFloats(float value) { return _mm512_set1_ps(value); }
  static KVASIR_INLINE I And(I a, I b) { return _mm512_and_si512(a, b); }
  static KVASIR_INLINE I Or(I a, I b) { return _mm512_or_si512(a, b); }
  static KVASIR_INLINE I Xor(I a, I b) { return _mm512_xor_si512(a, b); }
  static KVASIR_INLINE I Sub(I a, I b) { return _mm512_sub_epi32(a, b); }
  static KVASIR_INLINE I Negate(I a) { return _mm512_sub_epi32(_mm512_setzero_si512(), a); }
  static KVASIR_INLINE I MulInts(I a, I b) { return _mm512_mullo_epi32(a, b); }
  template <int kBits>
  static KVASIR_INLINE I ShiftLeft(I a) {
    return _mm512_slli_epi16(a, kBits);
  }
  template <int kBits>
  static KVASIR_INLINE I ShiftRight(I a) {
    return _mm512_srli_epi16(a, kBits);
  }
  template <int kByte>
  static KVASIR_INLINE I UnsignedByte(I a) {
    return _mm512_and_si512(_mm512_srli_epi32(a, 8 * kByte), _mm512_set1_epi32(0xff));
  }
  template <int kByte>
  static KVASIR_INLINE I SignedByte(I a) {
    return _mm512_srai_epi32(_mm512_slli_epi32(a, 24 - 8 * kByte), 24);
  }
  static KVASIR_INLINE I BroadcastFour(const int8_t* x) {
    int32_t four;
    __builtin_memcpy(&four, x, sizeof(four));
    return _mm512_set1_epi32(four);
  }
  template <bool kSigned>
  static KVASIR_INLINE I Dot(I sums, I codes, I x) {
    return _mm512_dpbusd_epi32(sums, codes, x);
  }
  static KVASIR_INLINE I WidenSigned(const uint8_t* from) {
    return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
  static KVASIR_INLINE I WidenUnsigned(const uint8_t* from) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
  static KVASIR_INLINE F LoadHalves(const uint8_t* from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  }
  static KVASIR_INLINE F LoadFloats(const uint8_t* from) { return _mm512_loadu_ps(from); }
  // With e for the exponent's bits and m for the mantissa's, t = 2^(e - 7) (1 + m / 8) is the value
  // unless e is 0; there 2 t - 2^-6 is, which is the larger of both elsewhere.
  template <int kByte>
  static KVASIR_INLINE F E4m3(I codes) {
    const I top = _mm512_slli_epi32(codes, 24 - 8 * kByte);
    const I bits = _mm512_and_si512(_mm512_srli_epi32(top, 4), SetInts(0x07f00000));
    const F t = _mm512_castsi512_ps(_mm512_add_epi32(bits, SetInts(120 << 23)));
    const F magnitude = _mm512_min_ps(t, _mm512_fmadd_ps(t, SetFloats(2.0f), SetFloats(-0x1p-6f)));
    const I sign = _mm512_and_si512(top, SetInts(INT32_MIN));
    return _mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(magnitude), sign));
  }
  static KVASIR_INLINE F LoadExponents(const uint8_t* from) {
    const I one = _mm512_set1_epi32(1);
    const I e = _mm512_sub_epi32(_mm512_max_epi32(WidenUnsigned(from), one), one);
    return _mm512_castsi512_ps(_mm512_slli_epi32(e, 23));
  }
  static KVASIR_INLINE I LoadSignedTable(const int8_t* table) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
  }
  // Entries plus 128, for unsigned products.
  static KVASIR_INLINE I LoadTable(const int8_t* table) {
    return _mm512_xor_si512(LoadSignedTable(table), SetBytes(0x80));
  }
  static KVASIR_INLINE I Lookup(I table, I codes) { return _mm512_shuffle_epi8(table, codes); }
  static KVASIR_INLINE I LookupSigned(I table, I codes) { return Lookup(table, codes); }
  static KVASIR_INLINE F ToFloat(I a) { return _mm512_cvtepi32_ps(a); }
  static KVASIR_INLINE F Mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static KVASIR_INLINE F Sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static KVASIR_INLINE F MulAdd(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static KVASIR_INLINE F NegMulAdd(F a, F b, F c) { return _mm512_fnmadd_ps(a, b, c); }
  static KVASIR_INLINE void Store(F a, float* to) { _mm512_storeu_ps(to, a); }
  // Each lane: first in the lower, second in the upper 16 bits; to nearest, ties to even.
#if defined(KVASIR_BLOCK_NATIVE_BF16)
  static KVASIR_INLINE void StorePairs(F first, F second, bf16* to) {
    alignas(64) static constexpr uint16_t kZip[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                      21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                      11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const auto halves = reinterpret_cast<I>(_mm512_cvtne2ps_pbh(second, first));
    _mm512_storeu_si512(to, _mm512_permutexvar_epi16(_mm512_load_si512(kZip), halves));
  }
#else
  static KVASIR_INLINE I Round(F a) {
    const I bits = _mm512_castps_si512(a);
    const I odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    return _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  }
  static KVASIR_INLINE void StorePairs(F first, F second, bf16* to) {
    const I high = _mm512_and_si512(Round(second), _mm512_set1_epi32(-65536));
    _mm512_storeu_si512(to, _mm512_or_si512(_mm512_srli_epi32(Round(first), 16), high));
  }
#endif
};

}  // namespace kvasir::KVASIR_BLOCK_NAMESPACE
