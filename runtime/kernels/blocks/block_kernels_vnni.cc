// The block kernels on AVX-512 VNNI: sixteen rows in a vector, VPDPBUSD multiplies four inputs of
// each.

#include "runtime/kernels/blocks/block_kernel_table.h"

#if defined(__x86_64__)

#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(                                                     \
        __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni"))), \
            apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")
#endif

#define KVASIR_BLOCK_NAMESPACE block_vnni

#include "runtime/kernels/blocks/block_simd_avx512-inl.h"
// In this order.
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
