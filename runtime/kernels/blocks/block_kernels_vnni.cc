// The block kernels on AVX-512 VNNI: sixteen rows in a vector, VPDPBUSD multiplies four inputs of
// each.

#include "runtime/kernels/blocks/block_kernel_table.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include "runtime/kernels/avx512_vnni_target-inl.h"

KVASIR_AVX512_VNNI_BEGIN

#define KVASIR_BLOCK_NAMESPACE block_vnni

#include "runtime/kernels/blocks/block_simd_avx512-inl.h"
// In this order.
#include "runtime/kernels/blocks/block_walk-inl.h"
// In this order.
#include "runtime/kernels/blocks/block_unpack-inl.h"
// In this order.
#include "runtime/kernels/blocks/block_kernels-inl.h"

KVASIR_AVX512_VNNI_END

#endif  // __x86_64__
