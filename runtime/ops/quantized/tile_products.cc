#include "runtime/ops/quantized/tile_products.h"

#include <map>
#include <utility>

#include "base/parallel.h"
#include "runtime/ops/onednn_version.h"

namespace kvasir {

const Product& TileProduct(int64_t rows, int64_t inputs, size_t threads) {
  using dnnl::memory;
  using tag = memory::format_tag;
  thread_local std::map<std::pair<int64_t, int64_t>, Product> products;
  Product& product = products[{rows, inputs}];
  if (product.operands.size() >= threads) return product;
  const SerialScope serial;
  const auto type = memory::data_type::bf16;
  const memory::desc source({rows, inputs}, type, tag::ab);
  const memory::desc weights({inputs, kTileOutputs}, type, tag::BA16a64b2a);
  const memory::desc target({rows, kTileOutputs}, memory::data_type::f32, tag::ab);
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  const auto description =
      DescribeMatmul(source, weights, memory::desc(), target, attributes, CpuEngine());
  product.primitive = dnnl::matmul(description);
  product.scratch_bytes = description.scratchpad_desc().get_size();
  while (product.operands.size() < threads) {
    ProductOperands operands;
    operands.source = memory(source, CpuEngine(), DNNL_MEMORY_NONE);
    operands.weights = memory(weights, CpuEngine(), DNNL_MEMORY_NONE);
    operands.target = memory(target, CpuEngine(), DNNL_MEMORY_NONE);
    operands.scratch = memory(description.scratchpad_desc(), CpuEngine(), DNNL_MEMORY_NONE);
    product.operands.push_back(std::move(operands));
  }
  return product;
}

}  // namespace kvasir
