// Moving rows and columns into the operands of products: from f32 results, and from one operand to
// another in the form in which they stand. Parallel over rows; no errors, preconditions are the
// caller's.
#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "runtime/ops/matmul.h"
#include "runtime/ops/tensor.h"

namespace kvasir {

// out = x, converted to out's compute type. out is resized.
void SetRows(MatrixView x, MatmulInput* out);

// out's row i becomes x's row rows[i]. out is resized; compute types are equal.
void GatherRows(const MatmulInput& x, absl::Span<const int32_t> rows, MatmulInput* out);

// out = columns [first, first + count) of x; int8 keeps x's scale of each row. out is resized;
// compute types are equal.
void SliceColumns(const MatmulInput& x, int64_t first, int64_t count, MatmulInput* out);

}  // namespace kvasir
