// The ways in which a product may go, and gates inside it: the same to the bit.
#include "runtime/ops/packed_products.h"

#include <cstring>
#include <vector>

#include "base/parallel.h"
#include "gtest/gtest.h"
#include "runtime/kernels/amx_attention_kernels.h"
#include "runtime/kernels/bf16_attention_kernels.h"
#include "runtime/kernels/columns/avx512_column_kernels.h"
#include "runtime/ops/layers/activation.h"
#include "runtime/ops/matmul.h"
#include "runtime/ops/onednn_matmul.h"
#include "runtime/ops/onednn_products.h"
#include "runtime/ops/product_choice.h"
#include "tests/reference/naive_ops.h"

namespace kvasir {
namespace {

using reference::Matrix;
using reference::RandomMatrix;

StoredMatrix Stored(const Matrix& m) { return {m.data.data(), WeightFormat::kF32, m.rows, m.cols}; }

// Every way that this CPU has, forced one after the other, for a row alone, a tile, several, many.
TEST(ProductWays, AllGiveTheSameBits) {
  constexpr int64_t kOut = 192, kRows = 600;
  for (const ComputeType type : {ComputeType::kBf16, ComputeType::kInt8}) {
    std::vector<ProductWay> ways;
    const bool int8 = type == ComputeType::kInt8;
    const bool amx = HasAmxProducts() && OneDnnHasAmx();
    if (int8) ways.push_back(ProductWay::kOneDnn);
    if (amx || (int8 && OneDnnHasExactInt8())) ways.push_back(ProductWay::kColumns);
    if (amx) ways.push_back(ProductWay::kPanels);
    if (ways.empty()) continue;  // bf16 in another test, or computed in f32
    for (const int64_t in : {128, 1088}) {
      const Matrix w = RandomMatrix(kOut, in, 1);
      const auto linear = Linear::Create({Stored(w)}, {}, type);
      ASSERT_TRUE(linear.ok()) << linear.status();
      ProductFamily& family = ProductsOf({type, in, kOut, false, ComputeThreads()});
      const Matrix x = RandomMatrix(kRows, in, 2);
      const auto run = [&](int64_t first, int64_t rows) {
        MatmulInput input(type);
        input.Resize(rows, in);
        for (int64_t r = 0; r < rows; ++r) input.SetRow(r, x.row(first + r));
        std::vector<float> y(RoundUpRows(rows) * kOut);
        (*linear)->Run(input, {y.data(), rows, kOut, kOut}, /*accumulate=*/false);
        y.resize(rows * kOut);
        return y;
      };
      std::vector<float> all;
      for (const ProductWay way : ways) {
        family.SetChoice(ProductChoice(way, 0, way));
        if (all.empty()) all = run(0, kRows);
        for (const int64_t rows : {1, 6, 17, 64, 65, 200, 600}) {
          for (const int64_t first : {int64_t{0}, kRows - rows}) {
            const std::vector<float> want(all.begin() + first * kOut,
                                          all.begin() + (first + rows) * kOut);
            EXPECT_TRUE(run(first, rows) == want) << rows << " from " << first << ", depth " << in
                                                  << ", way " << static_cast<int>(way);
          }
        }
      }
    }
  }
}

// bf16 without AMX: our columns add in the order of oneDNN's products of many rows, which Warm
// finds; and where oneDNN has another order for few, few are ours. In the residual stream too.
TEST(ProductWays, FewRowsGiveTheBitsOfManyInBf16) {
  if (!HasBf16Products() || !OneDnnHasBf16() || OneDnnHasAmx())
    GTEST_SKIP() << "no AVX-512 BF16 without AMX here: its columns were not tested";
  constexpr int64_t kOut = 512, kRows = 31;
  int found = 0;
  for (const int64_t in : {1088, 2048, 5632}) {
    const Matrix w = RandomMatrix(kOut, in, 1), bias = RandomMatrix(kOut, 1, 2),
                 x = RandomMatrix(kRows, in, 3);
    for (const bool biased : {false, true}) {
      const auto linear =
          Linear::Create({Stored(w)}, {Stored(biased ? bias : Matrix())}, ComputeType::kBf16);
      ASSERT_TRUE(linear.ok()) << linear.status();
      (*linear)->Warm(kRows);
      ProductFamily& family = ProductsOf({ComputeType::kBf16, in, kOut, biased, ComputeThreads()});
      if (family.piece() == 0) continue;  // oneDNN cuts in a way that is not tried
      ++found;
      std::vector<ProductChoice> choices = {
          *family.choice(), ProductChoice(ProductWay::kColumns, 0, ProductWay::kColumns)};
      if (FmasEqualBf16Products())
        choices.emplace_back(ProductWay::kWidened, 0, ProductWay::kWidened);
      const auto run = [&](const ProductChoice& choice, int64_t rows, bool accumulate) {
        family.SetChoice(choice);
        MatmulInput input(ComputeType::kBf16);
        input.Resize(rows, in);
        for (int64_t r = 0; r < rows; ++r) input.SetRow(r, x.row(r));
        std::vector<float> y(RoundUpRows(rows) * kOut, 0.7f);
        (*linear)->Run(input, {y.data(), rows, kOut, kOut}, accumulate);
        y.resize(rows * kOut);
        return y;
      };
      for (const bool accumulate : {false, true}) {
        std::vector<float> want =
            run(ProductChoice(ProductWay::kOneDnn, 0, ProductWay::kOneDnn), kRows, accumulate);
        for (int64_t rows = kRows; rows > 0; --rows) {
          want.resize(rows * kOut);
          for (const ProductChoice& choice : choices) {
            EXPECT_TRUE(run(choice, rows, accumulate) == want)
                << rows << " rows of " << in << (biased ? " with bias" : "")
                << (accumulate ? ", added" : "");
          }
        }
      }
    }
  }
  if (found == 0) GTEST_SKIP() << "oneDNN's order of sums is none that is tried";
}

// More rows than are widened at a time, over several pieces of the inputs.
TEST(ProductWays, WidenedRowsGiveTheBitsOfColumns) {
  if (!HasBf16Products() || !OneDnnHasBf16() || OneDnnHasAmx() || !FmasEqualBf16Products())
    GTEST_SKIP() << "no AVX-512 BF16 without AMX that rounds as FMAs do";
  constexpr int64_t kIn = 2048, kOut = 576, kRows = 600;
  const Matrix w = RandomMatrix(kOut, kIn, 1), x = RandomMatrix(kRows, kIn, 2);
  const auto linear = Linear::Create({Stored(w)}, {}, ComputeType::kBf16);
  ASSERT_TRUE(linear.ok()) << linear.status();
  (*linear)->Warm(32);
  ProductFamily& family = ProductsOf({ComputeType::kBf16, kIn, kOut, false, ComputeThreads()});
  if (family.piece() == 0) GTEST_SKIP() << "oneDNN's order of sums is none that is tried";
  MatmulInput input(ComputeType::kBf16);
  input.Resize(kRows, kIn);
  for (int64_t r = 0; r < kRows; ++r) input.SetRow(r, x.row(r));
  std::vector<float> results[2];
  for (const ProductWay way : {ProductWay::kColumns, ProductWay::kWidened}) {
    std::vector<float>& y = results[way == ProductWay::kWidened];
    y.resize(RoundUpRows(kRows) * kOut);
    family.SetChoice(ProductChoice(way, 0, way));
    (*linear)->Run(input, {y.data(), kRows, kOut, kOut}, /*accumulate=*/false);
    y.resize(kRows * kOut);
  }
  EXPECT_TRUE(results[0] == results[1]);
}

// A choice is made once for a shape, among ways that need no more primitives than Warm builds.
TEST(ProductWays, WarmMeasuresOnceForAShape) {
  constexpr int64_t kIn = 1024, kOut = 1088;
  const Matrix w = RandomMatrix(kOut, kIn, 1);
  const auto linear = Linear::Create({Stored(w)}, {}, ComputeType::kInt8);
  ASSERT_TRUE(linear.ok()) << linear.status();
  const ProductFamily& family =
      ProductsOf({ComputeType::kInt8, kIn, kOut, false, ComputeThreads()});
  EXPECT_FALSE(family.choice().has_value());
  (*linear)->Warm(40);
  const bool ours = OneDnnHasExactInt8() && family.IsColumnLayout();
  EXPECT_EQ(family.choice().has_value(), ours);
  if (!ours) return;
  const ProductChoice chosen = *family.choice();
  (*linear)->Warm(40);
  EXPECT_TRUE(*family.choice() == chosen);
}

// Whether the gates are activated inside the product or behind it.
TEST(ProductWays, GatedProductsAreThoseOfRunAndActivate) {
  for (const ComputeType type : {ComputeType::kF32, ComputeType::kBf16, ComputeType::kInt8}) {
    for (const int64_t half : {70, 192}) {
      const Matrix gate = RandomMatrix(half, 128, 1), up = RandomMatrix(half, 128, 2),
                   bias = RandomMatrix(half, 1, 3);
      const auto linear =
          Linear::Create({Stored(gate), Stored(up)}, {Stored(bias), Stored(bias)}, type);
      ASSERT_TRUE(linear.ok()) << linear.status();
      for (const int64_t rows : {1, 64, 65, 530}) {
        const Matrix x = RandomMatrix(rows, 128, 4);
        MatmulInput input(type);
        input.Resize(rows, 128);
        for (int64_t r = 0; r < rows; ++r) input.SetRow(r, x.row(r));
        Matrix y(RoundUpRows(rows), 2 * half), scratch(RoundUpRows(rows), 2 * half);
        const auto view = [&](Matrix& m) {
          return MatrixView{m.data.data(), rows, 2 * half, 2 * half};
        };
        MatmulInput want(type), got(type);
        (*linear)->Run(input, view(y), /*accumulate=*/false);
        Activate(Activation::kSilu, /*gated=*/true, view(y), &want);
        (*linear)->RunGated(input, Activation::kSilu, view(scratch), &got);
        ASSERT_EQ(got.rows(), rows);
        ASSERT_EQ(got.cols(), half);
        const size_t element = got.compute_type() == ComputeType::kF32    ? 4
                               : got.compute_type() == ComputeType::kBf16 ? 2
                                                                          : 1;
        ASSERT_EQ(std::memcmp(got.data(), want.data(), rows * half * element), 0)
            << rows << " rows of " << half;
        if (got.compute_type() != ComputeType::kInt8) continue;
        ASSERT_EQ(std::memcmp(got.row_scales(), want.row_scales(), rows * sizeof(float)), 0);
      }
    }
  }
}

}  // namespace
}  // namespace kvasir
