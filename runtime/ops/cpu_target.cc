#include "runtime/ops/cpu_target.h"

#include "absl/strings/str_cat.h"
#include "dnnl.hpp"
#include "hwy/highway.h"
#include "hwy/targets.h"
#include "runtime/kernels/bf16_attention_kernels.h"

namespace kvasir {
namespace {

const char* IsaName(dnnl::cpu_isa isa) {
  switch (isa) {
    case dnnl::cpu_isa::sse41:
      return "sse41";
    case dnnl::cpu_isa::avx:
      return "avx";
    case dnnl::cpu_isa::avx2:
      return "avx2";
    case dnnl::cpu_isa::avx2_vnni:
      return "avx2_vnni";
    case dnnl::cpu_isa::avx512_core:
      return "avx512_core";
    case dnnl::cpu_isa::avx512_core_vnni:
      return "avx512_core_vnni";
    case dnnl::cpu_isa::avx512_core_bf16:
      return "avx512_core_bf16";
    default:
      return "all";
  }
}

}  // namespace

absl::Status LimitCpuTarget(CpuTarget target) {
  if (target == CpuTarget::kAuto) return absl::OkStatus();
#if HWY_ARCH_X86
  const bool avx2 = target == CpuTarget::kAvx2;
  if ((hwy::SupportedTargets() & (avx2 ? HWY_AVX2 : HWY_AVX3)) == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("cpu_target is ", avx2 ? "avx2" : "avx512",
                     ", but this CPU has no such instructions; choose auto"));
  }
  const dnnl::cpu_isa isa = avx2 ? dnnl::cpu_isa::avx2 : dnnl::cpu_isa::avx512_core;
  if (dnnl::set_max_cpu_isa(isa) != dnnl::status::success) {
    return absl::FailedPreconditionError(
        "cpu_target must be set before oneDNN computes anything; it has run already");
  }
  ForbidBf16Products();
  // Whatever stands above the target in Highway's order of preference, which is that of the bits.
  hwy::DisableTargets((avx2 ? HWY_AVX2 : HWY_AVX3) - 1);
  return absl::OkStatus();
#else
  return absl::FailedPreconditionError(
      "cpu_target other than auto is for x86-64; this CPU is none: choose auto");
#endif
}

std::string DescribeCpuTarget() {
  const int64_t targets = hwy::SupportedAndGeneratedTargets().front();
  return absl::StrCat("kernels ", hwy::TargetName(targets), ", products ",
                      IsaName(dnnl::get_effective_cpu_isa()),
                      HasBf16Products() ? ", bf16 attention" : "");
}

}  // namespace kvasir
