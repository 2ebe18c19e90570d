// What oneDNN 2 (Debian 12 has 2.6) and oneDNN 3 (Ubuntu 24.04 has 3.1, Debian 13 has 3.7) call
// differently where products are made: the only place that asks for the version, but for the list
// of instruction sets in cpu_target.cc. For runtime/ops and benchmarks only.
#pragma once

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "dnnl.hpp"

namespace kvasir {

// target = source times weights, plus bias where it is not a zero descriptor. Throws dnnl::error
// where oneDNN refuses.
inline dnnl::matmul::primitive_desc DescribeMatmul(const dnnl::memory::desc& source,
                                                   const dnnl::memory::desc& weights,
                                                   const dnnl::memory::desc& bias,
                                                   const dnnl::memory::desc& target,
                                                   const dnnl::primitive_attr& attributes,
                                                   const dnnl::engine& engine) {
#if DNNL_VERSION_MAJOR >= 3
  return {engine, source, weights, bias, target, attributes};
#else
  // Only the constructor without it makes a product without a bias.
  if (bias.is_zero()) return {dnnl::matmul::desc(source, weights, target), attributes, engine};
  return {dnnl::matmul::desc(source, weights, bias, target), attributes, engine};
#endif
}

inline dnnl::memory::data_type DataType(const dnnl::memory::desc& desc) {
#if DNNL_VERSION_MAJOR >= 3
  return desc.get_data_type();
#else
  return desc.data_type();
#endif
}

// Whether a matmul's implementation is the one made for packed weights, by its name:
// "brg:avx512_core" up to oneDNN 3.1, "brg_matmul:avx512_core" in 3.7. Others may be references, or
// slow.
inline bool IsBlockedMatmul(absl::string_view implementation) {
  return absl::StartsWith(implementation, "brg:") ||
         absl::StartsWith(implementation, "brg_matmul:");
}

}  // namespace kvasir
