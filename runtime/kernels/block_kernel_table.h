// What each form of the block kernels (block_kernels.h) offers to the one that dispatches.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "runtime/kernels/block_kernels.h"

// Everything inside a form is inlined into DotPanel and UnpackPanel, which carry its instructions.
#define KVASIR_INLINE inline __attribute__((always_inline))
#define KVASIR_NOINLINE __attribute__((noinline))

namespace kvasir {

struct BlockKernels {
  void (*dot[kNumBlockKinds])(const BlockPanel&, const QuantizedInputs&, int64_t, int, float*);
  void (*unpack_f32[kNumBlockKinds])(const BlockPanel&, int64_t, float*, int64_t);
  void (*unpack_bf16[kNumBlockKinds])(const BlockPanel&, int64_t, bf16*, int64_t);
};

namespace block_vnni {
const BlockKernels& Kernels();
}
namespace block_avx2 {
const BlockKernels& Kernels();
}
namespace block_portable {
const BlockKernels& Kernels();
}

}  // namespace kvasir
