#include "runtime/ops/quantized/block_packing.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/bf16.h"
#include "base/check.h"
#include "base/e4m3.h"
#include "base/mapped_pages.h"
#include "base/parallel.h"
#include "runtime/formats/block_codes.h"

namespace kvasir {
namespace {

constexpr int kChunkInputs = kChunkSteps * kStepInputs;
static_assert(kChunkInputs == kMaxBlockElements);

// What is packed before the file's pages are given back: an embedding table may be most of a
// model, and would else be in memory twice.
constexpr int64_t kReleaseBytes = int64_t{8} << 20;

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

// `inputs`: of the chunk, a multiple of a step; the last block of a row may be short. False: a
// scale is no finite number.
bool UnpackChunk(const WeightFormatInfo& info, const uint8_t* from, int inputs, RowChunk* out) {
  BlockCodes block;
  int group = 0;
  bool finite = true;
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
      finite = finite && std::isfinite(out->d[group]) &&
               (!info.has_mins || std::isfinite(out->dmin[group]));
    }
  }
  return finite;
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

// One code of a step's vectors.
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

// --- Codes of a step into its vectors: ReadCode's other direction, eight codes at a time ---

using Word = uint64_t;
constexpr int kQuads = kStepInputs / 4;
constexpr int kWords = kVectorBytes / static_cast<int>(sizeof(Word));

// The quads of one step as bytes of their own: byte 4 * row + i of quad q is row's code 4 * q + i.
struct StepCodes {
  Word quads[kQuads][kWords] = {};

  void Set(int row, const uint8_t* codes) {
    for (int q = 0; q < kQuads; ++q) {
      std::memcpy(reinterpret_cast<uint8_t*>(quads[q]) + 4 * row, codes + 4 * q, 4);
    }
  }
};

// One vector: `width` bits from bit `from` on of each of `count` quads, one above the other.
void WriteVector(const StepCodes& codes, int first_quad, int quad_step, int count, int from,
                 int width, uint8_t* to) {
  const Word mask = ((Word{1} << width) - 1) * 0x0101010101010101u;
  for (int w = 0; w < kWords; ++w) {
    Word word = 0;
    for (int i = 0; i < count; ++i) {
      word |= (codes.quads[first_quad + i * quad_step][w] >> from & mask) << (i * width);
    }
    std::memcpy(to + w * sizeof(Word), &word, sizeof(word));
  }
}

void WriteStep(int bits, const StepCodes& codes, uint8_t* step) {
  if (bits == 8) {
    std::memcpy(step, codes.quads, sizeof(codes.quads));
    return;
  }
  int from = 0;
  if (bits >= 4) {
    for (int q = 0; q < kQuads / 2; ++q, step += kVectorBytes) {
      WriteVector(codes, q, kQuads / 2, 2, 0, 4, step);
    }
    from = 4;
  }
  if (bits - from >= 2) {
    for (int half = 0; half < 2; ++half, step += kVectorBytes) {
      WriteVector(codes, half * kQuads / 2, 1, kQuads / 2, from, 2, step);
    }
    from += 2;
  }
  if (bits - from == 1) WriteVector(codes, 0, 1, kQuads, from, 1, step);
}

// Returns a row with a scale that is no finite number, or -1.
int64_t PackPanel(const StoredMatrix& matrix, const WeightFormatInfo& info, const BlockKind& kind,
                  int64_t first_row, uint8_t* panel) {
  const int64_t row_bytes = RowBytes(info.format, matrix.cols);
  const int rows = static_cast<int>(std::min<int64_t>(kPanelRows, matrix.rows - first_row));
  const uint8_t* from = static_cast<const uint8_t*>(matrix.data) + first_row * row_bytes;
  std::memset(panel, 0, kind.panel_bytes(matrix.cols));  // rows that are not there, and padding
  RowChunk chunk;
  int64_t damaged = -1;
  StepCodes codes[kChunkSteps];
  for (int64_t begin = 0; begin < matrix.cols; begin += kChunkInputs) {
    const int inputs = static_cast<int>(std::min<int64_t>(kChunkInputs, matrix.cols - begin));
    const int steps = inputs / kStepInputs;
    for (int row = 0; row < rows; ++row) {
      if (!UnpackChunk(info, from + row * row_bytes, inputs, &chunk)) damaged = first_row + row;
      WriteHeader(kind, steps, row, chunk, panel);
      for (int s = 0; s < steps; ++s) codes[s].Set(row, chunk.codes + s * kStepInputs);
    }
    for (int s = 0; s < steps; ++s) {
      WriteStep(kind.bits, codes[s], panel + kind.header_bytes(steps) + s * kind.step_bytes());
    }
    from += RowBytes(info.format, inputs);
    panel += kind.chunk_bytes(steps);
  }
  return damaged;
}

}  // namespace

BlockPanel PackedBlocks::panel(int64_t index) const {
  const WeightFormatInfo& info = Info(format);
  return {kind, data.data() + index * panel_bytes, info.zero, info.table};
}

absl::Status PackedBlocks::Check(int64_t first_row) const {
  if (damaged_row < 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("row ", first_row + damaged_row, " has a ", Info(format).name,
                   " scale that is no finite number; the file is damaged, fetch it again"));
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
          *out++ = ToValue(info, group, ReadCode(layout.bits, lane, k, codes)) * factor;
        }
      }
    }
    at += layout.chunk_bytes(steps);
  }
}

bool HasBlockKernels(WeightFormat format) { return Info(format).is_block(); }

PackedBlocks PackBlocks(const StoredMatrix& matrix) {
  const WeightFormatInfo& info = Info(matrix.type);
  KVASIR_CHECK(info.is_block() && matrix.cols % kStepInputs == 0);
  const BlockKind kind = KindOf(info);
  PackedBlocks packed;
  packed.format = matrix.type;
  packed.kind = KindIndex(kind);
  packed.rows = matrix.rows;
  packed.cols = matrix.cols;
  packed.factor = matrix.factor;
  packed.panel_bytes = kind.panel_bytes(matrix.cols);
  packed.data = HugeBuffer(static_cast<size_t>(packed.num_panels() * packed.panel_bytes));
  const auto* const stored = static_cast<const uint8_t*>(matrix.data);
  const int64_t row_bytes = RowBytes(matrix.type, matrix.cols);
  PrefetchMapped(stored, static_cast<size_t>(matrix.rows * row_bytes));
  std::atomic<int64_t> damaged{-1};
  const int64_t together = std::max<int64_t>(1, kReleaseBytes / packed.panel_bytes);
  for (int64_t first = 0; first < packed.num_panels(); first += together) {
    const int64_t count = std::min(together, packed.num_panels() - first);
    ParallelFor(static_cast<size_t>(count), [&](size_t index, int) {
      const int64_t panel = first + static_cast<int64_t>(index);
      const int64_t row = PackPanel(matrix, info, kind, panel * kPanelRows,
                                    packed.data.data() + panel * packed.panel_bytes);
      if (row >= 0) damaged = row;
    });
    const int64_t begin = first * kPanelRows;
    const int64_t end = std::min(matrix.rows, begin + count * kPanelRows);
    ReleaseMapped(stored + begin * row_bytes, static_cast<size_t>((end - begin) * row_bytes));
  }
  packed.damaged_row = damaged;
  return packed;
}

}  // namespace kvasir
