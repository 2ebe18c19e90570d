#include "base/check.h"
#include "runtime/kernels/columns/avx512_column_kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "runtime/kernels/avx512_vnni_target-inl.h"
#include "runtime/kernels/row_blocks.h"

KVASIR_AVX512_VNNI_BEGIN

namespace kvasir {
namespace {

#include "runtime/kernels/columns/avx512_columns-inl.h"

struct UnsignedBySigned {
  using Input = uint8_t;
  using Sum = int32_t;
  using Sums = __m512i;
  static constexpr size_t kWordInputs = 4;
  static Sums Zero() { return _mm512_setzero_si512(); }
  static Sums Load(const int32_t* from) { return _mm512_loadu_si512(from); }
  static void Store(int32_t* to, Sums sums) { _mm512_storeu_si512(to, sums); }
  static Sums Add(Sums sums, __m512i inputs, __m512i weights) {
    return _mm512_dpbusd_epi32(sums, inputs, weights);
  }
  template <int kRows>
  static void Word(const Input* x, size_t stride, const char* from, Sums (&sums)[kRows][kVectors]) {
    AddWord<UnsignedBySigned, kRows>(x, stride, from, sums);
  }
};

}  // namespace

void VnniColumnProduct(const uint8_t* x, size_t x_stride, size_t rows, size_t depth,
                       const void* weights, const void* weights_end, StreamAsking asking,
                       int32_t* sums) {
  ColumnProduct<UnsignedBySigned>(x, x_stride, rows, depth, weights, weights_end, asking, sums);
}

}  // namespace kvasir

KVASIR_AVX512_VNNI_END

#else

namespace kvasir {

void VnniColumnProduct(const uint8_t*, size_t, size_t, size_t, const void*, const void*,
                       StreamAsking, int32_t*) {
  KVASIR_CHECK(false);
}

}  // namespace kvasir

#endif
