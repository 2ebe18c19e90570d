// Products with block-quantised weights, and the weights unpacked, for one panel of 16 output rows
// (block_panel.h). Three forms, chosen at run time: AVX-512 VNNI (with AMX for more than a few
// rows), AVX2, and plain C++.
//
// The product is of integers: inputs are quantised to eight bits with a scale for every 32 of them,
// so that an outlier spoils its neighbours only. All forms give the same integer sums; they differ
// in the rounding of the f32 sums over groups. In each, a row's result does not depend on the other
// rows, nor on how many they are.
//
// Raw pointers, no alignment needed; no allocation. Pure functions, thread safe.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/bf16.h"
#include "runtime/kernels/blocks/block_panel.h"
#include "runtime/kernels/streams/stream_asking.h"

namespace kvasir {

// Rows of inputs as BlockDot takes them; `inputs` is a multiple of 32.
struct QuantizedInputs {
  const int8_t* codes = nullptr;  // [rows][stride], within +-127; see BlockDot about further rows
  const float* scales = nullptr;  // [rows][inputs / 32]: x = code * scale
  const int32_t* sums = nullptr;  // [rows][inputs / 16]: of the codes
  int64_t inputs = 0;
  int64_t stride = 0;  // of codes: at least inputs

  QuantizedInputs From(int64_t row) const {
    return {codes + row * stride, scales + row * (inputs / 32), sums + row * (inputs / 16), inputs,
            stride};
  }
};

// Quantises one row of `inputs` values (a multiple of 32): codes [inputs], scales [inputs / 32],
// sums [inputs / 16]. To nearest, ties to even; groups of zeros get scale 0.
void QuantizeInputs(const float* x, int64_t inputs, int8_t* codes, float* scales, int32_t* sums);

struct BlockPanel {
  size_t kind = 0;  // into kBlockKinds
  const uint8_t* data = nullptr;
  int zero = 0;                   // subtracted from every code; 128 for 8 bits, 0 with a table
  const int8_t* table = nullptr;  // [16]
};

// out[r][row] = sum over k of x[r][k] * w[row][k], r < rows; row < 16. Reads codes of up to
// RoundUpBlockRows(rows) rows, of which the further ones may hold anything.
// asking: for what comes next, with one row.
void BlockDot(const BlockPanel& panel, const QuantizedInputs& x, int rows, StreamAsking asking,
              float* out);
constexpr int64_t RoundUpBlockRows(int64_t rows) { return (rows + 15) / 16 * 16; }

// The panel's weights as numbers, exactly as they are dequantised one by one (runtime/formats) in
// f32, and that rounded to nearest in bf16: input k of row r at out[k * stride + r], resp. the pair
// of inputs k, k + 1 (even k) at out[k / 2 * stride + 2 * r]. MXFP4's two smallest exponents (below
// 2^-126) count as 0.
void BlockUnpack(const BlockPanel& panel, int64_t inputs, float* out, int64_t stride);
void BlockUnpack(const BlockPanel& panel, int64_t inputs, bf16* out, int64_t stride);

// From now on without VNNI, whatever the CPU has (cpu_target.h).
void ForbidVnniProducts();
// "vnni", "avx2" or "portable": what the calls above run on now.
const char* BlockKernelName();

}  // namespace kvasir
