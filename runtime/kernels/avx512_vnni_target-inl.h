// For the .cc files of AVX-512 VNNI kernels only. KVASIR_AVX512_VNNI_BEGIN and _END: functions
// between them may use VNNI and the AVX-512 extensions that every CPU with it has.
#pragma once

// A pragma's text must be one literal.
// clang-format off
#if defined(__clang__)
#define KVASIR_AVX512_VNNI_BEGIN \
  _Pragma("clang attribute push(__attribute__((target(\"avx512f,avx512bw,avx512vl,avx512dq,avx512vnni\"))), apply_to=function)")
#define KVASIR_AVX512_VNNI_END _Pragma("clang attribute pop")
#else
#define KVASIR_AVX512_VNNI_BEGIN \
  _Pragma("GCC push_options") \
  _Pragma("GCC target(\"avx512f,avx512bw,avx512vl,avx512dq,avx512vnni\")")
#define KVASIR_AVX512_VNNI_END _Pragma("GCC pop_options")
#endif
// clang-format on
