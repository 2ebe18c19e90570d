// How weights are stored: plain numbers, or blocks of small integer codes that share a scale. What
// they are computed in is another matter (ComputeType, runtime/ops/tensor.h).
//
// A block format is described by one record. Its value number i, in group g of its block, is
//   (d * scale[g]) * code(i)                    without mins
//   (d * scale[g]) * code(i) - dmin * min[g]    with mins
// where code(i) is the stored unsigned code minus `zero`, the code's entry in `table`, or the
// number of type E4M3 that the code is; each operation rounds to f32, in this order. That is how
// the `gguf` Python package dequantises, to the bit. Layouts: ggml-common.h of llama.cpp;
// block_codes.cc undoes them.
//
// Kvasir's own formats hold what other checkpoints have in tensors side by side: a block is one
// group, its scale (f16, or f32), its zero point (u8) if it has one, then the codes, those of four
// bits with element j in the low and j + group / 2 in the high half of byte j.
//
// The last block of a row may be short in elements, not in bytes: rows of Kvasir's own formats may
// have any length, and so may those that come from tensors side by side. GGUF's are whole blocks.
//
// Pure data and functions, thread safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "absl/strings/string_view.h"
#include "runtime/formats/tensor_type.h"

namespace kvasir {

enum class WeightFormat {
  kF32,
  kBf16,
  kF16,
  kQ8_0,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kIQ4_NL,
  kMXFP4,
  kNVFP4,
  kQ2_K,
  kQ3_K,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kIQ4_XS,
  // Kvasir's own. Int4: f16 scales, without and with zero points; "wide": f32 scales, zero points.
  kInt4Group32,
  kInt4Group64,
  kInt4Group128,
  kInt4Zero32,
  kInt4Zero64,
  kInt4Zero128,
  kInt4Wide32,
  kInt4Wide64,
  kInt4Wide128,
  kInt8Group128,  // f32 scales
  kE4m3Group128,  // f32 scales
};

inline constexpr int kMaxBlockElements = 256;
inline constexpr int kMaxBlockGroups = 16;

struct WeightFormatInfo {
  WeightFormat format = WeightFormat::kF32;
  absl::string_view name;  // "q4_k"
  int block_elements = 1;
  int block_bytes = 4;

  // Of block formats only; code_bits 0 = plain numbers.
  int code_bits = 0;
  int group_elements = 0;         // that share a scale: 16 or 32
  int zero = 0;                   // subtracted from the code
  const int8_t* table = nullptr;  // [16]: what the codes stand for
  bool two_level = false;         // scales and mins are integers times d and dmin of the block
  bool has_mins = false;
  bool has_zero_points = false;  // a zero point per group in place of `zero`
  bool wide_scales = false;      // f32, not f16
  bool e4m3 = false;             // the codes are floating-point numbers

  bool is_block() const { return code_bits > 0; }
  // One of Kvasir's own.
  bool is_plain_group() const { return format >= WeightFormat::kInt4Group32; }
  int scale_bytes() const { return wide_scales ? 4 : 2; }
};

const WeightFormatInfo& Info(WeightFormat format);

// Bytes of a row of `cols` elements: whole blocks.
inline int64_t RowBytes(WeightFormat format, int64_t cols) {
  const WeightFormatInfo& info = Info(format);
  return (cols + info.block_elements - 1) / info.block_elements * info.block_bytes;
}

// nullopt: a type that a file may hold, but that is no weight this reader computes with.
std::optional<WeightFormat> ToWeightFormat(TensorType type);

}  // namespace kvasir
