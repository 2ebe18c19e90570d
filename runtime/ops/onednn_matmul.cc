#include "runtime/ops/onednn_matmul.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/parallel.h"
#include "base/status_macros.h"
#include "dnnl.hpp"
#include "runtime/kernels/amx_attention_kernels.h"
#include "runtime/kernels/amx_column_kernels.h"
#include "runtime/kernels/elementwise_kernels.h"
#include "runtime/ops/onednn_products.h"
#include "runtime/ops/weight_packing.h"

namespace kvasir {
namespace {

// int8 products run in tiles of this many rows: the s32 sums of a tile are then still in a cache
// when the epilogue reads them.
constexpr int64_t kInt8TileRows = 256;

// With more rows than this, a tile is cut further into strips of columns (onednn_products.h). Fewer
// rows are bound by reading the weights, which strips do not speed up.
constexpr int64_t kMaxUnstripedRows = 32;

// With int8 weights limited to this on CPUs without VNNI, 255 * 63 * 2 < 2^15 does not saturate.
constexpr int kInt8LimitWithoutVnni = 63;

// Of the calling thread, shared by all its products: they live only during one Run.
struct RunScratch {
  AlignedBuffer<int32_t> sums;  // [rows][out], int8 only
  AlignedBuffer<float> block;   // [rows][kAmxColumns], or s32 sums
  AlignedBuffer<float> dense;   // [rows][out], when y is strided
};

RunScratch& Scratch() {
  thread_local RunScratch scratch;
  return scratch;
}

class OneDnnLinear : public Linear {
 public:
  static absl::StatusOr<std::unique_ptr<Linear>> Create(absl::Span<const StoredMatrix> parts,
                                                        absl::Span<const StoredMatrix> biases,
                                                        ComputeType compute_type) {
    auto linear = std::make_unique<OneDnnLinear>();
    linear->compute_type_ = compute_type;
    linear->in_ = parts[0].cols;
    for (const StoredMatrix& part : parts) linear->out_ += part.rows;
    linear->fuses_bias_ = compute_type != ComputeType::kInt8 && HasBias(biases);
    try {
      const int limit = OneDnnHasExactInt8() ? 127 : kInt8LimitWithoutVnni;
      KVASIR_ASSIGN_OR_RETURN(linear->packed_,
                              PackWeights(parts, biases, compute_type, limit,
                                          linear->Products().layout(), CpuEngine()));
      linear->by_columns_ = linear->CanRunColumns();
    } catch (const dnnl::error& error) {
      return absl::InternalError(absl::StrCat("oneDNN refuses a product with weights [",
                                              linear->out_, ", ", linear->in_,
                                              "]: ", error.what()));
    }
    return linear;
  }

  void Run(const MatmulInput& x, MatrixView y, bool accumulate) override {
    KVASIR_CHECK(x.compute_type() == compute_type_ && x.cols() == in_ && y.stride >= out_);
    if (x.rows() == 0) return;
    if (by_columns_) {
      RunColumns(x, y, accumulate);
      return;
    }
    if (compute_type_ == ComputeType::kInt8) {
      RunInt8(x, y, accumulate);
    } else {
      RunFloat(x, y, accumulate);
    }
  }

  void Warm(int64_t max_rows) override {
    if (by_columns_) return;  // uses no primitives
    const bool int8 = compute_type_ == ComputeType::kInt8;
    if (int8) max_rows = std::min(max_rows, kInt8TileRows);
    const int64_t last = RoundUpRows(max_rows);
    ProductFamily& products = Products();
    const bool strips = products.strip_columns() > 0;
    for (int64_t rows = 1; rows <= last; rows = RoundUpRows(rows + 1)) {
      if (!strips || rows <= kMaxUnstripedRows) products.Get({rows, out_}, 1);
      if (!int8) products.Get({rows, out_, /*accumulate=*/true}, 1);
      if (!strips) continue;
      for (const int64_t columns : {products.strip_columns(), products.last_strip_columns()}) {
        products.Get({rows, columns, false, /*strip=*/true}, ComputeThreads());
      }
    }
  }

  int64_t in_features() const override { return in_; }
  int64_t out_features() const override { return out_; }
  size_t packed_bytes() const override { return packed_.data.size(); }
  void CountBytes(WeightBytes* bytes) const override {
    (*bytes)[compute_type_ == ComputeType::kInt8   ? "int8"
             : compute_type_ == ComputeType::kBf16 ? "bf16"
                                                   : "f32"] += packed_bytes();
  }

 private:
  static bool HasBias(absl::Span<const StoredMatrix> biases) {
    return std::any_of(biases.begin(), biases.end(),
                       [](const StoredMatrix& bias) { return bias.data != nullptr; });
  }

  int64_t element_bytes() const {
    return compute_type_ == ComputeType::kInt8 ? 1 : static_cast<int64_t>(sizeof(bf16));
  }

  ProductFamily& Products() const {
    return ProductsOf({compute_type_, in_, out_, fuses_bias_, ComputeThreads()});
  }

  const float* FusedBias() const { return fuses_bias_ ? packed_.bias.data() : nullptr; }

  void ExecuteWhole(int64_t rows, bool accumulate, const void* x, void* y) const {
    Products()
        .Get({rows, out_, accumulate}, 1)
        .Execute(/*thread=*/0, x, packed_.data.data(), FusedBias(), y);
  }

  // Whether AmxColumnProduct computes all products here.
  bool CanRunColumns() const { return HasAmxProducts() && Products().IsAmxColumnLayout(); }

  // On AMX. Each task streams the weights of some columns, a block at a time, which then stays in
  // the second cache level for all rows.
  void RunColumns(const MatmulInput& x, MatrixView y, bool accumulate) const {
    const size_t block_bytes = kAmxColumns * in_ * element_bytes();
    const int64_t blocks = out_ / kAmxColumns;
    const int64_t blocks_together = BlocksTogether(blocks, block_bytes);
    const int64_t tasks = (blocks + blocks_together - 1) / blocks_together;
    // More rows would not stay in the caches from one block to the next.
    constexpr int64_t kRowsTogether = 512;
    for (int64_t first = 0; first < x.rows(); first += kRowsTogether) {
      const int64_t last = std::min(x.rows(), first + kRowsTogether);
      ParallelFor(static_cast<size_t>(tasks), [&](size_t task, int) {
        Scratch().block.Resize(kMaxAmxColumnRows * kAmxColumns);
        const int64_t begin = static_cast<int64_t>(task) * blocks_together;
        const int64_t end = std::min(blocks, begin + blocks_together);
        ConfigureAmxTiles();
        for (int64_t block = begin; block < end; ++block) {
          const uint8_t* const weights = packed_.data.data() + block * block_bytes;
          const uint8_t* asked_end = packed_.data.data() + end * block_bytes;
          for (int64_t row = first; row < last; row += kMaxAmxColumnRows) {
            const int64_t rows = std::min<int64_t>(kMaxAmxColumnRows, last - row);
            RunBlock(x, row, rows, block, weights, asked_end, accumulate, y);
            asked_end = weights;  // everything is here
          }
        }
        ReleaseAmxTiles();
      });
    }
  }

  // Rows [row, row + rows) with one block of columns, through the calling thread's Scratch().block.
  void RunBlock(const MatmulInput& x, int64_t row, int64_t rows, int64_t block,
                const uint8_t* weights, const uint8_t* weights_end, bool accumulate,
                MatrixView y) const {
    const int64_t column = block * static_cast<int64_t>(kAmxColumns);
    float* const sums = Scratch().block.data();
    if (compute_type_ == ComputeType::kBf16) {
      AmxColumnProduct(static_cast<const bf16*>(x.data()) + row * in_, rows, in_, weights,
                       weights_end, sums);
      for (int64_t r = 0; r < rows; ++r) {
        StoreColumns(sums + r * kAmxColumns, column, accumulate, y.row(row + r));
      }
      return;
    }
    auto* const whole = reinterpret_cast<int32_t*>(sums);
    AmxColumnProduct(static_cast<const uint8_t*>(x.data()) + row * in_, rows, in_, weights,
                     weights_end, whole);
    for (int64_t r = 0; r < rows; ++r) {
      Dequantize(whole + r * kAmxColumns, column, kAmxColumns, x.row_scales()[row + r], accumulate,
                 y.row(row + r));
    }
  }

  // Long enough streams for the first lines' wait to be little, short enough for threads to end
  // together.
  static int64_t BlocksTogether(int64_t blocks, size_t block_bytes) {
    constexpr size_t kStreamBytes = 256 * 1024;
    constexpr int64_t kTasksPerThread = 4;
    const auto wanted = static_cast<int64_t>(kStreamBytes / block_bytes);
    const int64_t even = blocks / (kTasksPerThread * ComputeThreads());
    return std::max<int64_t>(1, std::min(wanted, even));
  }

  // A block of columns of one row of y.
  void StoreColumns(const float* sums, int64_t column, bool accumulate, float* y) const {
    const float* const bias = fuses_bias_ ? packed_.bias.data() + column : nullptr;
    float* const to = y + column;
    for (size_t j = 0; j < kAmxColumns; ++j) {
      const float value = sums[j] + (bias == nullptr ? 0.0f : bias[j]);
      to[j] = accumulate ? to[j] + value : value;
    }
  }

  void RunFloat(const MatmulInput& x, MatrixView y, bool accumulate) {
    const int64_t rows = RoundUpRows(x.rows());
    if (y.stride == out_) {
      ExecuteWhole(rows, accumulate, x.data(), y.data);
      return;
    }
    // oneDNN's fast implementation writes dense rows only.
    RunScratch& scratch = Scratch();
    scratch.dense.Resize(rows * out_);
    ExecuteWhole(rows, /*accumulate=*/false, x.data(), scratch.dense.data());
    ParallelFor(x.rows(), [&](size_t r, int) {
      const float* from = scratch.dense.data() + r * out_;
      if (accumulate) {
        AddRow(from, out_, y.row(r));
      } else {
        std::memcpy(y.row(r), from, out_ * sizeof(float));
      }
    });
  }

  void RunInt8(const MatmulInput& x, MatrixView y, bool accumulate) {
    if (x.rows() > kMaxUnstripedRows && Products().strip_columns() > 0) {
      RunStrips(x, y, accumulate);
      return;
    }
    RunScratch& scratch = Scratch();
    for (int64_t begin = 0; begin < x.rows(); begin += kInt8TileRows) {
      const int64_t count = std::min(kInt8TileRows, x.rows() - begin);
      const int64_t rows = RoundUpRows(count);
      scratch.sums.Resize(rows * out_);
      ExecuteWhole(rows, /*accumulate=*/false, Int8Rows(x, begin), scratch.sums.data());
      DequantizeTile(scratch.sums.data(), x.row_scales() + begin, count, accumulate, y, begin);
    }
  }

  void RunStrips(const MatmulInput& x, MatrixView y, bool accumulate) {
    ProductFamily& products = Products();
    const int64_t strips = products.num_strips();
    const int64_t strip_columns = products.strip_columns();
    const int64_t tiles = (x.rows() + kInt8TileRows - 1) / kInt8TileRows;
    const int64_t last_count = x.rows() - (tiles - 1) * kInt8TileRows;
    // Got here, for the tasks must not change the cache: [last tile][last strip].
    const Product* chosen[2][2] = {};
    for (const bool last_tile : {false, true}) {
      if (!last_tile && tiles == 1) continue;  // Warm may not have built a full tile's
      for (const bool last_strip : {false, true}) {
        const ProductShape shape{last_tile ? RoundUpRows(last_count) : kInt8TileRows,
                                 last_strip ? products.last_strip_columns() : strip_columns, false,
                                 /*strip=*/true};
        chosen[last_tile][last_strip] = &products.Get(shape, ComputeThreads());
      }
    }
    // A strip's tiles one after the other: its weights are then in a cache.
    ParallelFor(strips * tiles, [&](size_t index, int thread) {
      const int64_t strip = static_cast<int64_t>(index) / tiles;
      const int64_t tile = static_cast<int64_t>(index) % tiles;
      const bool last_strip = strip + 1 == strips, last_tile = tile + 1 == tiles;
      const int64_t column = strip * strip_columns, row = tile * kInt8TileRows;
      const int64_t columns = last_strip ? products.last_strip_columns() : strip_columns;
      AlignedBuffer<int32_t>& sums = Scratch().sums;
      sums.Resize(kInt8TileRows * columns);
      const auto* weights = packed_.data.data() + column * products.column_bytes();
      chosen[last_tile][last_strip]->Execute(thread, Int8Rows(x, row), weights, /*bias=*/nullptr,
                                             sums.data());
      const int64_t count = last_tile ? last_count : kInt8TileRows;
      for (int64_t r = 0; r < count; ++r) {
        Dequantize(sums.data() + r * columns, column, columns, x.row_scales()[row + r], accumulate,
                   y.row(row + r));
      }
    });
  }

  const void* Int8Rows(const MatmulInput& x, int64_t first_row) const {
    return static_cast<const uint8_t*>(x.data()) + first_row * in_;
  }

  // Columns [column, column + count) of one row.
  void Dequantize(const int32_t* sums, int64_t column, int64_t count, float row_scale,
                  bool accumulate, float* y) const {
    DequantizeRow(sums, packed_.column_sums.data() + column, packed_.column_scales.data() + column,
                  packed_.bias.size() > 0 ? packed_.bias.data() + column : nullptr, row_scale,
                  accumulate, count, y + column);
  }

  // Splits columns as well as rows: a decode step has few rows and wide outputs.
  void DequantizeTile(const int32_t* sums, const float* row_scales, int64_t count, bool accumulate,
                      MatrixView y, int64_t first_row) const {
    constexpr int64_t kColumns = 2048;
    constexpr int64_t kSerialElements = 64 * 1024;  // about 5 microseconds on one core
    const int64_t parts = (out_ + kColumns - 1) / kColumns;
    const auto one = [&](size_t index, int) {
      const int64_t r = static_cast<int64_t>(index) / parts;
      const int64_t column = static_cast<int64_t>(index) % parts * kColumns;
      Dequantize(sums + r * out_ + column, column, std::min(kColumns, out_ - column), row_scales[r],
                 accumulate, y.row(first_row + r));
    };
    if (count * out_ < kSerialElements) {
      for (int64_t i = 0; i < count * parts; ++i) one(i, 0);
    } else {
      ParallelFor(count * parts, one);
    }
  }

  ComputeType compute_type_ = ComputeType::kF32;
  int64_t in_ = 0;
  int64_t out_ = 0;
  bool by_columns_ = false;
  bool fuses_bias_ = false;  // f32 and bf16 products have bias and sum inside the primitive
  PackedWeights packed_;
};

}  // namespace

bool OneDnnHasBf16() {
  const dnnl::cpu_isa isa = dnnl::get_effective_cpu_isa();
  return (static_cast<unsigned>(isa) & static_cast<unsigned>(dnnl::cpu_isa::avx512_core_bf16)) ==
         static_cast<unsigned>(dnnl::cpu_isa::avx512_core_bf16);
}

bool OneDnnHasExactInt8() {
  const dnnl::cpu_isa isa = dnnl::get_effective_cpu_isa();
  return (static_cast<unsigned>(isa) & static_cast<unsigned>(dnnl::cpu_isa::avx512_core_vnni)) ==
         static_cast<unsigned>(dnnl::cpu_isa::avx512_core_vnni);
}

absl::StatusOr<std::unique_ptr<Linear>> CreateOneDnnLinear(absl::Span<const StoredMatrix> parts,
                                                           absl::Span<const StoredMatrix> biases,
                                                           ComputeType compute_type) {
  return OneDnnLinear::Create(parts, biases, compute_type);
}

}  // namespace kvasir
