#include "runtime/ops/cpu_target.h"

#include "absl/strings/str_cat.h"
#include "dnnl.hpp"
#include "hwy/highway.h"
#include "hwy/targets.h"
#include "runtime/kernels/amx_attention_kernels.h"
#include "runtime/kernels/bf16_attention_kernels.h"
#include "runtime/kernels/blocks/block_kernels.h"

namespace kvasir {
namespace {

// The instruction sets that oneDNN chooses its products by, newest first.
constexpr struct {
  dnnl::cpu_isa isa;
  const char* name;
} kProductIsas[] = {
#if DNNL_VERSION_MAJOR >= 3  // Debian 13
    {dnnl::cpu_isa::avx512_core_amx_fp16, "avx512_core_amx_fp16"},
#endif
    {dnnl::cpu_isa::avx512_core_amx, "avx512_core_amx"},
#if DNNL_VERSION_MAJOR >= 3
    {dnnl::cpu_isa::avx512_core_fp16, "avx512_core_fp16"},
#endif
    {dnnl::cpu_isa::avx512_core_bf16, "avx512_core_bf16"},
    {dnnl::cpu_isa::avx512_core_vnni, "avx512_core_vnni"},
    {dnnl::cpu_isa::avx512_core, "avx512_core"},
#if DNNL_VERSION_MAJOR >= 3
    {dnnl::cpu_isa::avx2_vnni_2, "avx2_vnni_2"},
#endif
    {dnnl::cpu_isa::avx2_vnni, "avx2_vnni"},
    {dnnl::cpu_isa::avx2, "avx2"},
    {dnnl::cpu_isa::avx, "avx"},
    {dnnl::cpu_isa::sse41, "sse41"},
};

// The newest set of the list that `isa` contains: an enumerator's bits include those of the sets it
// extends, so a CPU newer than the list gets the name of what is known of it.
std::string IsaName(dnnl::cpu_isa isa) {
  const auto bits = static_cast<unsigned>(isa);
  for (const auto& known : kProductIsas) {
    const auto needed = static_cast<unsigned>(known.isa);
    if ((bits & needed) == needed) {
      return absl::StrCat(known.name, bits == needed ? "" : " or newer");
    }
  }
  return "generic";
}

}  // namespace

absl::Status LimitCpuTarget(CpuTarget target) {
  if (target == CpuTarget::kAuto) return absl::OkStatus();
#if HWY_ARCH_X86
  struct Limit {
    const char* name;
    dnnl::cpu_isa isa;
    int64_t kernels;  // Highway's target
    bool on_this_cpu;
  };
  const auto supports = [](int64_t kernels) { return (hwy::SupportedTargets() & kernels) != 0; };
  const Limit limit =
      target == CpuTarget::kAvx2 ? Limit{"avx2", dnnl::cpu_isa::avx2, HWY_AVX2, supports(HWY_AVX2)}
      : target == CpuTarget::kAvx512
          ? Limit{"avx512", dnnl::cpu_isa::avx512_core, HWY_AVX3, supports(HWY_AVX3)}
          : Limit{"avx512_bf16", dnnl::cpu_isa::avx512_core_bf16, HWY_AVX3, HasBf16Products()};
  if (!limit.on_this_cpu) {
    return absl::FailedPreconditionError(absl::StrCat(
        "cpu_target is ", limit.name, ", but this CPU has no such instructions; choose auto"));
  }
  if (dnnl::set_max_cpu_isa(limit.isa) != dnnl::status::success) {
    return absl::FailedPreconditionError(
        "cpu_target must be set before oneDNN computes anything; it has run already");
  }
  ForbidAmxProducts();
  if (target == CpuTarget::kAvx512Bf16) return absl::OkStatus();
  ForbidBf16Products();
  ForbidVnniProducts();
  // Whatever stands above the target in Highway's order of preference, which is that of the bits.
  hwy::DisableTargets(limit.kernels - 1);
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
                      HasAmxProducts()    ? ", amx attention"
                      : HasBf16Products() ? ", bf16 attention"
                                          : "");
}

}  // namespace kvasir
