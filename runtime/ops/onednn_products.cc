#include "runtime/ops/onednn_products.h"

#include <algorithm>
#include <utility>

#include "base/aligned_buffer.h"
#include "base/check.h"
#include "base/parallel.h"
#include "runtime/kernels/columns/amx_column_kernels.h"
#include "runtime/ops/onednn_version.h"

namespace kvasir {
namespace {

using dnnl::memory;

// Rows at which the layout is asked for; any would give the same.
constexpr int64_t kLayoutRows = 64;

// Strips are computed and scaled by one core each while their sums (512 KiB at most) are in that
// core's second cache level. Measured with 512 rows, 2048 x 8192: 0.97 of the bare product's rate,
// against 0.93 with the epilogue after the whole width.
constexpr int64_t kMaxStripColumns = 512;
constexpr int64_t kFewestStripColumns = 64;  // columns per block of oneDNN's layout
constexpr int64_t kStripRows = 256;

// Strips per thread that the narrower strips of small outputs aim at, so that cores end together.
constexpr int64_t kStripsPerThread = 4;

const dnnl::stream& Stream() {
  // oneDNN's CPU streams run in the caller and hold no state, but give each thread its own all the
  // same.
  thread_local const dnnl::stream stream(CpuEngine());
  return stream;
}

// oneDNN's scratchpad of the calling thread: it lives only during one execution.
AlignedBuffer<uint8_t>& Scratchpad() {
  thread_local AlignedBuffer<uint8_t> scratchpad;
  return scratchpad;
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

}  // namespace

const dnnl::engine& CpuEngine() {
  static const dnnl::engine* const engine = new dnnl::engine(dnnl::engine::kind::cpu, 0);
  return *engine;
}

// The C interface: the C++ one builds two containers per execution.
void Product::Execute(int thread, const void* x, const void* weights, const float* bias,
                      void* y) const {
  const ProductOperands& on = operands[thread];
  AlignedBuffer<uint8_t>& scratchpad = Scratchpad();
  if (scratchpad.size() < scratch_bytes) scratchpad.Resize(scratch_bytes);
  on.source.set_data_handle(const_cast<void*>(x));
  on.weights.set_data_handle(const_cast<void*>(weights));
  on.target.set_data_handle(y);
  on.scratch.set_data_handle(scratchpad.data());
  dnnl_exec_arg_t arguments[5] = {{DNNL_ARG_SRC, on.source.get()},
                                  {DNNL_ARG_WEIGHTS, on.weights.get()},
                                  {DNNL_ARG_DST, on.target.get()},
                                  {DNNL_ARG_SCRATCHPAD, on.scratch.get()},
                                  {}};
  int count = 4;
  if (bias != nullptr) {
    on.bias.set_data_handle(const_cast<float*>(bias));
    arguments[count++] = {DNNL_ARG_BIAS, on.bias.get()};
  }
  const dnnl_status_t status =
      dnnl_primitive_execute(primitive.get(), Stream().get(), count, arguments);
  KVASIR_CHECK(status == dnnl_success);
}

ProductFamily::ProductFamily(const ProductKind& kind) : kind_(kind) {
  layout_ = Describe({kLayoutRows, kind.out}, std::nullopt).weights_desc();
  Get({1, kind.out}, 1);  // refuses here, not in the step loop
  ChooseStrips();
}

dnnl::matmul::primitive_desc ProductFamily::Describe(const ProductShape& shape,
                                                     std::optional<memory::desc> layout) const {
  using tag = memory::format_tag;
  const memory::desc source({shape.rows, kind_.in}, SourceType(kind_.compute_type), tag::ab);
  const memory::desc weights =
      layout.has_value()
          ? *layout
          : memory::desc({kind_.in, shape.columns}, WeightType(kind_.compute_type), tag::any);
  const memory::desc target({shape.rows, shape.columns}, SumType(kind_.compute_type), tag::ab);
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (shape.accumulate) {
    dnnl::post_ops sum;
    sum.append_sum(1.0f);
    attributes.set_post_ops(sum);
  }
  const memory::desc bias = kind_.bias
                                ? memory::desc({1, shape.columns}, memory::data_type::f32, tag::ab)
                                : memory::desc();
  return DescribeMatmul(source, weights, bias, target, attributes, CpuEngine());
}

// The first `columns` columns' part of the packed weights.
memory::desc ProductFamily::StripLayout(int64_t columns) const {
  return layout_.submemory_desc({kind_.in, columns}, {0, 0});
}

// Sets strip_columns_ where strips are contiguous parts of the packed weights. Elsewhere (oneDNN's
// int8 products on AVX2) it stays 0.
void ProductFamily::ChooseStrips() {
  if (kind_.compute_type != ComputeType::kInt8 || kind_.out % kFewestStripColumns != 0) return;
  const int64_t blocks = kind_.out / kFewestStripColumns;
  const int64_t wanted = kStripsPerThread * kind_.threads;
  const int64_t columns =
      std::min(kMaxStripColumns, (blocks + wanted - 1) / wanted * kFewestStripColumns);
  try {
    const memory::desc block = StripLayout(kFewestStripColumns);
    if (block.get_size() * blocks != layout_.get_size()) return;
    const SerialScope serial;
    const auto strip = Describe({kStripRows, columns, false, /*strip=*/true}, StripLayout(columns));
    if (!IsBlockedMatmul(strip.impl_info_str())) return;
    strip_columns_ = columns;
    column_bytes_ = block.get_size() / kFewestStripColumns;
  } catch (const dnnl::error&) {
    return;  // a layout that cannot be cut, or a product that oneDNN has for the whole only
  }
}

bool ProductFamily::IsColumnLayout() const {
  using tag = memory::format_tag;
  const bool int8 = kind_.compute_type == ComputeType::kInt8;
  if (!int8 && kind_.compute_type != ComputeType::kBf16) return false;
  if (kind_.out % kAmxColumns != 0) return false;
  if (kind_.in % (int8 ? kAmxStepDepth<uint8_t> : kAmxStepDepth<bf16>) != 0) return false;
  return layout_ == memory::desc({kind_.in, kind_.out}, WeightType(kind_.compute_type),
                                 int8 ? tag::BA16a64b4a : tag::BA16a64b2a);
}

const Product& ProductFamily::Get(const ProductShape& shape, size_t threads) {
  Product& product = products_[shape];
  if (product.operands.size() >= threads) return product;
  std::optional<SerialScope> serial;
  if (shape.strip) serial.emplace();
  const auto description = Describe(shape, shape.strip ? StripLayout(shape.columns) : layout_);
  product.primitive = dnnl::matmul(description);
  product.scratch_bytes = description.scratchpad_desc().get_size();
  while (product.operands.size() < threads) {
    ProductOperands operands;
    operands.source = memory(description.src_desc(), CpuEngine(), DNNL_MEMORY_NONE);
    operands.weights = memory(description.weights_desc(), CpuEngine(), DNNL_MEMORY_NONE);
    operands.target = memory(description.dst_desc(), CpuEngine(), DNNL_MEMORY_NONE);
    operands.scratch = memory(description.scratchpad_desc(), CpuEngine(), DNNL_MEMORY_NONE);
    if (kind_.bias) {
      operands.bias = memory(description.bias_desc(), CpuEngine(), DNNL_MEMORY_NONE);
    }
    product.operands.push_back(std::move(operands));
  }
  return product;
}

ProductFamily& ProductsOf(const ProductKind& kind) {
  thread_local std::map<ProductKind, ProductFamily> families;
  const auto found = families.find(kind);
  if (found != families.end()) return found->second;
  return families.try_emplace(kind, kind).first->second;
}

}  // namespace kvasir
