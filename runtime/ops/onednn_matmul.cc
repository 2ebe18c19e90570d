#include "runtime/ops/onednn_matmul.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "dnnl.hpp"
#include "kvcache/check.h"
#include "runtime/base/parallel.h"
#include "runtime/base/status_macros.h"
#include "runtime/kernels/elementwise_kernels.h"
#include "runtime/ops/weight_packing.h"

namespace kvasir {
namespace {

using dnnl::memory;

// Rows at which the layout is asked for; any would give the same (see the header).
constexpr int64_t kLayoutRows = 64;

// int8 products run in tiles of this many rows: the s32 sums of a tile are then still in the
// last-level cache when the epilogue reads them. Measured on out = 8192 (8 MiB of sums): 0.86 of
// the bare product's rate, against 0.83 with 128 rows and 0.84 with 64.
constexpr int64_t kInt8TileRows = 256;

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

// One primitive with its memory objects, whose data pointers are set before each execution.
struct Product {
  dnnl::matmul primitive;
  memory source, bias, target, scratch;
  size_t scratch_bytes = 0;
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
      linear->layout_ =
          linear->Describe(kLayoutRows, /*accumulate=*/false, std::nullopt).weights_desc();
      const int limit = OneDnnHasExactInt8() ? 127 : kInt8LimitWithoutVnni;
      KVASIR_ASSIGN_OR_RETURN(linear->packed_, PackWeights(parts, biases, compute_type, limit,
                                                           linear->layout_, Engine()));
      linear->weights_ = memory(linear->layout_, Engine(), linear->packed_.data.get());
      linear->GetProduct(1, /*accumulate=*/false);  // refuses here, not in the step loop
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
    if (compute_type_ == ComputeType::kInt8) max_rows = std::min(max_rows, kInt8TileRows);
    const int64_t last = RoundUpRows(max_rows);
    for (int64_t rows = 1; rows <= last; rows = RoundUpRows(rows + 1)) {
      GetProduct(rows, false);
      if (compute_type_ != ComputeType::kInt8) GetProduct(rows, true);
    }
  }

  int64_t in_features() const override { return in_; }
  int64_t out_features() const override { return out_; }
  size_t packed_bytes() const override { return packed_.bytes; }

 private:
  // Only f32 and bf16 products have the bias and the sum inside the primitive.
  bool FusesBias() const { return compute_type_ != ComputeType::kInt8 && packed_.bias.size() > 0; }

  // layout: absent = let oneDNN choose. Throws dnnl::error.
  dnnl::matmul::primitive_desc Describe(int64_t rows, bool accumulate,
                                        std::optional<memory::desc> layout) const {
    using tag = memory::format_tag;
    const memory::desc source({rows, in_}, SourceType(compute_type_), tag::ab);
    const memory::desc weights =
        layout.has_value() ? *layout
                           : memory::desc({in_, out_}, WeightType(compute_type_), tag::any);
    const memory::desc target({rows, out_}, SumType(compute_type_), tag::ab);
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (accumulate) {
      dnnl::post_ops sum;
      sum.append_sum(1.0f);
      attributes.set_post_ops(sum);
    }
    if (FusesBias()) {
      const memory::desc bias({1, out_}, memory::data_type::f32, tag::ab);
      return {dnnl::matmul::desc(source, weights, bias, target), attributes, Engine()};
    }
    return {dnnl::matmul::desc(source, weights, target), attributes, Engine()};
  }

  Product& GetProduct(int64_t rows, bool accumulate) {
    const auto key = std::make_pair(rows, accumulate);
    const auto found = products_.find(key);
    if (found != products_.end()) return found->second;
    const auto description = Describe(rows, accumulate, layout_);
    Product product;
    product.primitive = dnnl::matmul(description);
    product.source = memory(description.src_desc(), Engine(), DNNL_MEMORY_NONE);
    product.target = memory(description.dst_desc(), Engine(), DNNL_MEMORY_NONE);
    product.scratch = memory(description.scratchpad_desc(), Engine(), DNNL_MEMORY_NONE);
    product.scratch_bytes = description.scratchpad_desc().get_size();
    if (FusesBias()) {
      product.bias = memory(description.bias_desc(), Engine(), packed_.bias.data());
    }
    return products_.emplace(key, std::move(product)).first->second;
  }

  // The C interface: the C++ one builds two containers per execution.
  void Execute(Product& product, const void* x, void* y) {
    RunScratch& scratch = Scratch();
    if (scratch.primitive.size() < product.scratch_bytes)
      scratch.primitive.Resize(product.scratch_bytes);
    product.source.set_data_handle(const_cast<void*>(x));
    product.target.set_data_handle(y);
    product.scratch.set_data_handle(scratch.primitive.data());
    dnnl_exec_arg_t arguments[5] = {{DNNL_ARG_SRC, product.source.get()},
                                    {DNNL_ARG_WEIGHTS, weights_.get()},
                                    {DNNL_ARG_DST, product.target.get()},
                                    {DNNL_ARG_SCRATCHPAD, product.scratch.get()},
                                    {}};
    int count = 4;
    if (FusesBias()) arguments[count++] = {DNNL_ARG_BIAS, product.bias.get()};
    const dnnl_status_t status =
        dnnl_primitive_execute(product.primitive.get(), Stream().get(), count, arguments);
    KVASIR_CHECK(status == dnnl_success);  // shapes were accepted when the primitive was made
  }

  void RunFloat(const MatmulInput& x, MatrixView y, bool accumulate) {
    const int64_t rows = RoundUpRows(x.rows());
    if (y.stride == out_) {
      Execute(GetProduct(rows, accumulate), x.data(), y.data);
      return;
    }
    // oneDNN's fast implementation writes dense rows only.
    RunScratch& scratch = Scratch();
    scratch.dense.Resize(rows * out_);
    Execute(GetProduct(rows, false), x.data(), scratch.dense.data());
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
    RunScratch& scratch = Scratch();
    const float* bias = packed_.bias.size() > 0 ? packed_.bias.data() : nullptr;
    for (int64_t begin = 0; begin < x.rows(); begin += kInt8TileRows) {
      const int64_t count = std::min(kInt8TileRows, x.rows() - begin);
      const int64_t rows = RoundUpRows(count);
      scratch.sums.Resize(rows * out_);
      const auto* source = static_cast<const uint8_t*>(x.data()) + begin * in_;
      Execute(GetProduct(rows, false), source, scratch.sums.data());
      Dequantize(scratch.sums.data(), x.row_scales() + begin, count, bias, accumulate, y, begin);
    }
  }

  // Splits columns as well as rows: a decode step has few rows and wide outputs.
  void Dequantize(const int32_t* sums, const float* row_scales, int64_t count, const float* bias,
                  bool accumulate, MatrixView y, int64_t first_row) {
    constexpr int64_t kColumns = 2048;
    constexpr int64_t kSerialElements = 64 * 1024;  // about 5 microseconds on one core
    const int64_t strips = (out_ + kColumns - 1) / kColumns;
    const auto one = [&](size_t index, int) {
      const int64_t r = static_cast<int64_t>(index) / strips;
      const int64_t begin = static_cast<int64_t>(index) % strips * kColumns;
      const int64_t n = std::min(kColumns, out_ - begin);
      DequantizeRow(sums + r * out_ + begin, packed_.column_sums.data() + begin,
                    packed_.column_scales.data() + begin, bias == nullptr ? nullptr : bias + begin,
                    row_scales[r], accumulate, n, y.row(first_row + r) + begin);
    };
    if (count * out_ < kSerialElements) {
      for (int64_t i = 0; i < count * strips; ++i) one(i, 0);
    } else {
      ParallelFor(count * strips, one);
    }
  }

  ComputeType compute_type_ = ComputeType::kF32;
  int64_t in_ = 0;
  int64_t out_ = 0;
  memory::desc layout_;
  PackedWeights packed_;
  memory weights_;                                        // borrows packed_.data
  std::map<std::pair<int64_t, bool>, Product> products_;  // by padded rows and accumulate
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
