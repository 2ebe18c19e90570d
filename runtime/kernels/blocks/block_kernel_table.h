// What each form of the block kernels (block_kernels.h) offers to the one that dispatches.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "runtime/kernels/blocks/block_kernels.h"

// Everything inside a form is inlined into DotPanel and UnpackPanel, which carry its instructions.
#define KVASIR_INLINE inline __attribute__((always_inline))
#define KVASIR_NOINLINE __attribute__((noinline))

namespace kvasir {

// Rows of inputs that `dot` takes at once.
inline constexpr int kMaxDotRows = 4;

struct BlockKernels {
  // Rows [first, first + rows) of `passes` such calls for the panel.
  void (*dot[kNumBlockKinds])(const BlockPanel&, const QuantizedInputs&, int64_t first, int rows,
                              int passes, StreamAsking, float*);
  void (*unpack_f32[kNumBlockKinds])(const BlockPanel&, int64_t, float*, int64_t);
  void (*unpack_bf16[kNumBlockKinds])(const BlockPanel&, int64_t, bf16*, int64_t);
};

// What AMX adds to block_vnni. Sums over all inputs, [rows][16], null where a kind has none; and
// the same unpacked weights, by the conversions to bf16 that such CPUs have.
using BlockProduct = void (*)(const BlockPanel&, const QuantizedInputs&, int rows, float*);
struct BlockProducts {
  BlockProduct of[kNumBlockKinds];
  void (*unpack_bf16[kNumBlockKinds])(const BlockPanel&, int64_t, bf16*, int64_t);
};

// block_rows.h; null where a kind has none.
using RowsProduct = void (*)(const BlockPanel*, int, const QuantizedInputs&, int64_t, uint8_t*,
                             float*);
struct RowsProducts {
  RowsProduct of[kNumBlockKinds];
};

namespace block_rows {
const RowsProducts& Products();
}
namespace block_amx {
const BlockProducts& Products();
}
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
