// Whole products with packed weights by kernels of our own: how columns and rows are cut into
// tasks, and what is kept in which cache. By columns for few rows, whose time is reading the
// weights; by panels for many, whose time is computing. All give the same bits. For OneDnnLinear.
#pragma once

#include <cstdint>

#include "absl/functional/function_ref.h"
#include "runtime/ops/matmul.h"

namespace kvasir {

// [rows, in] times packed [in, out], both bf16, or u8 and s8. `in` is a multiple of kAmxStepDepth,
// `out` of kAmxColumns; weights lie as amx_column_kernels.h says.
struct PackedOperands {
  const MatmulInput& x;
  const uint8_t* weights;
  int64_t out;
};

// Takes kAmxColumns sums (float for bf16, int32_t for int8) of one row, from `column` on. Called in
// parallel, once for each row and kAmxColumns columns.
using TakeSums = absl::FunctionRef<void(int64_t row, int64_t column, const void* sums)>;
// The sums of two columns together: `column` < out / 2, and column + out / 2.
using TakeSumPairs =
    absl::FunctionRef<void(int64_t row, int64_t column, const void* first, const void* second)>;

void RunAmxColumns(const PackedOperands& operands, TakeSums take);
// On AVX-512: int8 with VNNI, bf16 with BF16. Each `piece` inputs (a multiple of kAmxStepDepth) are
// summed by themselves, and then added to those before: in what order floats are added is what
// their bits depend on.
void RunAvx512Columns(const PackedOperands& operands, int64_t piece, TakeSums take);
// bf16: the sums of RunAvx512Columns, to the bit, by multiplications of f32.
void RunWidened(const PackedOperands& operands, int64_t piece, TakeSums take);
void RunAmxPanels(const PackedOperands& operands, TakeSums take);
// out / 2 is a multiple of kAmxColumns.
void RunAmxPanelPairs(const PackedOperands& operands, TakeSumPairs take);

}  // namespace kvasir
