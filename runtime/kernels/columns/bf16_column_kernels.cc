#include "base/check.h"
#include "runtime/kernels/columns/avx512_column_kernels.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "runtime/kernels/avx512_bf16-inl.h"
#include "runtime/kernels/row_blocks.h"

KVASIR_AVX512_BF16_BEGIN

namespace kvasir {
namespace {

#include "runtime/kernels/columns/avx512_columns-inl.h"

struct Bf16Pairs : FloatSums {
  using Input = bf16;
  static constexpr size_t kWordInputs = 2;
  static Sums Add(Sums sums, __m512i inputs, __m512i weights) {
    return avx512::Dot(sums, inputs, weights);
  }
  template <int kRows>
  static void Word(const Input* x, size_t stride, const char* from, Sums (&sums)[kRows][kVectors]) {
    AddWord<Bf16Pairs, kRows>(x, stride, from, sums);
  }
};

}  // namespace

void Bf16ColumnProduct(const bf16* x, size_t x_stride, size_t rows, size_t depth,
                       const void* weights, const void* weights_end, StreamAsking asking,
                       float* sums) {
  ColumnProduct<Bf16Pairs>(x, x_stride, rows, depth, weights, weights_end, asking, sums);
}

}  // namespace kvasir

KVASIR_AVX512_BF16_END

#else

namespace kvasir {

void Bf16ColumnProduct(const bf16*, size_t, size_t, size_t, const void*, const void*, StreamAsking,
                       float*) {
  KVASIR_CHECK(false);
}

}  // namespace kvasir

#endif
