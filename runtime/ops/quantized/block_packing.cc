#include "runtime/ops/quantized/block_packing.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/bf16.h"
#include "base/check.h"
#include "base/e4m3.h"
#include "base/parallel.h"
#include "runtime/formats/block_codes.h"

namespace kvasir {
namespace {

constexpr int kChunkInputs = kChunkSteps * kStepInputs;
static_assert(kChunkInputs == kMaxBlockElements);

BlockKind KindOf(const WeightFormatInfo& info) {
  BlockKind kind;
  kind.bits = info.code_bits;
  kind.group = info.group_elements;
  kind.scale = info.two_level                        ? BlockScale::kTwoLevel
               : info.format == WeightFormat::kMXFP4 ? BlockScale::kE8m0
               : info.wide_scales                    ? BlockScale::kF32
                                                     : BlockScale::kF16;
  kind.mins = info.has_mins;
  kind.zero_points = info.has_zero_points;
  kind.table = info.table != nullptr;
  kind.e4m3 = info.e4m3;
  return kind;
}

size_t KindIndex(const BlockKind& kind) {
  const auto* found = std::find(std::begin(kBlockKinds), std::end(kBlockKinds), kind);
  KVASIR_CHECK(found != std::end(kBlockKinds));
  return static_cast<size_t>(found - std::begin(kBlockKinds));
}

// Of 2^(e - 128); the two smallest are subnormal and count as 0 (block_kernels.h).
uint8_t ExponentOf(float scale) {
  const uint32_t exponent = std::bit_cast<uint32_t>(scale) >> 23;
  return static_cast<uint8_t>(exponent == 0 ? 0 : exponent + 1);
}

void StoreF16(float value, uint8_t* to) {
  const f16 half = ToF16(value);  // exact: it was one
  std::memcpy(to, &half, sizeof(half));
}

// One row's part of a chunk, in the order of its elements.
struct RowChunk {
  uint8_t codes[kChunkInputs];
  float d[kMaxBlockGroups];  // of each group; two-level: of the chunk in [0]
  float dmin[kMaxBlockGroups];
  int8_t scales[kMaxBlockGroups];
  uint8_t mins[kMaxBlockGroups];
  uint8_t zeros[kMaxBlockGroups];
};

// `inputs`: of the chunk, a multiple of a step; the last block of a row may be short.
void UnpackChunk(const WeightFormatInfo& info, const uint8_t* from, int inputs, RowChunk* out) {
  BlockCodes block;
  int group = 0;
  for (int begin = 0; begin < inputs; begin += info.block_elements) {
    UnpackBlock(info.format, from, &block);
    from += info.block_bytes;
    std::memcpy(out->codes + begin, block.codes, info.block_elements);
    const int groups = info.block_elements / info.group_elements;
    for (int g = 0; g < groups; ++g, ++group) {
      out->d[group] = block.d[info.two_level ? 0 : g];
      out->dmin[group] = block.dmin[info.two_level ? 0 : g];
      out->scales[group] = block.scales[g];
      out->mins[group] = block.mins[g];
      out->zeros[group] = block.zeros[g];
    }
  }
}

void WriteHeader(const BlockKind& kind, int steps, int row, const RowChunk& chunk, uint8_t* to) {
  const int groups = kind.groups(steps);
  if (kind.scale == BlockScale::kTwoLevel) {
    StoreF16(chunk.d[0], to + 2 * row);
    if (kind.mins) StoreF16(chunk.dmin[0], to + 2 * (kPanelRows + row));
  }
  for (int g = 0; g < groups; ++g) {
    uint8_t* scale = to + kind.scales_at() + (g * kPanelRows + row) * kind.scale_bytes();
    switch (kind.scale) {
      case BlockScale::kF16:
        StoreF16(chunk.d[g], scale);
        break;
      case BlockScale::kF32:
        std::memcpy(scale, &chunk.d[g], sizeof(float));
        break;
      case BlockScale::kE8m0:
        *scale = ExponentOf(chunk.d[g]);
        break;
      case BlockScale::kTwoLevel:
        *scale = static_cast<uint8_t>(chunk.scales[g]);
        break;
    }
    uint8_t* min = to + kind.mins_at(steps) + (g * kPanelRows + row) * kind.min_bytes();
    if (kind.zero_points) {
      *min = chunk.zeros[g];
    } else if (kind.mins && kind.scale == BlockScale::kTwoLevel) {
      *min = chunk.mins[g];
    } else if (kind.mins) {
      StoreF16(chunk.dmin[g], min);
    }
  }
}

// What the numbers of one row's group in a header come to.
struct GroupNumbers {
  float scale = 0;
  float min = 0;
  int zero = 0;
};

template <typename T>
T Load(const uint8_t* from) {
  T value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

GroupNumbers ReadHeader(const BlockKind& kind, int steps, int g, int row, int zero,
                        const uint8_t* from) {
  const uint8_t* scale = from + kind.scales_at() + (g * kPanelRows + row) * kind.scale_bytes();
  const uint8_t* min = from + kind.mins_at(steps) + (g * kPanelRows + row) * kind.min_bytes();
  GroupNumbers group;
  group.zero = kind.zero_points ? *min : zero;
  switch (kind.scale) {
    case BlockScale::kF16:
      group.scale = ToFloat(Load<f16>(scale));
      if (kind.mins) group.min = ToFloat(Load<f16>(min));
      break;
    case BlockScale::kF32:
      group.scale = Load<float>(scale);
      break;
    case BlockScale::kE8m0:
      group.scale = std::bit_cast<float>(static_cast<uint32_t>(*scale > 1 ? *scale - 1 : 0) << 23);
      break;
    case BlockScale::kTwoLevel:
      group.scale =
          ToFloat(Load<f16>(from + 2 * row)) * static_cast<float>(static_cast<int8_t>(*scale));
      if (kind.mins) {
        group.min = ToFloat(Load<f16>(from + 2 * (kPanelRows + row))) * static_cast<float>(*min);
      }
  }
  return group;
}

// One code of a step's vectors: WriteCode's other direction.
unsigned ReadCode(int bits, int row, int k, const uint8_t* step) {
  const int quad = k / 4, byte = 4 * row + k % 4;
  const auto vector = [&](int index) -> unsigned { return step[index * kVectorBytes + byte]; };
  if (bits == 8) return vector(quad);
  unsigned code = 0;
  int next = 0, shift = 0;
  if (bits >= 4) {
    code = vector(quad % 4) >> (quad < 4 ? 0 : 4) & 15;
    next = shift = 4;
    bits -= 4;
  }
  if (bits >= 2) {
    code |= (vector(next + quad / 4) >> (2 * (quad % 4)) & 3) << shift;
    next += 2;
    shift += 2;
    bits -= 2;
  }
  if (bits == 1) code |= (vector(next) >> quad & 1) << shift;
  return code;
}

float ToValue(const WeightFormatInfo& info, const GroupNumbers& group, unsigned code) {
  if (info.e4m3) return group.scale * E4m3ToFloat(static_cast<uint8_t>(code));
  const int number = info.table != nullptr ? info.table[code] : static_cast<int>(code) - group.zero;
  const float product = group.scale * static_cast<float>(number);
  return info.has_mins ? product - group.min : product;
}

// Adds one code to a step's vectors, which were zero.
void WriteCode(int bits, int row, int k, unsigned code, uint8_t* step) {
  const int quad = k / 4, byte = 4 * row + k % 4;
  const auto vector = [&](int index) -> uint8_t& { return step[index * kVectorBytes + byte]; };
  const auto add = [](uint8_t& to, unsigned value) { to = static_cast<uint8_t>(to | value); };
  if (bits == 8) {
    vector(quad) = static_cast<uint8_t>(code);
    return;
  }
  int next = 0;  // first vector of the next plane
  if (bits >= 4) {
    add(vector(quad % 4), (code & 15) << (quad < 4 ? 0 : 4));
    next = 4;
    code >>= 4;
    bits -= 4;
  }
  if (bits >= 2) {
    add(vector(next + quad / 4), (code & 3) << (2 * (quad % 4)));
    next += 2;
    code >>= 2;
    bits -= 2;
  }
  if (bits == 1) add(vector(next), (code & 1) << quad);
}

void PackPanel(const StoredMatrix& matrix, const WeightFormatInfo& info, const BlockKind& kind,
               int64_t first_row, uint8_t* panel) {
  const int64_t row_bytes = RowBytes(info.format, matrix.cols);
  const int rows = static_cast<int>(std::min<int64_t>(kPanelRows, matrix.rows - first_row));
  std::memset(panel, 0, kind.panel_bytes(matrix.cols));
  RowChunk chunk;
  for (int row = 0; row < rows; ++row) {
    const uint8_t* from = static_cast<const uint8_t*>(matrix.data) + (first_row + row) * row_bytes;
    uint8_t* to = panel;
    for (int64_t begin = 0; begin < matrix.cols; begin += kChunkInputs) {
      const int inputs = static_cast<int>(std::min<int64_t>(kChunkInputs, matrix.cols - begin));
      const int steps = inputs / kStepInputs;
      UnpackChunk(info, from, inputs, &chunk);
      WriteHeader(kind, steps, row, chunk, to);
      uint8_t* codes = to + kind.header_bytes(steps);
      for (int i = 0; i < inputs; ++i) {
        WriteCode(kind.bits, row, i % kStepInputs, chunk.codes[i],
                  codes + i / kStepInputs * kind.step_bytes());
      }
      from += RowBytes(info.format, inputs);
      to += kind.chunk_bytes(steps);
    }
  }
}

}  // namespace

BlockPanel PackedBlocks::panel(int64_t index) const {
  const WeightFormatInfo& info = Info(format);
  return {kind, data.data() + index * panel_bytes, info.zero, info.table};
}

void PackedBlocks::ReadRow(int64_t row, float* out) const {
  const WeightFormatInfo& info = Info(format);
  const BlockKind& layout = kBlockKinds[kind];
  const uint8_t* at = data.data() + row / kPanelRows * panel_bytes;
  const int lane = static_cast<int>(row % kPanelRows);
  for (int64_t begin = 0; begin < cols; begin += kChunkInputs) {
    const int inputs = static_cast<int>(std::min<int64_t>(kChunkInputs, cols - begin));
    const int steps = inputs / kStepInputs;
    for (int step = 0; step < steps; ++step) {
      const uint8_t* codes = at + layout.header_bytes(steps) + step * layout.step_bytes();
      for (int part = 0; part < layout.parts_per_step(); ++part) {
        const GroupNumbers group =
            ReadHeader(layout, steps, layout.group_of(step, part), lane, info.zero, at);
        for (int i = 0; i < layout.inputs_per_part(); ++i) {
          const int k = part * layout.inputs_per_part() + i;
          *out++ = ToValue(info, group, ReadCode(layout.bits, lane, k, codes));
        }
      }
    }
    at += layout.chunk_bytes(steps);
  }
}

bool HasBlockKernels(WeightFormat format) { return Info(format).is_block(); }

PackedBlocks PackBlocks(const StoredMatrix& matrix) {
  const WeightFormatInfo& info = Info(matrix.type);
  KVASIR_CHECK(info.is_block() && matrix.cols % kStepInputs == 0 &&
               (matrix.cols % info.block_elements == 0 || info.is_plain_group()));
  const BlockKind kind = KindOf(info);
  PackedBlocks packed;
  packed.format = matrix.type;
  packed.kind = KindIndex(kind);
  packed.rows = matrix.rows;
  packed.cols = matrix.cols;
  packed.panel_bytes = kind.panel_bytes(matrix.cols);
  packed.data = HugeBuffer(static_cast<size_t>(packed.num_panels() * packed.panel_bytes));
  ParallelFor(static_cast<size_t>(packed.num_panels()), [&](size_t index, int) {
    const auto panel = static_cast<int64_t>(index);
    PackPanel(matrix, info, kind, panel * kPanelRows,
              packed.data.data() + panel * packed.panel_bytes);
  });
  return packed;
}

}  // namespace kvasir
