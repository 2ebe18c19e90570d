#include "runtime/ops/matmul.h"

#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/bf16.h"
#include "base/parallel.h"
#include "gtest/gtest.h"
#include "runtime/kernels/amx_attention_kernels.h"
#include "runtime/ops/onednn_matmul.h"
#include "runtime/ops/onednn_products.h"
#include "runtime/ops/panel_linear.h"
#include "tests/reference/naive_ops.h"

namespace kvasir {
namespace {

using reference::Matrix;
using reference::RandomMatrix;

// A stored matrix of any type that owns its bytes, placed at an odd address.
class Stored {
 public:
  Stored(const Matrix& matrix, WeightFormat type) : values(matrix) {
    bytes_.resize(matrix.data.size() * ElementBytes(type) + 1);
    for (size_t i = 0; i < matrix.data.size(); ++i) {
      uint8_t* to = bytes_.data() + 1 + i * ElementBytes(type);
      if (type == WeightFormat::kF32) {
        std::memcpy(to, &matrix.data[i], 4);
      } else if (type == WeightFormat::kBf16) {
        const bf16 x = ToBf16(matrix.data[i]);
        std::memcpy(to, &x, 2);
        values.data[i] = ToFloat(x);
      } else {
        const f16 x = ToF16(matrix.data[i]);
        std::memcpy(to, &x, 2);
        values.data[i] = ToFloat(x);
      }
    }
    stored_ = {bytes_.data() + 1, type, matrix.rows, matrix.cols};
  }
  const StoredMatrix& stored() const { return stored_; }

  Matrix values;  // as the type keeps them

 private:
  std::vector<uint8_t> bytes_;
  StoredMatrix stored_;
};

struct Output {
  Output(int64_t rows, int64_t cols, int64_t stride, float fill)
      : buffer(RoundUpRows(rows) * stride, fill), view{buffer.data(), rows, cols, stride} {}
  std::vector<float> buffer;
  MatrixView view;
};

void SetInput(const Matrix& x, MatmulInput* input) {
  input->Resize(x.rows, x.cols);
  for (int64_t r = 0; r < x.rows; ++r) input->SetRow(r, x.row(r));
}

// Sum of |x| |w| over k: what rounding errors are relative to.
double Magnitude(const Matrix& x, int64_t i, const Matrix& w, int64_t j) {
  double sum = 0;
  for (int64_t k = 0; k < x.cols; ++k)
    sum += std::abs(static_cast<double>(x.at(i, k)) * w.at(j, k));
  return sum;
}

// Error allowed for output (i, j): summation in f32, and the rounding of both operands.
double Tolerance(ComputeType type, const Matrix& x, int64_t i, const Matrix& w, int64_t j,
                 double extra) {
  const double magnitude = Magnitude(x, i, w, j);
  const double summation = (magnitude + extra) * (8 + std::sqrt(x.cols)) * 0x1p-24;
  switch (EffectiveComputeType(type)) {
    case ComputeType::kF32:
      return summation;
    case ComputeType::kBf16:
      return summation + magnitude * 2 * 0x1p-8;
    case ComputeType::kInt8: {
      double x_max = 0, w_max = 0, x_sum = 0, w_sum = 0;
      for (int64_t k = 0; k < x.cols; ++k) {
        x_max = std::max(x_max, std::abs(static_cast<double>(x.at(i, k))));
        w_max = std::max(w_max, std::abs(static_cast<double>(w.at(j, k))));
        x_sum += std::abs(x.at(i, k));
        w_sum += std::abs(w.at(j, k));
      }
      const double x_step = x_max / 127, w_step = w_max / (OneDnnHasExactInt8() ? 127 : 63);
      return summation + 0.5001 * (x_step * w_sum + w_step * x_sum) + x.cols * x_step * w_step;
    }
  }
  return 0;
}

void ExpectNear(const MatrixView& y, const Matrix& expected, ComputeType type, const Matrix& x,
                const Matrix& w, double extra) {
  for (int64_t i = 0; i < expected.rows; ++i) {
    for (int64_t j = 0; j < expected.cols; ++j) {
      ASSERT_NEAR(y.row(i)[j], expected.at(i, j), Tolerance(type, x, i, w, j, extra))
          << i << "," << j << " of " << expected.rows << "x" << expected.cols << " depth "
          << x.cols;
    }
  }
}

const ComputeType kTypes[] = {ComputeType::kF32, ComputeType::kBf16, ComputeType::kInt8};

TEST(RoundUpRows, HasFewValuesAndNeverLess) {
  int64_t distinct = 0, last = 0;
  for (int64_t rows = 1; rows <= 2048; ++rows) {
    const int64_t padded = RoundUpRows(rows);
    ASSERT_GE(padded, rows);
    ASSERT_EQ(RoundUpRows(padded), padded);
    ASSERT_LE(padded - rows, std::max<int64_t>(7, rows / 4));
    distinct += padded != last;
    last = padded;
  }
  EXPECT_LE(distinct, 40);
}

TEST(Linear, AgreesWithNaiveOverOddShapes) {
  struct Shape {
    int64_t in, out;
  };
  for (const ComputeType type : kTypes) {
    for (const Shape shape : {Shape{1, 1},
                              {3, 5},
                              {8, 64},
                              {40, 17},
                              {63, 100},
                              {64, 192},
                              {128, 65},
                              {172, 64},
                              {257, 130}}) {
      for (const WeightFormat stored_type :
           {WeightFormat::kF32, WeightFormat::kBf16, WeightFormat::kF16}) {
        const Stored w(RandomMatrix(shape.out, shape.in, 1), stored_type);
        const auto linear = Linear::Create({w.stored()}, {}, type);
        ASSERT_TRUE(linear.ok()) << linear.status();
        EXPECT_EQ((*linear)->in_features(), shape.in);
        EXPECT_EQ((*linear)->out_features(), shape.out);
        for (const int64_t rows : {1, 2, 3, 9, 40}) {
          const Matrix x = RandomMatrix(rows, shape.in, 2);
          MatmulInput input(type);
          SetInput(x, &input);
          Output y(rows, shape.out, shape.out, NAN);
          (*linear)->Run(input, y.view, false);
          ExpectNear(y.view, reference::Multiply(x, w.values, {}), type, x, w.values, 0);
        }
      }
    }
  }
}

TEST(Linear, StacksPartsWithBiasesAndAccumulates) {
  for (const ComputeType type : kTypes) {
    const Stored a(RandomMatrix(70, 96, 1), WeightFormat::kBf16),
        b(RandomMatrix(33, 96, 2), WeightFormat::kF16),
        c(RandomMatrix(128, 96, 3), WeightFormat::kF32);
    const Stored bias_a(RandomMatrix(70, 1, 4), WeightFormat::kF32),
        bias_c(RandomMatrix(128, 1, 5), WeightFormat::kBf16);
    Matrix w(0, 96);
    std::vector<float> bias;
    for (const Stored* part : {&a, &b, &c}) {
      w.data.insert(w.data.end(), part->values.data.begin(), part->values.data.end());
      w.rows += part->values.rows;
    }
    bias = bias_a.values.data;
    bias.resize(bias.size() + 33, 0.0f);
    bias.insert(bias.end(), bias_c.values.data.begin(), bias_c.values.data.end());

    const StoredMatrix none{};
    const auto linear = Linear::Create({a.stored(), b.stored(), c.stored()},
                                       {bias_a.stored(), none, bias_c.stored()}, type);
    ASSERT_TRUE(linear.ok()) << linear.status();
    for (const int64_t rows : {1, 5, 64, 130, 300}) {
      const Matrix x = RandomMatrix(rows, 96, 6);
      MatmulInput input(type);
      SetInput(x, &input);
      Matrix expected = reference::Multiply(x, w, bias);
      for (const int64_t stride : {231, 240}) {
        for (const bool accumulate : {false, true}) {
          Output y(rows, 231, stride, 3.0f);
          (*linear)->Run(input, y.view, accumulate);
          Matrix want = expected;
          if (accumulate) {
            for (float& v : want.data) v += 3.0f;
          }
          ExpectNear(y.view, want, type, x, w, 8.0);
        }
      }
    }
  }
}

// Shapes in whole blocks of columns, which few rows may compute by kernels of our own.
TEST(Linear, WholeColumnBlocksWithBiasesAccumulate) {
  for (const ComputeType type : kTypes) {
    const Stored w(RandomMatrix(192, 128, 1), WeightFormat::kBf16);
    const Stored b(RandomMatrix(192, 1, 2), WeightFormat::kF32);
    const auto linear = Linear::Create({w.stored()}, {b.stored()}, type);
    ASSERT_TRUE(linear.ok()) << linear.status();
    (*linear)->Warm(70);
    for (const int64_t rows : {1, 2, 15, 16, 17, 48, 64, 65}) {
      const Matrix x = RandomMatrix(rows, 128, 3);
      MatmulInput input(type);
      SetInput(x, &input);
      for (const int64_t stride : {192, 200}) {
        for (const bool accumulate : {false, true}) {
          Output y(rows, 192, stride, 3.0f);
          (*linear)->Run(input, y.view, accumulate);
          Matrix want = reference::Multiply(x, w.values, b.values.data);
          if (accumulate) {
            for (float& v : want.data) v += 3.0f;
          }
          ExpectNear(y.view, want, type, x, w.values, 8.0);
        }
      }
    }
  }
}

// Slabs: weights larger than one slab, with an output count that is no multiple of any block.
TEST(Linear, PacksInSlabs) {
  for (const ComputeType type : kTypes) {
    const int64_t in = 512, out = 33000;
    Matrix w(out, in);
    for (size_t i = 0; i < w.data.size(); ++i)
      w.data[i] = static_cast<float>(i * 2654435761u % 255) / 127 - 1;
    const Stored stored(w, WeightFormat::kBf16);
    const auto linear = Linear::Create({stored.stored()}, {}, type);
    ASSERT_TRUE(linear.ok()) << linear.status();
    // On every CPU: one that multiplies no bf16 keeps it in memory all the same.
    const int64_t element_bytes = type == ComputeType::kF32    ? 4
                                  : type == ComputeType::kBf16 ? 2
                                                               : 1;
    EXPECT_GE((*linear)->packed_bytes(), static_cast<size_t>(in * out * element_bytes));
    EXPECT_LE((*linear)->packed_bytes(), static_cast<size_t>(in * (out + 64) * element_bytes));
    const Matrix x = RandomMatrix(2, in, 6);
    MatmulInput input(type);
    SetInput(x, &input);
    Output y(2, out, out, NAN);
    (*linear)->Run(input, y.view, false);
    for (const int64_t j : {0, 1, 63, 64, 8191, 8192, 16383, 16384, 30000, 32767, 32768, 32999}) {
      double sum = 0;
      for (int64_t k = 0; k < in; ++k)
        sum += static_cast<double>(x.at(1, k)) * stored.values.at(j, k);
      ASSERT_NEAR(y.view.row(1)[j], sum, Tolerance(type, x, 1, stored.values, j, 0)) << j;
    }
  }
}

// Extreme operands: 255 * 127 summed in pairs exceeds 16 bits, where CPUs without VNNI saturate.
TEST(Linear, Int8DoesNotSaturate) {
  Matrix w(64, 256), x(3, 256);
  for (float& v : w.data) v = 1.0f;
  for (float& v : x.data) v = 2.0f;
  const Stored stored(w, WeightFormat::kF32);
  const auto linear = Linear::Create({stored.stored()}, {}, ComputeType::kInt8);
  ASSERT_TRUE(linear.ok());
  MatmulInput input(ComputeType::kInt8);
  SetInput(x, &input);
  Output y(3, 64, 64, NAN);
  (*linear)->Run(input, y.view, false);
  for (int64_t r = 0; r < 3; ++r) {
    for (int64_t j = 0; j < 64; ++j) ASSERT_NEAR(y.view.row(r)[j], 512.0f, 0.01);
  }
}

TEST(Linear, PaddingRowsDoNotTouchRealOnes) {
  for (const ComputeType type : kTypes) {
    const Stored w(RandomMatrix(48, 32, 1), WeightFormat::kF32);
    const auto linear = Linear::Create({w.stored()}, {}, type);
    ASSERT_TRUE(linear.ok());
    const Matrix x = RandomMatrix(3, 32, 2);
    MatmulInput input(type);
    SetInput(x, &input);
    std::memset(static_cast<uint8_t*>(input.mutable_data()) +
                    3 * 32 * (type == ComputeType::kInt8 ? 1 : 2) *
                        (input.compute_type() == ComputeType::kF32 ? 2 : 1),
                0xff, 32);  // the first bytes of row 3 become NaN
    Output y(3, 48, 48, 0.0f);
    (*linear)->Run(input, y.view, false);
    ExpectNear(y.view, reference::Multiply(x, w.values, {}), type, x, w.values, 0);
  }
}

bool ProductsUse(dnnl::cpu_isa isa) {
  const auto needed = static_cast<unsigned>(isa);
  return (static_cast<unsigned>(dnnl::get_effective_cpu_isa()) & needed) == needed;
}

constexpr int kThreads = 2;

// Each version of oneDNN chooses its own layouts and names. One that our kernels cannot read, or
// whose products do not take strips, is served without them: correct, and slower without a word.
TEST(ProductFamily, WeightsLieAsTheAmxColumnKernelsReadThem) {
  if (!ProductsUse(dnnl::cpu_isa::avx512_core_amx)) GTEST_SKIP() << "products do not use AMX here";
  for (const ComputeType type : {ComputeType::kBf16, ComputeType::kInt8}) {
    for (const int64_t in : {64, 192, 2048}) {
      for (const int64_t out : {64, 448, 8192}) {
        EXPECT_TRUE(ProductsOf({type, in, out, false, kThreads}).IsColumnLayout())
            << "oneDNN " << DNNL_VERSION_MAJOR << "." << DNNL_VERSION_MINOR << ", " << in << " x "
            << out;
      }
    }
    EXPECT_FALSE(ProductsOf({type, 64, 96, false, kThreads}).IsColumnLayout());
    EXPECT_FALSE(ProductsOf({type, 72, 64, false, kThreads}).IsColumnLayout());
  }
  EXPECT_FALSE(ProductsOf({ComputeType::kF32, 64, 64, false, kThreads}).IsColumnLayout());
}

TEST(ProductFamily, Int8HasStrips) {
  if (!ProductsUse(dnnl::cpu_isa::avx512_core_vnni)) GTEST_SKIP() << "no VNNI";
  for (const int64_t out : {448, 2048, 8192}) {
    const ProductFamily& products = ProductsOf({ComputeType::kInt8, 512, out, false, kThreads});
    EXPECT_GT(products.strip_columns(), 0) << out;
  }
}

// Weights of 16 bits stay so in memory, and are exact: what they are multiplied with is f32 where
// the CPU multiplies nothing else.
TEST(Linear, KeepsWeightsOfSixteenBits) {
  if (OneDnnHasBf16()) GTEST_SKIP() << "products are of bf16 here";
  for (const WeightFormat format : {WeightFormat::kBf16, WeightFormat::kF16}) {
    const Stored w(RandomMatrix(200, 130, 1), format);
    const auto linear = Linear::Create({w.stored()}, {}, ComputeType::kBf16);
    ASSERT_TRUE(linear.ok()) << linear.status();
    EXPECT_EQ((*linear)->packed_bytes(), 208u * 130 * 2);
    WeightBytes bytes;
    (*linear)->CountBytes(&bytes);
    EXPECT_EQ(bytes.begin()->first, Info(format).name);
    // A row gives the same bits alone as among many.
    const Matrix x = RandomMatrix(300, 130, 3);
    MatmulInput input(ComputeType::kBf16);
    SetInput(x, &input);
    Output all(300, 200, 200, NAN);
    (*linear)->Run(input, all.view, false);
    ExpectNear(all.view, reference::Multiply(x, w.values, {}), ComputeType::kF32, x, w.values, 0);
    for (const int64_t row : {0, 150, 299}) {
      input.Resize(1, 130);
      input.SetRow(0, x.row(row));
      Output one(1, 200, 200, NAN);
      (*linear)->Run(input, one.view, false);
      ASSERT_EQ(std::memcmp(one.view.row(0), all.view.row(row), 200 * sizeof(float)), 0) << row;
    }
  }
}

// Many rows run as tiles and, in int8, as strips of columns on single threads; what a row gives
// must not depend on that. Exact in int8, whose sums are integers.
TEST(Linear, ManyInt8RowsGiveTheBitsOfFewRows) {
  for (const int64_t out : {64, 640, 700}) {
    const Stored w(RandomMatrix(out, 200, 1), WeightFormat::kF32);
    const Stored b(RandomMatrix(1, out, 2), WeightFormat::kF32);
    for (const int threads : {1, 3}) {
      SetComputeThreads(threads);
      const auto linear = Linear::Create({w.stored()}, {b.stored()}, ComputeType::kInt8);
      ASSERT_TRUE(linear.ok()) << linear.status();
      SetComputeThreads(2);  // another number than at its creation
      for (const int64_t rows : {33, 256, 300, 513}) {
        const Matrix x = RandomMatrix(rows, 200, 3);
        MatmulInput input(ComputeType::kInt8);
        SetInput(x, &input);
        Output all(rows, out, out + 3, 0.5f);
        (*linear)->Run(input, all.view, /*accumulate=*/true);
        for (const int64_t row : {int64_t{0}, rows / 2, rows - 1}) {
          input.Resize(1, 200);
          input.SetRow(0, x.row(row));
          Output one(1, out, out, 0.5f);
          (*linear)->Run(input, one.view, /*accumulate=*/true);
          ASSERT_EQ(std::memcmp(one.view.row(0), all.view.row(row), out * sizeof(float)), 0)
              << "row " << row << " of " << rows << ", " << out << " columns, made with " << threads
              << " threads";
        }
      }
    }
  }
}

TEST(Linear, WarmChangesNothing) {
  const Stored w(RandomMatrix(64, 64, 1), WeightFormat::kF32);
  auto linear = Linear::Create({w.stored()}, {}, ComputeType::kF32);
  ASSERT_TRUE(linear.ok());
  (*linear)->Warm(300);
  const Matrix x = RandomMatrix(17, 64, 2);
  MatmulInput input(ComputeType::kF32);
  SetInput(x, &input);
  Output y(17, 64, 64, 0.0f);
  (*linear)->Run(input, y.view, false);
  ExpectNear(y.view, reference::Multiply(x, w.values, {}), ComputeType::kF32, x, w.values, 0);
}

// No step builds a primitive: also not the last tile of many rows, which may have few.
TEST(Linear, WarmBuildsAllThatRunsNeed) {
  for (const ComputeType type : kTypes) {
    const Stored w(RandomMatrix(448, 192, 1), WeightFormat::kF32);
    const auto linear = Linear::Create({w.stored()}, {}, type);
    ASSERT_TRUE(linear.ok()) << linear.status();
    (*linear)->Warm(320);
    const ProductFamily& family =
        ProductsOf({EffectiveComputeType(type), 192, 448, false, ComputeThreads()});
    const size_t warm = family.num_products();
    for (const int64_t rows : {1, 3, 16, 33, 64, 65, 200, 256, 257, 260, 300, 320}) {
      MatmulInput input(type);
      SetInput(RandomMatrix(rows, 192, 2), &input);
      for (const bool accumulate : {false, true}) {
        Output y(rows, 448, 448, 0.0f);
        (*linear)->Run(input, y.view, accumulate);
        ASSERT_EQ(family.num_products(), warm) << rows << " rows, accumulate " << accumulate;
      }
    }
  }
}

// A mixture of experts has thousands of products and a handful of shapes.
TEST(Linear, ProductsOfOneShapeShareTheirPrimitives) {
  for (const ComputeType type : kTypes) {
    std::vector<Stored> stored;
    std::vector<std::unique_ptr<Linear>> linears;
    for (uint32_t i = 0; i < 3; ++i) {
      stored.emplace_back(RandomMatrix(192, 56, 10 + i), WeightFormat::kF32);
      auto linear = Linear::Create({stored[i].stored()}, {}, type);
      ASSERT_TRUE(linear.ok()) << linear.status();
      linears.push_back(std::move(*linear));
    }
    linears[0]->Warm(64);
    const ProductFamily& family =
        ProductsOf({EffectiveComputeType(type), 56, 192, false, ComputeThreads()});
    const size_t products = family.num_products();
    if (!SuitsPanels({stored[0].stored()}, type)) EXPECT_GT(products, 4u);
    for (const auto& linear : linears) linear->Warm(64);
    const Matrix x = RandomMatrix(40, 56, 2);
    MatmulInput input(type);
    SetInput(x, &input);
    // In an order in which each follows each: none may see another's weights.
    for (const int i : {0, 1, 2, 0, 2, 1, 0}) {
      Output y(40, 192, 192, NAN);
      linears[i]->Run(input, y.view, false);
      ExpectNear(y.view, reference::Multiply(x, stored[i].values, {}), type, x, stored[i].values,
                 0);
    }
    EXPECT_EQ(family.num_products(), products);
  }
}

// Two engines may run products of one shape at the same time.
TEST(Linear, ThreadsRunProductsOfOneShapeAtOnce) {
  for (const ComputeType type : kTypes) {
    const auto run = [type](uint32_t seed) {
      const Stored w(RandomMatrix(96, 72, seed), WeightFormat::kF32);
      const auto linear = Linear::Create({w.stored()}, {}, type);
      ASSERT_TRUE(linear.ok()) << linear.status();
      const Matrix x = RandomMatrix(48, 72, seed + 1);
      const Matrix expected = reference::Multiply(x, w.values, {});
      MatmulInput input(type);
      SetInput(x, &input);
      for (int i = 0; i < 20; ++i) {
        Output y(48, 96, 96, NAN);
        (*linear)->Run(input, y.view, false);
        ExpectNear(y.view, expected, type, x, w.values, 0);
      }
    };
    std::thread one([&] { run(1); }), other([&] { run(5); });
    one.join();
    other.join();
  }
}

TEST(Linear, RefusesShapesThatDisagree) {
  const Stored a(RandomMatrix(4, 8, 1), WeightFormat::kF32),
      b(RandomMatrix(4, 9, 2), WeightFormat::kF32);
  EXPECT_EQ(Linear::Create({}, {}, ComputeType::kF32).status().code(),
            absl::StatusCode::kInvalidArgument);
  const auto mixed = Linear::Create({a.stored(), b.stored()}, {}, ComputeType::kF32).status();
  EXPECT_EQ(mixed.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(mixed.message().find("[4, 9]"), absl::string_view::npos) << mixed;
  const auto bias = Linear::Create({a.stored()}, {b.stored()}, ComputeType::kF32).status();
  EXPECT_EQ(bias.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(bias.message().find("36 elements"), absl::string_view::npos) << bias;
  EXPECT_FALSE(Linear::Create({a.stored()}, {a.stored(), a.stored()}, ComputeType::kF32).ok());
}

}  // namespace
}  // namespace kvasir
