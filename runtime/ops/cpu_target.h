// Which instructions this process may use at most, for oneDNN's products, the Highway kernels and
// the hand-written AVX-512 BF16 and AMX kernels alike: one switch, so that a machine can compute
// exactly what an older one of the fleet computes, and tests can run every path on any CPU.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace kvasir {

enum class CpuTarget {
  kAuto,        // all that the CPU has
  kAvx512Bf16,  // AVX-512 with VNNI and BF16, as of Zen 4: no AMX
  kAvx512,      // AVX-512 as of Skylake: no VNNI, no BF16
  kAvx2,
};

// Lowers the limit of the whole process; nothing raises it again. Call it before the first product
// or kernel, from one thread. FailedPrecondition: the CPU lacks the target, or a product ran
// already. On CPUs other than x86-64 only kAuto is accepted.
//
// Without AVX-512 BF16, bf16 weights are computed in f32 (EffectiveComputeType, matmul.h); without
// VNNI, int8 weights use 7 of their 8 bits, for AVX2's 16-bit sums would saturate.
absl::Status LimitCpuTarget(CpuTarget target);

// What is in use now, for the log: "kernels AVX3, products avx512_core_amx, amx attention".
// Kernels are named as Highway names its targets, products as oneDNN names its instruction sets.
std::string DescribeCpuTarget();

}  // namespace kvasir
