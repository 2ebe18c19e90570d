#include "runtime/ops/input_rows.h"

#include <vector>

#include "gtest/gtest.h"
#include "tests/ops/tensor_matrix.h"
#include "tests/reference/naive_ops.h"

namespace kvasir {
namespace {

using reference::Matrix;
using reference::RandomMatrix;

const ComputeType kTypes[] = {ComputeType::kF32, ComputeType::kBf16, ComputeType::kInt8};

MatmulInput Input(const Matrix& x, ComputeType type) {
  MatmulInput input(type);
  input.Resize(x.rows, x.cols);
  for (int64_t r = 0; r < x.rows; ++r) input.SetRow(r, x.row(r));
  return input;
}

TEST(SetRows, TakesStridedRows) {
  for (const ComputeType type : kTypes) {
    for (const int64_t rows : {1, 90}) {
      Matrix wide = RandomMatrix(rows, 520, 1), narrow(rows, 512);
      for (int64_t r = 0; r < rows; ++r) std::copy_n(wide.row(r) + 3, 512, narrow.row(r));
      MatmulInput out(type);
      SetRows(MatrixView{wide.data.data() + 3, rows, 512, 520}, &out);
      ASSERT_EQ(Floats(out).data, Floats(Input(narrow, type)).data);
    }
  }
}

TEST(GatherRows, KeepsEveryFormOfARow) {
  for (const ComputeType type : kTypes) {
    for (const int64_t cols : {1, 7, 1024}) {
      const MatmulInput from = Input(RandomMatrix(90, cols, 1), type);
      MatmulInput to(type);
      std::vector<int32_t> rows;
      for (int32_t r = 0; r < 90; r += 1 + r % 3) rows.push_back(r);
      GatherRows(from, rows, &to);
      const Matrix all = Floats(from), some = Floats(to);
      ASSERT_EQ(some.rows, static_cast<int64_t>(rows.size()));
      for (size_t i = 0; i < rows.size(); ++i) {
        for (int64_t c = 0; c < cols; ++c) ASSERT_EQ(some.at(i, c), all.at(rows[i], c));
      }
    }
  }
}

TEST(SliceColumns, KeepsEveryFormOfAColumn) {
  for (const ComputeType type : kTypes) {
    for (const int64_t first : {0, 5, 32}) {
      for (const int64_t count : {1, 16, 1000}) {
        const MatmulInput from = Input(RandomMatrix(70, 1040, 1), type);
        MatmulInput to(type);
        SliceColumns(from, first, count, &to);
        const Matrix all = Floats(from), some = Floats(to);
        ASSERT_EQ(some.cols, count);
        for (int64_t r = 0; r < 70; ++r) {
          for (int64_t c = 0; c < count; ++c) ASSERT_EQ(some.at(r, c), all.at(r, first + c));
        }
      }
    }
  }
}

}  // namespace
}  // namespace kvasir
