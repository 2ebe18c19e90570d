#include "runtime/ops/quantized/quantized_matmul.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/parallel.h"
#include "base/status_macros.h"
#include "runtime/kernels/amx_attention_kernels.h"
#include "runtime/kernels/blocks/block_kernels.h"
#include "runtime/kernels/blocks/block_rows.h"
#include "runtime/kernels/blocks/block_tiles.h"
#include "runtime/kernels/columns/amx_column_kernels.h"
#include "runtime/kernels/convert.h"
#include "runtime/ops/onednn_matmul.h"
#include "runtime/ops/product_choice.h"
#include "runtime/ops/product_timing.h"
#include "runtime/ops/quantized/block_packing.h"
#include "runtime/ops/quantized/float_tiles.h"
#include "runtime/ops/quantized/product_rows.h"
#include "runtime/ops/quantized/product_scratch.h"
#include "runtime/ops/quantized/tile_products.h"
#include "runtime/ops/weight_packing.h"

namespace kvasir {
namespace {

constexpr int64_t kTilePanels = kTileOutputs / kPanelRows;
static_assert(kTileOutputs == kAmxColumns);

// Rows that oneDNN multiplies with a tile of bf16: their sums (64 KiB) stay in a core's cache.
constexpr int64_t kTileRows = 256;

// Panels are handed out in runs of about this many bytes: so short that cores end together. A
// core's next run mostly follows the one that it has read.
constexpr int64_t kRunBytes = 32 * 1024;
constexpr int64_t kTileRunBytes = 4 * kRunBytes;  // where tiles are configured for each run

// Rows that take one unpacking of the weights on AMX: their sums with eight panels (256 KiB) stay
// in a core's cache.
constexpr int64_t kBlockTileBatch = 512;

// Rows that take one unpacking of the weights as bytes: their sums with kMaxRowPanels panels
// (256 KiB) stay in a core's cache.
constexpr int64_t kBlockRowsBatch = 512;
constexpr int64_t kRunsOfThread = 16;

// Up to so many rows two panels' sums are all that a core has under way, and a panel is unpacked
// while it is read; with more, eight panels share what is read of the inputs.
constexpr int64_t kFewTileRows = 64;

// A stored matrix, where its outputs begin among all, and in which order it takes the inputs.
struct Part {
  PackedBlocks blocks;
  int64_t column = 0;
  size_t order = 0;  // into the linear's list
  bool block_tiles = false;
  bool block_rows = false;
};

// How a part is multiplied.
enum class Way {
  kDots,        // as it is read
  kBlockRows,   // codes that are bytes in a core's cache (block_rows.h)
  kTiles,       // unpacked tiles of 64 outputs: all inputs in bf16, or a chunk of them in f32
  kBlockTiles,  // chunks that are unpacked while they are read (block_tiles.h)
};

class QuantizedLinear : public Linear {
 public:
  QuantizedLinear(absl::Span<const StoredMatrix> parts, absl::Span<const StoredMatrix> biases,
                  ComputeType compute_type)
      : exact_(compute_type == ComputeType::kF32),
        input_type_(EffectiveComputeType(compute_type)),
        tiles_in_bf16_(!exact_ && OneDnnHasBf16()),
        amx_(tiles_in_bf16_ && HasAmxProducts()),
        in_(parts[0].cols) {
    for (const StoredMatrix& part : parts) {
      parts_.push_back({PackBlocks(part), out_, OrderOf(part)});
      const size_t kind = parts_.back().blocks.kind;
      parts_.back().block_tiles = amx_ && HasBlockTiles(kind);
      parts_.back().block_rows = !amx_ && !exact_ && HasBlockRows(kind);
      out_ += part.rows;
    }
    if (!biases.empty()) bias_ = StackBiases(parts, biases);
  }

  absl::Span<const Part> parts() const { return parts_; }
  void Run(const MatmulInput& x, MatrixView y, bool accumulate) override {
    KVASIR_CHECK(x.compute_type() == input_type_ && x.cols() == in_ && y.stride >= out_);
    if (x.rows() == 0) return;
    for (size_t order = 0; order < orders_.size(); ++order) {
      if (Has(Way::kDots, x.rows(), order)) RunDots(x, order, y, accumulate);
      if (Has(Way::kBlockRows, x.rows(), order)) RunBlockRows(x, order, y, accumulate);
      if (Has(Way::kTiles, x.rows(), order)) {
        if (tiles_in_bf16_) {
          RunTiles(x, order, y, accumulate);
        } else {
          RunFloatTiles(x, order, y, accumulate);
        }
      }
      if (Has(Way::kBlockTiles, x.rows(), order)) RunBlockTiles(x, order, y, accumulate);
    }
  }

  void Warm(int64_t max_rows) override {
    WarmPrimitives(max_rows);
    Measure();
  }

  // Throws dnnl::error where oneDNN refuses.
  void WarmPrimitives(int64_t max_rows) const {
    const auto is_ours = [](const Part& part) { return part.block_rows; };
    if (amx_ || !tiles_in_bf16_ || absl::c_all_of(parts_, is_ours)) return;  // has no primitives
    const int64_t last = RoundUpRows(std::min(max_rows, kTileRows));
    for (int64_t rows = RoundUpRows(kMaxBlockwiseRows + 1); rows <= last;
         rows = RoundUpRows(rows + 1)) {
      TileProduct(rows, in_, ComputeThreads());
    }
  }

  int64_t in_features() const override { return in_; }
  int64_t out_features() const override { return out_; }
  size_t packed_bytes() const override {
    size_t bytes = 0;
    for (const Part& part : parts_) bytes += part.blocks.data.size();
    return bytes;
  }
  void CountBytes(WeightBytes* bytes) const override {
    for (const Part& part : parts_) {
      (*bytes)[Info(part.blocks.format).name] += part.blocks.data.size();
    }
  }

  bool has_rows() const override { return orders_.size() == 1 && orders_[0].empty(); }
  void ReadRow(int64_t row, float* out) const override {
    KVASIR_CHECK(has_rows() && row >= 0 && row < out_);
    const auto part = std::find_if(parts_.begin(), parts_.end(),
                                   [row](const Part& p) { return row < p.column + p.blocks.rows; });
    part->blocks.ReadRow(row - part->column, out);
  }

 private:
  // Panels [begin, end) of one part.
  struct PanelRun {
    const Part* part;
    int64_t begin, end;
  };

  // The list's entry for a part's order of inputs. Parts that are fused have been quantised by the
  // same inputs and mostly share theirs.
  size_t OrderOf(const StoredMatrix& part) {
    std::vector<int32_t> order;
    if (part.input_order != nullptr) order.assign(part.input_order, part.input_order + in_);
    const auto found = std::find(orders_.begin(), orders_.end(), order);
    const auto index = static_cast<size_t>(found - orders_.begin());
    if (found == orders_.end()) orders_.push_back(std::move(order));
    return index;
  }

  // One row of x in an order of the list. `scratch`: [2][in], the result is one of both.
  const float* OrderedRow(const MatmulInput& x, int64_t row, size_t order, float* scratch) const {
    RowAsFloats(x, row, scratch);
    const std::vector<int32_t>& inputs = orders_[order];
    if (inputs.empty()) return scratch;
    float* ordered = scratch + in_;
    for (int64_t i = 0; i < in_; ++i) ordered[i] = scratch[inputs[i]];
    return ordered;
  }

  // Few rows have the same numbers by dots and by block rows, and take what is faster; measured
  // once for a shape, as ProductFamily has it.
  void Measure() {
    if (exact_ || packed_bytes() < kLeastMeasuredBytes) return;
    using Shape = std::tuple<size_t, int64_t, int64_t, int>;
    thread_local std::map<Shape, ProductChoice> choices;
    const Shape shape{parts_[0].blocks.kind, in_, out_, ComputeThreads()};
    if (const auto found = choices.find(shape); found != choices.end()) {
      few_ = found->second;
      return;
    }
    std::vector<absl::Span<const uint8_t>> weights;
    for (const Part& part : parts_)
      weights.emplace_back(part.blocks.data.data(), part.blocks.data.size());
    ProductTimer timer(input_type_, kMaxBlockwiseRows, in_, out_);
    const ProductChoice unmeasured = few_;
    const auto time = [&](ProductWay way, int64_t rows) {
      few_ = ProductChoice(way, 0, way);
      return timer.Time(rows, weights, [&](const MatmulInput& x, MatrixView y) {
        Run(x, y, /*accumulate=*/false);
      });
    };
    ChooseAsking(packed_bytes(), [&] { return time(kDots, 1); });
    few_ = unmeasured;
    if (absl::c_any_of(parts_, [](const Part& part) { return part.block_rows; })) {
      few_ = MeasureChoice(unmeasured, {kDots, kBlockRows}, timer.most_rows(), kMeasuringSeconds,
                           time);
    }
    choices.emplace(shape, few_);
  }

  Way WayOf(const Part& part, int64_t rows) const {
    if (!exact_ && rows <= kMaxBlockwiseRows) {
      return part.block_rows && few_.For(rows) == kBlockRows ? Way::kBlockRows : Way::kDots;
    }
    if (part.block_rows) return Way::kBlockRows;
    if (!exact_ && !tiles_in_bf16_) return Way::kDots;
    return part.block_tiles ? Way::kBlockTiles : Way::kTiles;
  }
  bool Has(Way way, int64_t rows, size_t order) const {
    return std::any_of(parts_.begin(), parts_.end(), [&](const Part& part) {
      return part.order == order && WayOf(part, rows) == way;
    });
  }

  // The panels of the parts of one order that are multiplied in a way, in runs of at most `panels`.
  std::vector<PanelRun> Runs(int64_t panels, size_t order, Way way, int64_t rows) const {
    std::vector<PanelRun> runs;
    for (const Part& part : parts_) {
      if (part.order != order || WayOf(part, rows) != way) continue;
      const int64_t count = part.blocks.num_panels();
      for (int64_t begin = 0; begin < count; begin += panels) {
        runs.push_back({&part, begin, std::min(count, begin + panels)});
      }
    }
    return runs;
  }

  // `count` outputs of the part from its panel `panel` on, of one row of y; in whole panels, of
  // which compilers make a few vectors.
  void Finish(const Part& part, int64_t panel, const float* from, int64_t count, bool accumulate,
              float* y) const {
    const int64_t column = part.column + panel * kPanelRows;
    const float factor = part.blocks.factor;
    const float* bias = bias_.size() > 0 ? bias_.data() + column : nullptr;
    float* to = y + column;
    for (; count >= kPanelRows; count -= kPanelRows) {
      FinishPanel(from, factor, bias, kPanelRows, accumulate, to);
      from += kPanelRows;
      to += kPanelRows;
      if (bias != nullptr) bias += kPanelRows;
    }
    FinishPanel(from, factor, bias, count, accumulate, to);
  }

  // --- Few rows ---

  QuantizedInputs Quantize(const MatmulInput& x, size_t order) const {
    InputScratch& scratch = Inputs();
    scratch.row.Resize(2 * in_ * ComputeThreads());
    return scratch.codes.Set(x.rows(), in_, [&](int64_t r, int thread) {
      return OrderedRow(x, r, order, scratch.row.data() + thread * 2 * in_);
    });
  }

  void RunDots(const MatmulInput& x, size_t order, MatrixView y, bool accumulate) const {
    const QuantizedInputs inputs = Quantize(x, order);
    const int64_t rows = x.rows();
    const int64_t widest = parts_[0].blocks.panel_bytes;
    const int64_t run_panels =
        rows > kMaxBlockwiseRows ? 1 : std::max<int64_t>(1, kRunBytes / widest);
    const std::vector<PanelRun> runs = Runs(run_panels, order, Way::kDots, rows);
    ParallelStream(runs.size(), [&, asking = Asking()](size_t index, int) {
      const PanelRun& run = runs[index];
      AlignedBuffer<float>& sums = Tiles().products;
      sums.Resize(rows * kPanelRows);
      for (int64_t p = run.begin; p < run.end; ++p) {
        const int64_t count = std::min<int64_t>(kPanelRows, run.part->blocks.rows - p * kPanelRows);
        BlockDot(run.part->blocks.panel(p), inputs, static_cast<int>(rows), asking, sums.data());
        for (int64_t r = 0; r < rows; ++r) {
          Finish(*run.part, p, sums.data() + r * kPanelRows, count, accumulate, y.row(r));
        }
      }
    });
  }

  // --- Many rows ---

  // Panels of a run: they share what is read of the inputs, but cores should end together.
  int64_t RowPanels() const {
    const int64_t each = out_ / kPanelRows / (ComputeThreads() * kRunsOfThread);
    return std::clamp<int64_t>(each / 2 * 2, 2, kMaxRowPanels);
  }

  void RunBlockRows(const MatmulInput& x, size_t order, MatrixView y, bool accumulate) const {
    const QuantizedInputs inputs = Quantize(x, order);
    const int64_t rows = x.rows();
    const std::vector<PanelRun> runs = Runs(RowPanels(), order, Way::kBlockRows, rows);
    ParallelFor(runs.size(), [&](size_t index, int) {
      const auto& [part, begin, end] = runs[index];
      TileScratch& scratch = Tiles();
      scratch.records.Resize(BlockRowsScratch(std::min(rows, kBlockRowsBatch)));
      const int count = static_cast<int>(end - begin);
      const int64_t stride = count * kPanelRows;
      scratch.products.Resize(RoundUpBlockRows(std::min(rows, kBlockRowsBatch)) * stride);
      BlockPanel panels[kMaxRowPanels];
      for (int p = 0; p < count; ++p) panels[p] = part->blocks.panel(begin + p);
      const int64_t outputs = std::min(part->blocks.rows - begin * kPanelRows, stride);
      for (int64_t first = 0; first < rows; first += kBlockRowsBatch) {
        const int64_t together = std::min(kBlockRowsBatch, rows - first);
        BlockRowsProduct(panels, count, inputs.From(first), together, scratch.records.data(),
                         scratch.products.data());
        for (int64_t r = 0; r < together; ++r) {
          Finish(*part, begin, scratch.products.data() + r * stride, outputs, accumulate,
                 y.row(first + r));
        }
      }
    });
  }

  size_t element_bytes() const { return tiles_in_bf16_ ? sizeof(bf16) : sizeof(float); }

  // x in the tiles' type, [ReadableRows(rows)][in].
  const uint8_t* TileInputs(const MatmulInput& x, size_t order) const {
    if (orders_[order].empty() &&
        input_type_ == (tiles_in_bf16_ ? ComputeType::kBf16 : ComputeType::kF32)) {
      return static_cast<const uint8_t*>(x.data());
    }
    InputScratch& scratch = Inputs();
    scratch.row.Resize(2 * in_ * ComputeThreads());
    scratch.values.Resize(ReadableRows(x.rows()) * in_ * element_bytes());
    ParallelFor(static_cast<size_t>(x.rows()), [&](size_t r, int thread) {
      uint8_t* to = scratch.values.data() + r * in_ * element_bytes();
      const float* row = OrderedRow(x, static_cast<int64_t>(r), order,
                                    scratch.row.data() + static_cast<int64_t>(thread) * 2 * in_);
      if (tiles_in_bf16_) {
        FromFloats(row, in_, reinterpret_cast<bf16*>(to));
      } else {
        std::memcpy(to, row, in_ * sizeof(float));
      }
    });
    return scratch.values.data();
  }

  void UnpackTile(const PanelRun& run, uint8_t* tile) const {
    if (run.end - run.begin < kTilePanels) std::memset(tile, 0, in_ * kTileOutputs * sizeof(bf16));
    for (int64_t p = run.begin; p < run.end; ++p) {
      const int64_t output = (p - run.begin) * kPanelRows;
      BlockUnpack(run.part->blocks.panel(p), in_, reinterpret_cast<bf16*>(tile) + 2 * output,
                  2 * kTileOutputs);
    }
  }

  void RunTiles(const MatmulInput& x, size_t order, MatrixView y, bool accumulate) const {
    const uint8_t* inputs = TileInputs(x, order);
    const int64_t rows = x.rows();
    const int64_t tile_rows = amx_ ? static_cast<int64_t>(kMaxAmxColumnRows) : kTileRows;
    const int64_t last_rows = (rows - 1) % tile_rows + 1;
    const Product* last = nullptr;
    const Product* full = nullptr;
    if (!amx_) {
      last = &TileProduct(RoundUpRows(last_rows), in_, ComputeThreads());
      if (rows > tile_rows) full = &TileProduct(tile_rows, in_, ComputeThreads());
    }
    const std::vector<PanelRun> runs = Runs(kTilePanels, order, Way::kTiles, rows);
    ParallelFor(runs.size(), [&](size_t index, int thread) {
      const PanelRun& run = runs[index];
      TileScratch& scratch = Tiles();
      scratch.tile.Resize(in_ * kTileOutputs * sizeof(bf16));
      scratch.products.Resize(tile_rows * kTileOutputs);
      UnpackTile(run, scratch.tile.data());
      const int64_t count =
          std::min(run.part->blocks.rows, run.end * kPanelRows) - run.begin * kPanelRows;
      if (amx_) ConfigureAmxTiles();
      for (int64_t begin = 0; begin < rows; begin += tile_rows) {
        const int64_t together = std::min(tile_rows, rows - begin);
        const uint8_t* const from = inputs + begin * in_ * sizeof(bf16);
        const void* const tile = scratch.tile.data();
        float* const products = scratch.products.data();
        if (amx_) {
          AmxColumnProduct(reinterpret_cast<const bf16*>(from), together, in_, tile, tile,
                           products);
        } else {
          (together == tile_rows && full != nullptr ? full : last)
              ->Execute(thread, from, tile, /*bias=*/nullptr, products);
        }
        for (int64_t r = 0; r < together; ++r) {
          Finish(*run.part, run.begin, products + r * kTileOutputs, count, accumulate,
                 y.row(begin + r));
        }
      }
      if (amx_) ReleaseAmxTiles();
    });
  }

  void RunFloatTiles(const MatmulInput& x, size_t order, MatrixView y, bool accumulate) const {
    const auto* const inputs = reinterpret_cast<const float*>(TileInputs(x, order));
    const std::vector<PanelRun> runs = Runs(kFloatTilePanels, order, Way::kTiles, x.rows());
    ParallelFor(runs.size(), [&](size_t index, int) {
      const auto& [part, begin, end] = runs[index];
      FloatTileScratch& scratch = Tiles().floats;
      const int64_t count = std::min(part->blocks.rows, end * kPanelRows) - begin * kPanelRows;
      for (int64_t row = 0; row < x.rows(); row += kFloatTileRows) {
        const int64_t rows = std::min(kFloatTileRows, x.rows() - row);
        FloatTileProduct(part->blocks, begin, end, inputs + row * in_, rows, in_, &scratch);
        for (int64_t r = 0; r < rows; ++r) {
          Finish(*part, begin, scratch.sums.data() + r * kFloatTileColumns, count, accumulate,
                 y.row(row + r));
        }
      }
    });
  }

  void RunBlockTiles(const MatmulInput& x, size_t order, MatrixView y, bool accumulate) const {
    const auto* const inputs = reinterpret_cast<const bf16*>(TileInputs(x, order));
    for (int64_t begin = 0; begin < x.rows(); begin += kBlockTileBatch) {
      const int64_t rows = std::min(kBlockTileBatch, x.rows() - begin);
      RunBlockTiles(inputs + begin * in_, order, {y.row(begin), rows, y.cols, y.stride}, x.rows(),
                    accumulate);
    }
  }

  // `all_rows`: of the whole product, which says how parts are multiplied.
  void RunBlockTiles(const bf16* inputs, size_t order, MatrixView y, int64_t all_rows,
                     bool accumulate) const {
    const int64_t rows = y.rows;
    AlignedBuffer<bf16>& tiles = Inputs().tiles;
    tiles.Resize(PackedInputValues(rows, in_));
    constexpr int64_t kChunkInputs = int64_t{kChunkSteps} * kStepInputs;
    ParallelFor(static_cast<size_t>((in_ + kChunkInputs - 1) / kChunkInputs),
                [&](size_t chunk, int) {
                  PackTileInputs(inputs, rows, in_, static_cast<int64_t>(chunk), tiles.data());
                });
    const bool few = rows <= kFewTileRows;
    const int64_t together = few ? 2 : kMaxBlockTilePanels;
    const int64_t run_panels =
        few ? std::max(together, kTileRunBytes / parts_[0].blocks.panel_bytes / 2 * 2) : together;
    const std::vector<PanelRun> runs = Runs(run_panels, order, Way::kBlockTiles, all_rows);
    ParallelFor(runs.size(), [&](size_t index, int) {
      const PanelRun& run = runs[index];
      TileScratch& scratch = Tiles();
      scratch.weights.Resize(TileWeightValues(static_cast<int>(together)));
      scratch.products.Resize(TileSums(static_cast<int>(together), rows));
      ConfigureAmxTiles();
      for (int64_t first = run.begin; first < run.end; first += together) {
        const int count = static_cast<int>(std::min(together, run.end - first));
        BlockPanel panels[kMaxBlockTilePanels];
        for (int p = 0; p < count; ++p) panels[p] = run.part->blocks.panel(first + p);
        BlockTileProduct(panels, count, tiles.data(), rows, in_, scratch.weights.data(),
                         scratch.products.data());
        for (int p = 0; p < count; ++p) {
          const int64_t panel = first + p;
          const int64_t outputs =
              std::min<int64_t>(kPanelRows, run.part->blocks.rows - panel * kPanelRows);
          for (int64_t r = 0; r < rows; ++r) {
            const int64_t tile = r / kBlockTileRows * count + p;
            const int64_t sums = (tile * kBlockTileRows + r % kBlockTileRows) * kPanelRows;
            Finish(*run.part, panel, scratch.products.data() + sums, outputs, accumulate, y.row(r));
          }
        }
      }
      ReleaseAmxTiles();
    });
  }

  // As ways of a choice.
  static constexpr ProductWay kDots = ProductWay::kColumns, kBlockRows = ProductWay::kPanels;

  const bool exact_;
  const ComputeType input_type_;
  const bool tiles_in_bf16_;
  const bool amx_;  // multiplies tiles with our own kernel
  const int64_t in_;
  int64_t out_ = 0;
  std::vector<Part> parts_;
  std::vector<std::vector<int32_t>> orders_;  // of inputs, [in] or empty: as they come
  AlignedBuffer<float> bias_;                 // [out], empty without any
  ProductChoice few_{kDots, kMaxBlockwiseRows, kBlockRows};  // of parts with block rows
};

}  // namespace

bool IsQuantized(absl::Span<const StoredMatrix> parts) {
  return std::all_of(parts.begin(), parts.end(), [](const StoredMatrix& part) {
    return HasBlockKernels(part.type) && part.cols % kStepInputs == 0;
  });
}

absl::StatusOr<std::unique_ptr<Linear>> CreateQuantizedLinear(absl::Span<const StoredMatrix> parts,
                                                              absl::Span<const StoredMatrix> biases,
                                                              ComputeType compute_type) {
  auto linear = std::make_unique<QuantizedLinear>(parts, biases, compute_type);
  for (const Part& part : linear->parts()) KVASIR_RETURN_IF_ERROR(part.blocks.Check(part.column));
  try {
    linear->WarmPrimitives(kMaxBlockwiseRows + 1);  // refuses here, not in the step loop
  } catch (const dnnl::error& error) {
    return absl::InternalError(absl::StrCat("oneDNN refuses a tile of quantised weights of ",
                                            linear->in_features(), " inputs: ", error.what()));
  }
  return std::unique_ptr<Linear>(std::move(linear));
}

}  // namespace kvasir
