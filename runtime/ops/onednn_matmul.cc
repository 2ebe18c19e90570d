#include "runtime/ops/onednn_matmul.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <random>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/parallel.h"
#include "base/status_macros.h"
#include "dnnl.hpp"
#include "runtime/kernels/amx_attention_kernels.h"
#include "runtime/kernels/bf16_attention_kernels.h"
#include "runtime/kernels/columns/amx_column_kernels.h"
#include "runtime/kernels/columns/avx512_column_kernels.h"
#include "runtime/kernels/elementwise_kernels.h"
#include "runtime/ops/for_each_row.h"
#include "runtime/ops/onednn_products.h"
#include "runtime/ops/packed_products.h"
#include "runtime/ops/product_choice.h"
#include "runtime/ops/product_timing.h"
#include "runtime/ops/weight_packing.h"

namespace kvasir {
namespace {

// int8 products run in tiles of this many rows: the s32 sums of a tile are then still in a cache
// when the epilogue reads them.
constexpr int64_t kInt8TileRows = 256;

// With more rows than this, a tile is cut further into strips of columns (onednn_products.h). Fewer
// rows are bound by reading the weights, which strips do not speed up.
constexpr int64_t kMaxUnstripedRows = 32;

// What holds where nothing has been measured: on AMX, more rows than this are bound by computing
// rather than by reading the weights; and with VNNI.
constexpr int64_t kFewRowsOnAmx = 128;
constexpr int64_t kFewRowsOnVnni = 64;
constexpr int64_t kFewRowsInBf16 = 16;

// More rows of bf16 are bound by computing, and which instructions do it best is known before.
constexpr int64_t kMostMeasuredInBf16 = 32;

// With int8 weights limited to this on CPUs without VNNI, 255 * 63 * 2 < 2^15 does not saturate.
constexpr int kInt8LimitWithoutVnni = 63;

// Of the calling thread, shared by all its products: they live only during one Run.
struct RunScratch {
  AlignedBuffer<int32_t> sums;  // [rows][out], int8 only
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
      linear->FindWays();
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
    RunBy(WayFor(x.rows()), x, y, accumulate);
  }

  // With many rows on AMX, gates are activated while a task has them in its caches. For int8 they
  // wait in `scratch` until the whole row is there, which its scale is of.
  void RunGated(const MatmulInput& x, Activation activation, MatrixView scratch,
                MatmulInput* out) override {
    const int64_t half = out_ / 2;
    if (WayFor(x.rows()) != ProductWay::kPanels || half % kAmxColumns != 0) {
      Linear::RunGated(x, activation, scratch, out);
      return;
    }
    KVASIR_CHECK(x.compute_type() == compute_type_ && x.cols() == in_ && scratch.stride >= half);
    out->Resize(x.rows(), half);
    const bool int8 = compute_type_ == ComputeType::kInt8;
    auto* const to = static_cast<bf16*>(out->mutable_data());
    RunAmxPanelPairs({x, packed_.data.data(), out_},
                     [&](int64_t row, int64_t column, const void* gates, const void* ups) {
                       float gate[kAmxColumns], up[kAmxColumns];
                       Finish(x, row, column, gates, /*accumulate=*/false, gate);
                       Finish(x, row, column + half, ups, /*accumulate=*/false, up);
                       if (int8) {
                         ActivateRow(activation, gate, up, kAmxColumns, scratch.row(row) + column);
                       } else {
                         ActivateRow(activation, gate, up, kAmxColumns, to + row * half + column);
                       }
                     });
    if (!int8) return;
    ForEachRow(x.rows(), half, [&](int64_t r) { out->SetRow(r, scratch.row(r)); });
  }

  void Warm(int64_t max_rows) override {
    if (ways_.front() == ProductWay::kOneDnn) WarmPrimitives(max_rows);
    if (ways_.size() > 1 && !Products().choice().has_value()) Measure(max_rows);
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

  // The ways that this product can go, all equal to the bit, and which it goes where nothing is
  // measured. Sums of bf16 depend on their order: without AMX ours take oneDNN's, once it is found.
  void FindWays() {
    const bool int8 = compute_type_ == ComputeType::kInt8;
    if (!Products().IsColumnLayout()) return;
    if (HasAmxProducts() && OneDnnHasAmx()) {
      on_amx_ = true;
      ways_ = {ProductWay::kColumns, ProductWay::kPanels};
      unmeasured_ = {ProductWay::kColumns, kFewRowsOnAmx, ProductWay::kPanels};
    } else if (int8 && OneDnnHasExactInt8()) {
      ways_ = {ProductWay::kOneDnn, ProductWay::kColumns};
      unmeasured_ = {ProductWay::kColumns, kFewRowsOnVnni, ProductWay::kOneDnn};
    } else if (!int8 && HasBf16Products()) {
      ways_ = {ProductWay::kOneDnn, ProductWay::kColumns};
      if (FmasEqualBf16Products()) ways_.push_back(ProductWay::kWidened);
    }
  }

  ProductWay WayFor(int64_t rows) const {
    if (ways_.size() < 2) return ways_.front();
    const std::optional<ProductChoice>& choice = Products().choice();
    return choice.has_value() ? choice->For(rows) : unmeasured_.For(rows);
  }

  void RunBy(ProductWay way, const MatmulInput& x, MatrixView y, bool accumulate) {
    if (way == ProductWay::kOneDnn) {
      if (compute_type_ == ComputeType::kInt8) {
        RunInt8(x, y, accumulate);
      } else {
        RunFloat(x, y, accumulate);
      }
      return;
    }
    const auto take = [&](int64_t row, int64_t column, const void* sums) {
      Finish(x, row, column, sums, accumulate, y.row(row) + column);
    };
    const PackedOperands operands{x, packed_.data.data(), out_};
    if (way == ProductWay::kPanels) {
      RunAmxPanels(operands, take);
    } else if (way == ProductWay::kWidened) {
      RunWidened(operands, Products().piece(), take);
    } else if (on_amx_) {
      RunAmxColumns(operands, take);
    } else {
      const bool int8 = compute_type_ == ComputeType::kInt8;
      RunAvx512Columns(operands, int8 ? in_ : Products().piece(), take);
    }
  }

  // On the first weights of this shape, which come from memory, as they do in a step.
  void Measure(int64_t max_rows) {
    ProductFamily& products = Products();
    products.SetChoice(unmeasured_);
    if (packed_bytes() < kLeastMeasuredBytes) return;
    const bool in_order = compute_type_ == ComputeType::kBf16 && !on_amx_;
    if (in_order) {
      if (!FindPiece()) return;
      products.SetChoice(
          FmasOutrunBf16Products()
              ? ProductChoice(ProductWay::kColumns, 1, ProductWay::kWidened)
              : ProductChoice(ProductWay::kColumns, kFewRowsInBf16, ProductWay::kOneDnn));
    }
    ProductTimer timer(compute_type_,
                       std::min(max_rows, in_order ? kMostMeasuredInBf16 : kMeasuredRows.back()),
                       in_, out_);
    const absl::Span<const uint8_t> weights[] = {{packed_.data.data(), packed_bytes()}};
    const auto time = [&](ProductWay way, int64_t rows) {
      return timer.Time(rows, weights, [&](const MatmulInput& x, MatrixView y) {
        RunBy(way, x, y, /*accumulate=*/false);
      });
    };
    if (!on_amx_) ChooseAsking(packed_bytes(), [&] { return time(ProductWay::kColumns, 1); });
    ProductChoice choice =
        MeasureChoice(*products.choice(), ways_, timer.most_rows(), kMeasuringSeconds, time);
    if (in_order) KeepToOneOrder(&choice);
    products.SetChoice(choice);
  }

  // Finds the piece with which our columns give oneDNN's bits; one that is not tried here leaves
  // all products to it. Seen: the largest power of two up to 1024 (2.6, 3.7), for one row 512
  // (3.7).
  bool FindPiece() {
    for (const int64_t piece : {int64_t{1024}, int64_t{512}, int64_t{256}, int64_t{128},
                                int64_t{64}, in_, int64_t{4096}, int64_t{2048}}) {  // likely first
      if (piece > in_) continue;
      Products().SetPiece(piece);
      if (OursGivesTheSame(kMostMeasuredInBf16)) return true;
    }
    Products().SetPiece(0);
    return false;
  }

  // Where oneDNN gives fewer rows other bits than more, few are always ours: no result depends on
  // what was faster.
  void KeepToOneOrder(ProductChoice* choice) {
    for (const int64_t rows : {1, 2, 4, 8, 16}) {
      if (choice->For(rows) == ProductWay::kOneDnn && !OursGivesTheSame(rows)) {
        choice->Set(rows, ProductWay::kColumns);
      }
    }
  }

  bool OursGivesTheSame(int64_t rows) {
    std::minstd_rand random(1);
    std::uniform_real_distribution<float> value(-1.0f, 1.0f);
    MatmulInput x(compute_type_);
    x.Resize(rows, in_);
    std::vector<float> row(in_);
    for (int64_t r = 0; r < rows; ++r) {
      for (float& v : row) v = value(random);
      x.SetRow(r, row.data());
    }
    const int64_t values = RoundUpRows(rows) * out_;
    AlignedBuffer<float> one(values), other(values);
    for (const bool accumulate : {false, true}) {
      if (accumulate) std::memcpy(other.data(), one.data(), values * sizeof(float));
      RunBy(ProductWay::kOneDnn, x, {one.data(), rows, out_, out_}, accumulate);
      RunBy(ProductWay::kColumns, x, {other.data(), rows, out_, out_}, accumulate);
      if (std::memcmp(one.data(), other.data(), rows * out_ * sizeof(float)) != 0) return false;
    }
    return true;
  }

  void WarmPrimitives(int64_t max_rows) {
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

  ProductFamily& Products() const {
    return ProductsOf({compute_type_, in_, out_, fuses_bias_, ComputeThreads()});
  }

  const float* FusedBias() const { return fuses_bias_ ? packed_.bias.data() : nullptr; }

  void ExecuteWhole(int64_t rows, bool accumulate, const void* x, void* y) const {
    Products()
        .Get({rows, out_, accumulate}, 1)
        .Execute(/*thread=*/0, x, packed_.data.data(), FusedBias(), y);
  }

  // y = or += a row's sums of a block of columns, scaled and with the bias.
  void Finish(const MatmulInput& x, int64_t row, int64_t column, const void* sums, bool accumulate,
              float* y) const {
    if (compute_type_ == ComputeType::kInt8) {
      Dequantize(static_cast<const int32_t*>(sums), column, kAmxColumns, x.row_scales()[row],
                 accumulate, y);
      return;
    }
    const auto* const values = static_cast<const float*>(sums);
    const float* const bias = fuses_bias_ ? packed_.bias.data() + column : nullptr;
    for (size_t j = 0; j < kAmxColumns; ++j) {
      const float value = values[j] + (bias == nullptr ? 0.0f : bias[j]);
      y[j] = accumulate ? y[j] + value : value;
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
                   y.row(row + r) + column);
      }
    });
  }

  const void* Int8Rows(const MatmulInput& x, int64_t first_row) const {
    return static_cast<const uint8_t*>(x.data()) + first_row * in_;
  }

  // Columns [column, column + count) of one row, to y[0] and on.
  void Dequantize(const int32_t* sums, int64_t column, int64_t count, float row_scale,
                  bool accumulate, float* y) const {
    DequantizeRow(sums, packed_.column_sums.data() + column, packed_.column_scales.data() + column,
                  packed_.bias.size() > 0 ? packed_.bias.data() + column : nullptr, row_scale,
                  accumulate, count, y);
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
                 accumulate, y.row(first_row + r) + column);
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
  bool on_amx_ = false;  // columns
  std::vector<ProductWay> ways_ = {ProductWay::kOneDnn};
  ProductChoice unmeasured_{ProductWay::kOneDnn, 0, ProductWay::kOneDnn};
  bool fuses_bias_ = false;  // f32 and bf16 products have bias and sum inside the primitive
  PackedWeights packed_;
};

bool OneDnnUses(dnnl::cpu_isa isa) {
  const auto needed = static_cast<unsigned>(isa);
  return (static_cast<unsigned>(dnnl::get_effective_cpu_isa()) & needed) == needed;
}

}  // namespace

bool OneDnnHasBf16() { return OneDnnUses(dnnl::cpu_isa::avx512_core_bf16); }
bool OneDnnHasExactInt8() { return OneDnnUses(dnnl::cpu_isa::avx512_core_vnni); }
bool OneDnnHasAvx512() { return OneDnnUses(dnnl::cpu_isa::avx512_core); }
bool OneDnnHasAmx() { return OneDnnUses(dnnl::cpu_isa::avx512_core_amx); }

absl::StatusOr<std::unique_ptr<Linear>> CreateOneDnnLinear(absl::Span<const StoredMatrix> parts,
                                                           absl::Span<const StoredMatrix> biases,
                                                           ComputeType compute_type) {
  return OneDnnLinear::Create(parts, biases, compute_type);
}

}  // namespace kvasir
