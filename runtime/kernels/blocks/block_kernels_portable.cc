// The block kernels in plain C++, one row at a time: for CPUs without AVX2, and as the form that
// the others are compared with.

#include <bit>
#include <cstring>

#include "base/e4m3.h"
#include "runtime/kernels/blocks/block_kernel_table.h"

#define KVASIR_BLOCK_NAMESPACE block_portable

namespace kvasir::block_portable {

struct Simd {
  static constexpr int kLanes = 1;
  static constexpr bool kUnsignedProducts = true;
  static constexpr bool kShortSums = false;
  using F = float;
  struct I {
    uint32_t bits = 0;              // a 32-bit integer, or four bytes
    const int8_t* table = nullptr;  // of LoadTable
  };

  static I LoadBytes(const uint8_t* from) {
    I four;
    std::memcpy(&four.bits, from, sizeof(four.bits));
    return four;
  }
  static I SetBytes(int value) { return {0x01010101u * static_cast<uint32_t>(value)}; }
  static I SetInts(int32_t value) { return {static_cast<uint32_t>(value)}; }
  static F SetFloats(float value) { return value; }
  static I And(I a, I b) { return {a.bits & b.bits}; }
  static I Or(I a, I b) { return {a.bits | b.bits}; }
  static I Xor(I a, I b) { return {a.bits ^ b.bits}; }
  static I Sub(I a, I b) { return {a.bits - b.bits}; }
  static I Negate(I a) { return {0u - a.bits}; }
  static I MulInts(I a, I b) { return {a.bits * b.bits}; }
  // Within the 32 bits: what crosses a byte's border is masked away.
  template <int kBits>
  static I ShiftLeft(I a) {
    return {a.bits << kBits};
  }
  template <int kBits>
  static I ShiftRight(I a) {
    return {a.bits >> kBits};
  }
  template <int kByte>
  static I UnsignedByte(I a) {
    return {a.bits >> (8 * kByte) & 0xff};
  }
  template <int kByte>
  static I SignedByte(I a) {
    return SetInts(static_cast<int8_t>(a.bits >> (8 * kByte) & 0xff));
  }
  static I BroadcastFour(const int8_t* x) { return LoadBytes(reinterpret_cast<const uint8_t*>(x)); }
  template <bool kSigned>
  static I Dot(I sums, I codes, I x) {
    int32_t sum = static_cast<int32_t>(sums.bits);
    for (int i = 0; i < 4; ++i) {
      sum += static_cast<int32_t>(codes.bits >> (8 * i) & 0xff) *
             static_cast<int8_t>(x.bits >> (8 * i) & 0xff);
    }
    return SetInts(sum);
  }
  static I WidenSigned(const uint8_t* from) { return SetInts(static_cast<int8_t>(*from)); }
  static I WidenUnsigned(const uint8_t* from) { return SetInts(*from); }
  static F LoadHalves(const uint8_t* from) {
    f16 half;
    std::memcpy(&half, from, sizeof(half));
    return kvasir::ToFloat(half);
  }
  static F LoadFloats(const uint8_t* from) {
    float value;
    std::memcpy(&value, from, sizeof(value));
    return value;
  }
  template <int kByte>
  static F E4m3(I codes) {
    return E4m3ToFloat(static_cast<uint8_t>(codes.bits >> (8 * kByte)));
  }
  static F LoadExponents(const uint8_t* from) {
    return std::bit_cast<float>(static_cast<uint32_t>(*from > 1 ? *from - 1 : 0) << 23);
  }
  static I LoadTable(const int8_t* table) { return {0, table}; }
  static I LoadSignedTable(const int8_t* table) { return {0, table}; }
  static I LookupSigned(I table, I codes) {
    uint32_t bits = 0;
    for (int i = 0; i < 4; ++i) {
      const auto entry = static_cast<uint8_t>(table.table[codes.bits >> (8 * i) & 15]);
      bits |= uint32_t{entry} << (8 * i);
    }
    return {bits};
  }
  // Entries plus 128, for unsigned products.
  static I Lookup(I table, I codes) { return {LookupSigned(table, codes).bits ^ 0x80808080u}; }
  static F ToFloat(I a) { return static_cast<float>(static_cast<int32_t>(a.bits)); }
  static F Mul(F a, F b) { return a * b; }
  static F Sub(F a, F b) { return a - b; }
  static F MulAdd(F a, F b, F c) { return a * b + c; }
  static F NegMulAdd(F a, F b, F c) { return c - a * b; }
  static void Store(F a, float* to) { *to = a; }
  static void StorePairs(F first, F second, bf16* to) {
    to[0] = ToBf16(first);
    to[1] = ToBf16(second);
  }
};

}  // namespace kvasir::block_portable

#include "runtime/kernels/blocks/block_walk-inl.h"
// In this order.
#include "runtime/kernels/blocks/block_unpack-inl.h"
// In this order.
#include "runtime/kernels/blocks/block_kernels-inl.h"
