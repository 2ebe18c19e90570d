#include "runtime/ops/packed_products.h"

#include <algorithm>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/check.h"
#include "base/parallel.h"
#include "runtime/kernels/amx_attention_kernels.h"
#include "runtime/kernels/amx_panel_kernels.h"
#include "runtime/kernels/columns/amx_column_kernels.h"
#include "runtime/kernels/columns/avx512_column_kernels.h"
#include "runtime/kernels/convert.h"
#include "runtime/ops/product_timing.h"

namespace kvasir {
namespace {

// Rows that are multiplied before the weights are read again: more would not stay in the caches.
constexpr int64_t kRowsTogether = 512;

// Blocks of columns that a task of panels takes together: each time that rows' tiles are read, they
// meet that many. With 512 rows and four blocks, the sums take 512 KiB of the second cache level
// (2 MiB on all CPUs with AMX, which may serve two threads) and the rows' tiles 256.
constexpr int64_t kPanelBlocks = 4;

// More rows than these are worth widening the weights by themselves: as many instructions as
// widening them anew for each six rows.
constexpr int64_t kMostWidenedInColumns = 16;

constexpr int64_t kTasksPerThread = 4;  // at least, so that threads end together

// Of the calling thread; they live during one product, or one task.
struct Scratch {
  AlignedBuffer<uint8_t> row_tiles;
  AlignedBuffer<float> sums;  // or int32_t
  AlignedBuffer<uint8_t> panel;
  AlignedBuffer<float> widened;
};

Scratch& ThisThread() {
  thread_local Scratch scratch;
  return scratch;
}

// Sizes in bytes, which are the same for both types.
struct Sizes {
  explicit Sizes(const PackedOperands& operands)
      : row_bytes(operands.x.cols() * (operands.x.compute_type() == ComputeType::kInt8 ? 1 : 2)),
        steps(row_bytes / 64),
        block_bytes(steps * static_cast<int64_t>(kAmxStepBytes)),
        blocks(operands.out / static_cast<int64_t>(kAmxColumns)) {
    KVASIR_CHECK(operands.x.compute_type() != ComputeType::kF32 && row_bytes % 64 == 0);
  }

  int64_t row_bytes;
  int64_t steps;
  int64_t block_bytes;
  int64_t blocks;
};

// Long enough streams for the first lines' wait to be little.
int64_t ColumnBlocksTogether(const Sizes& sizes) {
  constexpr int64_t kStreamBytes = 256 * 1024;
  const int64_t even = sizes.blocks / (kTasksPerThread * ComputeThreads());
  return std::max<int64_t>(1, std::min(kStreamBytes / sizes.block_bytes, even));
}

// Rows [first, last) by all columns in tasks; `finish` has the sums of all blocks of a task, [rows]
// [kAmxColumns] each. partners: how many blocks further each block has one in the same task; 0 =
// none.
template <typename Finish>
void RunPanels(const PackedOperands& operands, int64_t partners, const Finish& finish) {
  const Sizes sizes(operands);
  const bool int8 = operands.x.compute_type() == ComputeType::kInt8;
  const int64_t single = partners > 0 ? partners : sizes.blocks;
  const int64_t most = partners > 0 ? kPanelBlocks / 2 : kPanelBlocks;
  const int64_t together =
      std::max<int64_t>(1, std::min(most, single / (kTasksPerThread * ComputeThreads())));
  const auto* const x = static_cast<const uint8_t*>(operands.x.data());
  AlignedBuffer<uint8_t>& row_tiles = ThisThread().row_tiles;
  const int64_t stride = sizes.steps * static_cast<int64_t>(kAmxTileBytes);  // of a tile of rows
  for (int64_t first = 0; first < operands.x.rows(); first += kRowsTogether) {
    const int64_t rows = std::min(kRowsTogether, operands.x.rows() - first);
    const auto tiles = static_cast<int64_t>(RoundUpAmx(rows) / kAmxRows);
    row_tiles.Resize(tiles * stride);
    ParallelFor(static_cast<size_t>(tiles), [&](size_t tile, int) {
      const auto t = static_cast<int64_t>(tile);
      PackAmxRowTiles(x + (first + t * static_cast<int64_t>(kAmxRows)) * sizes.row_bytes,
                      sizes.row_bytes, row_tiles.data() + t * stride);
    });
    const int64_t sums_size = tiles * static_cast<int64_t>(kAmxRows * kAmxColumns);  // of a block
    ParallelFor(static_cast<size_t>((single + together - 1) / together), [&](size_t task, int) {
      Scratch& scratch = ThisThread();
      std::vector<int64_t> blocks;
      for (int64_t b = static_cast<int64_t>(task) * together;
           b < std::min(single, (static_cast<int64_t>(task) + 1) * together); ++b) {
        blocks.push_back(b);
        if (partners > 0) blocks.push_back(b + partners);
      }
      scratch.sums.Resize(2 * kPanelBlocks * sums_size);
      scratch.panel.Resize(kAmxPanelBytes);
      ConfigureAmxTiles();
      for (int64_t step = 0; step < sizes.steps; step += kMaxAmxPanelSteps) {
        const int64_t steps = std::min<int64_t>(kMaxAmxPanelSteps, sizes.steps - step);
        const auto weights_of = [&](size_t i, int64_t at) {
          return operands.weights + blocks[i] * sizes.block_bytes + at * kAmxStepBytes;
        };
        for (size_t i = 0; i < blocks.size(); ++i) {
          // What is multiplied next.
          const bool last = i + 1 == blocks.size();
          const int64_t next_step = last ? step + steps : step;
          const int64_t next_steps = std::min(steps, sizes.steps - next_step);
          const size_t half_lines = next_steps * kAmxStepBytes / UpcomingLines::kLineBytes / 2;
          const auto* next = reinterpret_cast<const char*>(weights_of(last ? 0 : i + 1, next_step));
          float* const sums = scratch.sums.data() + static_cast<int64_t>(i) * sums_size;
          for (const size_t half : {0, 1}) {
            PackAmxPanel(weights_of(i, step), half, steps, scratch.panel.data());
            const UpcomingLines::Lines upcoming{
                next + half * half_lines * UpcomingLines::kLineBytes, half_lines};
            const uint8_t* const a = row_tiles.data() + step * kAmxTileBytes;
            float* const to = sums + half * kAmxPanelColumns;
            if (int8) {
              AmxPanelProduct(a, tiles, stride, scratch.panel.data(), steps, step == 0, upcoming,
                              reinterpret_cast<int32_t*>(to));
            } else {
              AmxPanelProduct(reinterpret_cast<const bf16*>(a), tiles, stride, scratch.panel.data(),
                              steps, step == 0, upcoming, to);
            }
          }
        }
      }
      ReleaseAmxTiles();
      finish(first, rows, blocks, scratch.sums.data(), sums_size);
    });
  }
}

// Each task streams the weights of some columns, a block at a time, which then stays in the second
// cache level for all rows. x: the rows, [rows][in], in the form that `product` takes: one like
// VnniColumnProduct but for `asking`, with weights of W.
template <typename W, typename Sum, typename X, typename Product>
void RunColumns(const PackedOperands& operands, const X* x, int64_t piece, bool on_amx,
                TakeSums take, const Product& product) {
  const Sizes sizes(operands);
  const int64_t in = operands.x.cols();
  KVASIR_CHECK(piece % kAmxStepDepth<W> == 0);
  const int64_t together = ColumnBlocksTogether(sizes);
  const int64_t tasks = (sizes.blocks + together - 1) / together;
  for (int64_t first = 0; first < operands.x.rows(); first += kRowsTogether) {
    const int64_t last = std::min(operands.x.rows(), first + kRowsTogether);
    ParallelStream(static_cast<size_t>(tasks), [&](size_t task, int) {
      constexpr size_t kMostSums = kMaxAmxColumnRows * kAmxColumns;
      AlignedBuffer<float>& buffer = ThisThread().sums;
      buffer.Resize(2 * kMostSums);
      Sum* const sums = reinterpret_cast<Sum*>(buffer.data());
      Sum* const further = sums + kMostSums;
      const int64_t begin = static_cast<int64_t>(task) * together;
      const int64_t end = std::min(sizes.blocks, begin + together);
      if (on_amx) ConfigureAmxTiles();
      for (int64_t block = begin; block < end; ++block) {
        const uint8_t* const weights = operands.weights + block * sizes.block_bytes;
        // The next task's too, which mostly follows in this thread.
        const uint8_t* asked_end = operands.weights + sizes.blocks * sizes.block_bytes;
        for (int64_t row = first; row < last; row += kMaxAmxColumnRows) {
          const int64_t rows = std::min<int64_t>(kMaxAmxColumnRows, last - row);
          for (int64_t k = 0; k < in; k += piece) {
            product(x + row * in + k, in, rows, std::min(piece, in - k),
                    weights + k * kAmxColumns * sizeof(W), asked_end, k == 0 ? sums : further);
            if (k == 0) continue;
            const int64_t count = rows * static_cast<int64_t>(kAmxColumns);
            for (int64_t i = 0; i < count; ++i) sums[i] += further[i];
          }
          for (int64_t r = 0; r < rows; ++r)
            take(row + r, block * kAmxColumns, sums + r * kAmxColumns);
          asked_end = weights;  // everything is here
        }
      }
      if (on_amx) ReleaseAmxTiles();
    });
  }
}

// Many rows by all columns in tasks of some blocks. Rows are widened into chunks of kFmaPanelDepth
// inputs, [chunk][rows][kFmaPanelDepth], each of which stays in the second cache level for a task's
// blocks.
void RunWidenedPanels(const PackedOperands& operands, int64_t piece, TakeSums take) {
  constexpr int64_t kDepth = kFmaPanelDepth;
  const Sizes sizes(operands);
  const int64_t in = operands.x.cols();
  KVASIR_CHECK(piece % kDepth == 0 || piece >= in);
  const int64_t chunk_bytes = kDepth * static_cast<int64_t>(kAmxColumns * sizeof(bf16));
  const int64_t together = std::max<int64_t>(
      1, std::min(kPanelBlocks, sizes.blocks / (kTasksPerThread * ComputeThreads())));
  const auto* const x = static_cast<const bf16*>(operands.x.data());
  AlignedBuffer<float>& widened = ThisThread().widened;
  for (int64_t first = 0; first < operands.x.rows(); first += kRowsTogether) {
    const int64_t rows = std::min(kRowsTogether, operands.x.rows() - first);
    widened.Resize(rows * in);
    ParallelFor(static_cast<size_t>(rows), [&](size_t r, int) {
      const auto row = static_cast<int64_t>(r);
      for (int64_t k = 0; k < in; k += kDepth) {
        const int64_t depth = std::min(kDepth, in - k);
        ToFloats(x + (first + row) * in + k, depth, widened.data() + k * rows + row * depth);
      }
    });
    ParallelFor(static_cast<size_t>((sizes.blocks + together - 1) / together), [&](size_t task,
                                                                                   int) {
      Scratch& scratch = ThisThread();
      const int64_t begin = static_cast<int64_t>(task) * together;
      const int64_t count = std::min(together, sizes.blocks - begin);
      const int64_t block_sums = rows * static_cast<int64_t>(kAmxColumns);
      scratch.sums.Resize(2 * count * block_sums);
      scratch.panel.Resize(kFmaPanelDepth * kAmxColumns * sizeof(float));
      float* const totals = scratch.sums.data();
      float* const further = totals + count * block_sums;
      auto* const panel = reinterpret_cast<float*>(scratch.panel.data());
      const uint8_t* const weights = operands.weights + begin * sizes.block_bytes;
      for (int64_t k = 0; k < in; k += kDepth) {
        const int64_t depth = std::min(kDepth, in - k);
        float* const sums = k < piece ? totals : further;
        for (int64_t b = 0; b < count; ++b) {
          const uint8_t* const from = weights + b * sizes.block_bytes + k / kDepth * chunk_bytes;
          // What is multiplied next, mostly: of the next block, or the first one's next chunk.
          const uint8_t* const next =
              b + 1 < count ? from + sizes.block_bytes : weights + (k / kDepth + 1) * chunk_bytes;
          WidenPanel(from, kAmxColumns, depth, panel);
          FmaPanelProduct(widened.data() + k * rows, rows, depth, panel, k % piece == 0,
                          {reinterpret_cast<const char*>(next),
                           static_cast<size_t>(chunk_bytes) / UpcomingLines::kLineBytes},
                          sums + b * block_sums, kAmxColumns);
        }
        const bool piece_ends = k + depth == in || (k + depth) % piece == 0;
        if (!piece_ends || sums == totals) continue;
        for (int64_t i = 0; i < count * block_sums; ++i) totals[i] += further[i];
      }
      for (int64_t b = 0; b < count; ++b) {
        for (int64_t r = 0; r < rows; ++r) {
          take(first + r, (begin + b) * kAmxColumns, totals + b * block_sums + r * kAmxColumns);
        }
      }
    });
  }
}

// `product` as RunColumns takes it.
template <typename X, typename Sum>
auto Asks(void (*product)(const X*, size_t, size_t, size_t, const void*, const void*, StreamAsking,
                          Sum*)) {
  return [product, asking = Asking()](const X* x, size_t stride, size_t rows, size_t depth,
                                      const void* weights, const void* weights_end, Sum* sums) {
    product(x, stride, rows, depth, weights, weights_end, asking, sums);
  };
}

}  // namespace

void RunAmxColumns(const PackedOperands& operands, TakeSums take) {
  const auto product = [](const auto* x, size_t, size_t rows, size_t depth, const void* weights,
                          const void* weights_end, auto* sums) {
    AmxColumnProduct(x, rows, depth, weights, weights_end, sums);
  };
  const int64_t in = operands.x.cols();
  const void* const x = operands.x.data();
  if (operands.x.compute_type() == ComputeType::kBf16) {
    RunColumns<bf16, float>(operands, static_cast<const bf16*>(x), in, /*on_amx=*/true, take,
                            product);
  } else {
    RunColumns<int8_t, int32_t>(operands, static_cast<const uint8_t*>(x), in, /*on_amx=*/true, take,
                                product);
  }
}

void RunAvx512Columns(const PackedOperands& operands, int64_t piece, TakeSums take) {
  const void* const x = operands.x.data();
  if (operands.x.compute_type() == ComputeType::kBf16) {
    RunColumns<bf16, float>(operands, static_cast<const bf16*>(x), piece, /*on_amx=*/false, take,
                            Asks(Bf16ColumnProduct));
  } else {
    RunColumns<int8_t, int32_t>(operands, static_cast<const uint8_t*>(x), piece, /*on_amx=*/false,
                                take, Asks(VnniColumnProduct));
  }
}

void RunWidened(const PackedOperands& operands, int64_t piece, TakeSums take) {
  KVASIR_CHECK(operands.x.compute_type() == ComputeType::kBf16);
  const int64_t rows = operands.x.rows();
  if (rows > kMostWidenedInColumns) return RunWidenedPanels(operands, piece, take);
  AlignedBuffer<float>& widened = ThisThread().widened;
  const int64_t values = rows * operands.x.cols();
  widened.Resize(values);
  ToFloats(static_cast<const bf16*>(operands.x.data()), values, widened.data());
  RunColumns<bf16, float>(operands, widened.data(), piece, /*on_amx=*/false, take,
                          Asks(FmaColumnProduct));
}

void RunAmxPanels(const PackedOperands& operands, TakeSums take) {
  RunPanels(operands, /*partners=*/0,
            [&](int64_t first, int64_t rows, const std::vector<int64_t>& blocks, const float* sums,
                int64_t sums_size) {
              for (size_t i = 0; i < blocks.size(); ++i) {
                const float* const block = sums + static_cast<int64_t>(i) * sums_size;
                for (int64_t r = 0; r < rows; ++r)
                  take(first + r, blocks[i] * kAmxColumns, block + r * kAmxColumns);
              }
            });
}

void RunAmxPanelPairs(const PackedOperands& operands, TakeSumPairs take) {
  KVASIR_CHECK(operands.out % (2 * kAmxColumns) == 0);
  RunPanels(operands, /*partners=*/operands.out / 2 / static_cast<int64_t>(kAmxColumns),
            [&](int64_t first, int64_t rows, const std::vector<int64_t>& blocks, const float* sums,
                int64_t sums_size) {
              for (size_t i = 0; i < blocks.size(); i += 2) {
                const float* const block = sums + static_cast<int64_t>(i) * sums_size;
                for (int64_t r = 0; r < rows; ++r) {
                  const float* const row = block + r * kAmxColumns;
                  take(first + r, blocks[i] * kAmxColumns, row, row + sums_size);
                }
              }
            });
}

}  // namespace kvasir
