// How block-quantised weights lie in memory for the kernels: panels of 16 output rows, codes of the
// rows interleaved so that one vector holds four consecutive inputs of each row, at the number of
// bits that they have in files. All panels of a matrix follow each other, and a panel is read from
// its first byte to its last: a product of one row streams the weights once.
//
// A step is 32 inputs; up to eight steps are a chunk: header, then codes. Groups of 64 and 128
// inputs span steps; the last group of a row may be short.
//   header (padded to 64 bytes), every entry 16 rows:
//     kF16:      f16 scale of every group; with mins f16 min; with zero points u8 zero point
//     kF32:      f32 scale of every group; with zero points u8 zero point
//     kE8m0:     u8 exponent of every group
//     kTwoLevel: f16 d; with mins f16 dmin; s8 scale of every group; with mins u8 min
//   codes of a step: vectors of 64 bytes, byte 4 * row + (k % 4) of quad q = k / 4, k in [0, 32):
//     8 bits: eight vectors, one per quad
//     4 of 4, 5, 6 bits: four vectors, quad q in the low halves, quad q + 4 in the high ones
//     2 of 2, 3, 6 bits: two vectors, quads 0..3 and 4..7, quad q from bit 2 * (q % 4) on
//     1 of 3, 5 bits:    one vector, quad q in bit q
//   (6 bits: four low, then two high; 5: four low, one high; 3: two low, one high)
//
// Pure data, thread safe.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvasir {

inline constexpr int kPanelRows = 16;
inline constexpr int kStepInputs = 32;
inline constexpr int kChunkSteps = 8;
inline constexpr int kVectorBytes = 64;

enum class BlockScale {
  kF16,      // one f16 per group
  kF32,      // one f32 per group
  kE8m0,     // one exponent per group: 2^(e - 128)
  kTwoLevel  // integers per group times an f16 per chunk
};

// What kernels are compiled for. `signed_codes`: codes of 8 bits stored plus 128, or entries of a
// table of signed bytes.
struct BlockKind {
  int bits = 4;
  int group = 32;  // inputs that share a scale: 16, 32, 64 or 128
  BlockScale scale = BlockScale::kF16;
  bool mins = false;
  bool zero_points = false;
  bool table = false;
  bool e4m3 = false;  // codes are floating-point numbers of eight bits

  constexpr bool operator==(const BlockKind&) const = default;

  constexpr bool signed_codes() const { return (bits == 8 && !e4m3) || table; }
  // How many groups a step is cut into: the products of each are summed as integers.
  constexpr int parts_per_step() const { return group < kStepInputs ? kStepInputs / group : 1; }
  constexpr int inputs_per_part() const { return kStepInputs / parts_per_step(); }
  constexpr int groups(int steps) const { return (steps * kStepInputs + group - 1) / group; }
  constexpr int group_of(int step, int part) const {
    return (step * kStepInputs + part * inputs_per_part()) / group;
  }
  constexpr int step_bytes() const { return kVectorBytes * bits; }

  // Offsets in the header of a chunk of `steps` steps.
  constexpr int scales_at() const {
    return scale == BlockScale::kTwoLevel ? 2 * kPanelRows * (mins ? 2 : 1) : 0;
  }
  constexpr int scale_bytes() const {
    return scale == BlockScale::kF32 ? 4 : scale == BlockScale::kF16 ? 2 : 1;
  }
  constexpr int mins_at(int steps) const {
    return scales_at() + groups(steps) * kPanelRows * scale_bytes();
  }
  constexpr int min_bytes() const { return scale == BlockScale::kF16 && mins ? 2 : 1; }
  constexpr int header_bytes(int steps) const {
    const int end =
        mins_at(steps) + (mins || zero_points ? groups(steps) * kPanelRows * min_bytes() : 0);
    return (end + kVectorBytes - 1) / kVectorBytes * kVectorBytes;
  }
  constexpr int chunk_bytes(int steps) const { return header_bytes(steps) + steps * step_bytes(); }
  // Of a panel over `inputs`, a multiple of kStepInputs.
  constexpr int64_t panel_bytes(int64_t inputs) const {
    const int64_t steps = inputs / kStepInputs;
    const int rest = static_cast<int>(steps % kChunkSteps);
    return steps / kChunkSteps * chunk_bytes(kChunkSteps) + (rest > 0 ? chunk_bytes(rest) : 0);
  }
};

// The kinds that kernels exist for; see runtime/ops/quantized/block_packing.cc for which format is
// which.
inline constexpr BlockKind kBlockKinds[] = {
    {8, 32},
    {4, 32},
    {5, 32},
    {4, 32, BlockScale::kF16, /*mins=*/true},
    {5, 32, BlockScale::kF16, /*mins=*/true},
    {4, 32, BlockScale::kF16, false, /*zero_points=*/true},
    {4, 32, BlockScale::kF16, false, false, /*table=*/true},
    {4, 16, BlockScale::kF16, false, false, /*table=*/true},
    {4, 32, BlockScale::kE8m0, false, false, /*table=*/true},
    {2, 16, BlockScale::kTwoLevel, /*mins=*/true},
    {3, 16, BlockScale::kTwoLevel},
    {4, 32, BlockScale::kTwoLevel, /*mins=*/true},
    {5, 32, BlockScale::kTwoLevel, /*mins=*/true},
    {6, 16, BlockScale::kTwoLevel},
    {4, 32, BlockScale::kTwoLevel, false, false, /*table=*/true},
    {4, 64},
    {4, 128},
    {4, 64, BlockScale::kF16, false, /*zero_points=*/true},
    {4, 128, BlockScale::kF16, false, /*zero_points=*/true},
    {4, 32, BlockScale::kF32, false, /*zero_points=*/true},
    {4, 64, BlockScale::kF32, false, /*zero_points=*/true},
    {4, 128, BlockScale::kF32, false, /*zero_points=*/true},
    {8, 128, BlockScale::kF32},
    {8, 128, BlockScale::kF32, false, false, false, /*e4m3=*/true},
};
inline constexpr size_t kNumBlockKinds = sizeof(kBlockKinds) / sizeof(kBlockKinds[0]);

}  // namespace kvasir
