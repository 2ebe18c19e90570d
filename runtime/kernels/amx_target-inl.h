// For the .cc files of AMX kernels only. KVASIR_AMX_BEGIN and KVASIR_AMX_END: functions between
// them may use AMX and the AVX-512 extensions that every CPU with AMX has.
#pragma once

#include <cstdint>

namespace kvasir {

// The operand of LDTILECFG (Intel SDM, "Tile configuration").
struct alignas(64) AmxTileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t bytes_per_row[16] = {};
  uint8_t rows[16] = {};
};

}  // namespace kvasir

// A pragma's text must be one literal.
// clang-format off
#if defined(__clang__)
#define KVASIR_AMX_BEGIN \
  _Pragma("clang attribute push(__attribute__((target(\"amx-tile,amx-bf16,amx-int8,avx512bf16,avx512vnni,avx512vl,avx512dq,avx512bw\"))), apply_to=function)")
#define KVASIR_AMX_END _Pragma("clang attribute pop")
#else
#define KVASIR_AMX_BEGIN \
  _Pragma("GCC push_options") \
  _Pragma("GCC target(\"amx-tile,amx-bf16,amx-int8,avx512bf16,avx512vnni,avx512vl,avx512dq,avx512bw\")")
#define KVASIR_AMX_END _Pragma("GCC pop_options")
#endif
// clang-format on
