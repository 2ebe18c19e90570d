#include "runtime/ops/onednn_matmul.h"

#include <algorithm>
#include <compare>
#include <cstring>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/parallel.h"
#include "base/status_macros.h"
#include "dnnl.hpp"
#include "runtime/kernels/elementwise_kernels.h"
#include "runtime/ops/weight_packing.h"

namespace kvasir {
namespace {

using dnnl::memory;

// Rows at which the layout is asked for; any would give the same (see the header).
constexpr int64_t kLayoutRows = 64;

// int8 products run in tiles of this many rows: the s32 sums of a tile are then still in a cache
// when the epilogue reads them.
constexpr int64_t kInt8TileRows = 256;

// With more rows than this, a tile is cut further into strips of columns, each computed and scaled
// by one core while its sums (512 KiB at most) are in that core's second cache level. Measured with
// 512 rows, 2048 x 8192: 0.97 of the bare product's rate, against 0.93 with the epilogue after the
// whole width. Fewer rows are bound by reading the weights, which strips do not speed up.
constexpr int64_t kMostUnstripedRows = 32;
constexpr int64_t kMostStripColumns = 512;
constexpr int64_t kFewestStripColumns = 64;  // columns per block of oneDNN's layout

// Strips per thread that the narrower strips of small outputs aim at, so that cores end together.
constexpr int64_t kStripsPerThread = 4;

// With int8 weights limited to this on CPUs without VNNI, 255 * 63 * 2 < 2^15 does not saturate.
constexpr int kInt8LimitWithoutVnni = 63;

const dnnl::engine& Engine() {
  static const dnnl::engine* const engine = new dnnl::engine(dnnl::engine::kind::cpu, 0);
  return *engine;
}

const dnnl::stream& Stream() {
  // oneDNN's CPU streams run in the caller and hold no state, but give each thread its own all the
  // same.
  thread_local const dnnl::stream stream(Engine());
  return stream;
}

// Of the calling thread, shared by all its products: scratch and s32 sums live only during one Run.
struct RunScratch {
  AlignedBuffer<uint8_t> primitive;  // oneDNN's user scratchpad
  AlignedBuffer<int32_t> sums;       // [rows][out], int8 only
  AlignedBuffer<float> dense;        // [rows][out], when y is strided
};

RunScratch& Scratch() {
  thread_local RunScratch scratch;
  return scratch;
}

memory::data_type SourceType(ComputeType type) {
  switch (type) {
    case ComputeType::kF32:
      return memory::data_type::f32;
    case ComputeType::kBf16:
      return memory::data_type::bf16;
    case ComputeType::kInt8:
      return memory::data_type::u8;
  }
  return memory::data_type::undef;
}

memory::data_type WeightType(ComputeType type) {
  return type == ComputeType::kInt8 ? memory::data_type::s8 : SourceType(type);
}

memory::data_type SumType(ComputeType type) {
  return type == ComputeType::kInt8 ? memory::data_type::s32 : memory::data_type::f32;
}

// What one execution works on; the data pointers are set before each.
struct Operands {
  memory source, weights, bias, target, scratch;
};

// One primitive. Executions at the same time need operands of their own: a strip's has them for
// every thread; the others run on the whole team and have one.
struct Product {
  dnnl::matmul primitive;
  std::vector<Operands> operands;  // [threads]
  size_t scratch_bytes = 0;
};

// Which of a layer's products: for so many rows (rounded up) and columns.
struct Shape {
  int64_t rows = 0;
  int64_t columns = 0;
  bool accumulate = false;
  bool strip = false;  // on one thread, over a part of the columns

  auto operator<=>(const Shape&) const = default;
};

class OneDnnLinear : public Linear {
 public:
  static absl::StatusOr<std::unique_ptr<Linear>> Create(absl::Span<const StoredMatrix> parts,
                                                        absl::Span<const StoredMatrix> biases,
                                                        ComputeType compute_type) {
    auto linear = std::make_unique<OneDnnLinear>();
    linear->compute_type_ = compute_type;
    linear->in_ = parts[0].cols;
    for (const StoredMatrix& part : parts) linear->out_ += part.rows;
    try {
      linear->layout_ = linear->Describe({kLayoutRows, linear->out_}, std::nullopt).weights_desc();
      const int limit = OneDnnHasExactInt8() ? 127 : kInt8LimitWithoutVnni;
      KVASIR_ASSIGN_OR_RETURN(linear->packed_, PackWeights(parts, biases, compute_type, limit,
                                                           linear->layout_, Engine()));
      linear->GetProduct({1, linear->out_}, 1);  // refuses here, not in the step loop
      linear->ChooseStrips();
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
    if (compute_type_ == ComputeType::kInt8) {
      RunInt8(x, y, accumulate);
    } else {
      RunFloat(x, y, accumulate);
    }
  }

  void Warm(int64_t max_rows) override {
    const bool int8 = compute_type_ == ComputeType::kInt8;
    if (int8) max_rows = std::min(max_rows, kInt8TileRows);
    const int64_t last = RoundUpRows(max_rows);
    for (int64_t rows = 1; rows <= last; rows = RoundUpRows(rows + 1)) {
      if (strip_columns_ == 0 || rows <= kMostUnstripedRows) GetProduct({rows, out_}, 1);
      if (!int8) GetProduct({rows, out_, /*accumulate=*/true}, 1);
      if (strip_columns_ > 0) {
        for (const int64_t columns : {strip_columns_, LastStripColumns()}) {
          GetProduct({rows, columns, false, /*strip=*/true}, ComputeThreads());
        }
      }
    }
  }

  int64_t in_features() const override { return in_; }
  int64_t out_features() const override { return out_; }
  size_t packed_bytes() const override { return packed_.bytes; }

 private:
  // Only f32 and bf16 products have the bias and the sum inside the primitive.
  bool FusesBias() const { return compute_type_ != ComputeType::kInt8 && packed_.bias.size() > 0; }

  // layout: absent = let oneDNN choose. Throws dnnl::error.
  dnnl::matmul::primitive_desc Describe(const Shape& shape,
                                        std::optional<memory::desc> layout) const {
    using tag = memory::format_tag;
    const memory::desc source({shape.rows, in_}, SourceType(compute_type_), tag::ab);
    const memory::desc weights =
        layout.has_value()
            ? *layout
            : memory::desc({in_, shape.columns}, WeightType(compute_type_), tag::any);
    const memory::desc target({shape.rows, shape.columns}, SumType(compute_type_), tag::ab);
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (shape.accumulate) {
      dnnl::post_ops sum;
      sum.append_sum(1.0f);
      attributes.set_post_ops(sum);
    }
    if (FusesBias()) {
      const memory::desc bias({1, shape.columns}, memory::data_type::f32, tag::ab);
      return {dnnl::matmul::desc(source, weights, bias, target), attributes, Engine()};
    }
    return {dnnl::matmul::desc(source, weights, target), attributes, Engine()};
  }

  // The first `columns` columns' part of the packed weights. Throws dnnl::error.
  memory::desc StripLayout(int64_t columns) const {
    return layout_.submemory_desc({in_, columns}, {0, 0});
  }

  // Sets strip_columns_ where strips are contiguous parts of the packed weights. Elsewhere
  // (oneDNN's int8 products on AVX2) it stays 0.
  void ChooseStrips() {
    if (compute_type_ != ComputeType::kInt8 || out_ % kFewestStripColumns != 0) return;
    const int64_t blocks = out_ / kFewestStripColumns;
    const int64_t wanted = kStripsPerThread * ComputeThreads();
    const int64_t columns =
        std::min(kMostStripColumns, (blocks + wanted - 1) / wanted * kFewestStripColumns);
    try {
      const memory::desc block = StripLayout(kFewestStripColumns);
      if (block.get_size() * blocks != layout_.get_size()) return;
      const SerialScope serial;
      const absl::string_view implementation =
          Describe({kInt8TileRows, columns, false, /*strip=*/true}, StripLayout(columns))
              .impl_info_str();
      if (!absl::StartsWith(implementation, "brg:")) return;  // others may be references, or slow
      strip_columns_ = columns;
      column_bytes_ = block.get_size() / kFewestStripColumns;
    } catch (const dnnl::error&) {
      return;  // a layout that cannot be cut, or a product that oneDNN has for the whole only
    }
  }

  int64_t NumStrips() const { return (out_ + strip_columns_ - 1) / strip_columns_; }
  int64_t LastStripColumns() const { return out_ - (NumStrips() - 1) * strip_columns_; }

  // With operands for `threads` executions at a time.
  Product& GetProduct(const Shape& shape, size_t threads) {
    Product& product = products_[shape];
    if (product.operands.size() >= threads) return product;
    std::optional<SerialScope> serial;
    if (shape.strip) serial.emplace();
    const auto description = Describe(shape, shape.strip ? StripLayout(shape.columns) : layout_);
    product.primitive = dnnl::matmul(description);
    product.scratch_bytes = description.scratchpad_desc().get_size();
    while (product.operands.size() < threads) {
      Operands operands;
      operands.source = memory(description.src_desc(), Engine(), DNNL_MEMORY_NONE);
      operands.weights = memory(description.weights_desc(), Engine(), packed_.data.get());
      operands.target = memory(description.dst_desc(), Engine(), DNNL_MEMORY_NONE);
      operands.scratch = memory(description.scratchpad_desc(), Engine(), DNNL_MEMORY_NONE);
      if (FusesBias()) {
        operands.bias = memory(description.bias_desc(), Engine(), packed_.bias.data());
      }
      product.operands.push_back(std::move(operands));
    }
    return product;
  }

  // The C interface: the C++ one builds two containers per execution.
  void Execute(const Product& product, const Operands& operands, const void* x, void* y) const {
    RunScratch& scratch = Scratch();
    if (scratch.primitive.size() < product.scratch_bytes)
      scratch.primitive.Resize(product.scratch_bytes);
    operands.source.set_data_handle(const_cast<void*>(x));
    operands.target.set_data_handle(y);
    operands.scratch.set_data_handle(scratch.primitive.data());
    dnnl_exec_arg_t arguments[5] = {{DNNL_ARG_SRC, operands.source.get()},
                                    {DNNL_ARG_WEIGHTS, operands.weights.get()},
                                    {DNNL_ARG_DST, operands.target.get()},
                                    {DNNL_ARG_SCRATCHPAD, operands.scratch.get()},
                                    {}};
    int count = 4;
    if (FusesBias()) arguments[count++] = {DNNL_ARG_BIAS, operands.bias.get()};
    const dnnl_status_t status =
        dnnl_primitive_execute(product.primitive.get(), Stream().get(), count, arguments);
    KVASIR_CHECK(status == dnnl_success);  // shapes were accepted when the primitive was made
  }

  void ExecuteWhole(int64_t rows, bool accumulate, const void* x, void* y) {
    const Product& product = GetProduct({rows, out_, accumulate}, 1);
    Execute(product, product.operands[0], x, y);
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
    if (strip_columns_ > 0 && x.rows() > kMostUnstripedRows) {
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
    const int64_t strips = NumStrips();
    const int64_t tiles = (x.rows() + kInt8TileRows - 1) / kInt8TileRows;
    const int64_t last_count = x.rows() - (tiles - 1) * kInt8TileRows;
    // Got here, for the tasks must not change products_: [last tile][last strip].
    const Product* products[2][2];
    for (const bool last_tile : {false, true}) {
      for (const bool last_strip : {false, true}) {
        const Shape shape{last_tile ? RoundUpRows(last_count) : kInt8TileRows,
                          last_strip ? LastStripColumns() : strip_columns_, false, /*strip=*/true};
        products[last_tile][last_strip] = &GetProduct(shape, ComputeThreads());
      }
    }
    // A strip's tiles one after the other: its weights are then in a cache.
    ParallelFor(strips * tiles, [&](size_t index, int thread) {
      const int64_t strip = static_cast<int64_t>(index) / tiles;
      const int64_t tile = static_cast<int64_t>(index) % tiles;
      const bool last_strip = strip + 1 == strips, last_tile = tile + 1 == tiles;
      const Product& product = *products[last_tile][last_strip];
      const int64_t column = strip * strip_columns_, row = tile * kInt8TileRows;
      const int64_t columns = last_strip ? LastStripColumns() : strip_columns_;
      AlignedBuffer<int32_t>& sums = Scratch().sums;
      sums.Resize(kInt8TileRows * columns);
      const Operands& operands = product.operands[thread];
      operands.weights.set_data_handle(static_cast<uint8_t*>(packed_.data.get()) +
                                       column * column_bytes_);
      Execute(product, operands, Int8Rows(x, row), sums.data());
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
  memory::desc layout_;
  PackedWeights packed_;
  int64_t strip_columns_ = 0;          // of every strip but the last; 0 = no strips
  size_t column_bytes_ = 0;            // of packed weights, set with strip_columns_
  std::map<Shape, Product> products_;  // borrow packed_
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
