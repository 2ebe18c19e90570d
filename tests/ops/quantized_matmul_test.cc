// Products with block-quantised weights against products with their dequantised values: every
// format, odd shapes, both ways of computing, every dispatch target.

#include "runtime/ops/quantized/quantized_matmul.h"

#include <bit>
#include <cmath>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "gtest/gtest.h"
#include "runtime/kernels/amx_attention_kernels.h"
#include "runtime/kernels/blocks/block_rows.h"
#include "runtime/kernels/blocks/block_tiles.h"
#include "runtime/ops/onednn_matmul.h"
#include "runtime/ops/quantized/block_packing.h"
#include "tests/reference/dispatch_targets.h"
#include "tests/reference/naive_ops.h"
#include "tests/reference/random_blocks.h"

namespace kvasir {
namespace {

using reference::kBlockFormats;
using reference::Matrix;
using reference::RandomBlocks;
using reference::RandomMatrix;

// Columns whose last chunk is short, where the format allows it.
std::vector<int64_t> OddCols(WeightFormat format) {
  const int64_t block = Info(format).block_elements;
  if (block == kMaxBlockElements) return {256, 768};
  if (Info(format).is_plain_group()) return {32, 288, 512 + 160};  // groups that end early too
  if (format == WeightFormat::kNVFP4) return {32, 256 + 96, 512 + 160};
  return {block, 256 + block, 512 + 5 * block};
}

TEST(BlockPackingTest, EveryBlockFormatHasAKernel) {
  std::set<size_t> kinds;
  for (const WeightFormat format : kBlockFormats) {
    ASSERT_TRUE(HasBlockKernels(format));
    kinds.insert(PackBlocks(RandomBlocks(format, 1, 256, 1).stored()).kind);
  }
  EXPECT_EQ(kinds.size(), kNumBlockKinds);
  EXPECT_FALSE(HasBlockKernels(WeightFormat::kBf16));
}

TEST(BlockPackingTest, KeepsTheFilesNumberOfBits) {
  for (const WeightFormat format : kBlockFormats) {
    const RandomBlocks blocks(format, 64, 1024, 1);
    const double stored = static_cast<double>(64 * RowBytes(format, 1024));
    // Wider scales: 4 + 4 bits for each 16 codes of 2 become 8 + 8; 8 for 16 of 4 become 16.
    const bool widens = format == WeightFormat::kQ2_K || format == WeightFormat::kNVFP4;
    EXPECT_LE(static_cast<double>(PackBlocks(blocks.stored()).data.size()),
              (widens ? 1.2 : 1.06) * stored)
        << Info(format).name;
  }
}

TEST(BlockPackingTest, RowsHaveTheirFactor) {
  const RandomBlocks blocks(WeightFormat::kNVFP4, 19, 96, 1, 0.37f);
  const PackedBlocks packed = PackBlocks(blocks.stored());
  std::vector<float> row(96), stored(96);
  for (int64_t r = 0; r < 19; ++r) {
    packed.ReadRow(r, row.data());
    StoredRow(blocks.stored(), r, stored.data());
    for (int64_t k = 0; k < 96; ++k) {
      ASSERT_EQ(row[k], blocks.values.at(r, k)) << r << "," << k;
      ASSERT_EQ(stored[k], row[k]) << r << "," << k;
    }
  }
}

// To the bit, so that f32 compute is an oracle.
TEST(BlockKernelsTest, UnpackWhatDequantisingGives) {
  ForEachDispatchTarget([] {
    SCOPED_TRACE(BlockKernelName());
    for (const WeightFormat format : kBlockFormats) {
      for (const int64_t cols : OddCols(format)) {
        SCOPED_TRACE(std::string(Info(format).name));
        const RandomBlocks blocks(format, 19, cols, 3);
        const PackedBlocks packed = PackBlocks(blocks.stored());
        ASSERT_EQ(packed.num_panels(), 2);
        std::vector<float> row_values(cols);
        for (int64_t row = 0; row < 19; ++row) {
          packed.ReadRow(row, row_values.data());
          for (int64_t k = 0; k < cols; ++k) {
            ASSERT_EQ(std::bit_cast<uint32_t>(row_values[k]),
                      std::bit_cast<uint32_t>(blocks.values.at(row, k)))
                << row << "," << k;
          }
        }
        for (int64_t panel = 0; panel < 2; ++panel) {
          constexpr int64_t kStride = 20;
          std::vector<float> floats(cols * kStride, -1.0f);
          std::vector<bf16> halves(cols / 2 * 2 * kStride);
          BlockUnpack(packed.panel(panel), cols, floats.data(), kStride);
          BlockUnpack(packed.panel(panel), cols, halves.data(), 2 * kStride);
          for (int64_t row = 0; row < kPanelRows; ++row) {
            for (int64_t k = 0; k < cols; ++k) {
              const int64_t w_row = panel * kPanelRows + row;
              const float expected = w_row < 19 ? blocks.values.at(w_row, k) : 0.0f;
              const float unpacked = floats[k * kStride + row];
              if (w_row < 19) {
                ASSERT_EQ(std::bit_cast<uint32_t>(unpacked), std::bit_cast<uint32_t>(expected))
                    << row << "," << k << ": " << unpacked << " for " << expected;
              } else {
                ASSERT_EQ(unpacked, 0.0f);
              }
              const bf16 half = halves[(k / 2 * kStride + row) * 2 + k % 2];
              ASSERT_EQ(half.bits, ToBf16(unpacked).bits);
            }
          }
        }
      }
    }
  });
}

TEST(BlockKernelsTest, QuantizesInputsInGroups) {
  const Matrix x = RandomMatrix(1, 96, 5);
  std::vector<float> values = x.data;
  for (int i = 32; i < 64; ++i) values[i] = 0.0f;
  values[70] = 100.0f;
  std::vector<int8_t> codes(96);
  std::vector<float> scales(3);
  std::vector<int32_t> sums(6);
  QuantizeInputs(values.data(), 96, codes.data(), scales.data(), sums.data());
  EXPECT_EQ(scales[1], 0.0f);
  EXPECT_EQ(codes[70], 127);
  for (int i = 0; i < 96; ++i) {
    EXPECT_LE(std::abs(codes[i] * scales[i / 32] - values[i]), 0.5001f * scales[i / 32]);
  }
  for (int half = 0; half < 6; ++half) {
    int sum = 0;
    for (int i = 0; i < 16; ++i) sum += codes[16 * half + i];
    EXPECT_EQ(sums[half], sum);
  }
}

struct Expected {
  double value = 0;
  double magnitude = 0;    // sum of |x| |w|
  double input_error = 0;  // most that quantising the inputs can change
};

Expected Expect(const Matrix& x, int64_t i, const Matrix& w, int64_t j) {
  Expected expected;
  for (int64_t begin = 0; begin < x.cols; begin += 32) {
    double max = 0, w_sum = 0;
    for (int64_t k = begin; k < begin + 32; ++k) {
      const double product = static_cast<double>(x.at(i, k)) * w.at(j, k);
      expected.value += product;
      expected.magnitude += std::abs(product);
      max = std::max(max, std::abs(static_cast<double>(x.at(i, k))));
      w_sum += std::abs(w.at(j, k));
    }
    expected.input_error += 0.5001 * max / 127 * w_sum;
  }
  return expected;
}

// Two parts of different formats and odd heights, with one bias.
void CheckProduct(WeightFormat format, int64_t cols, ComputeType type, int64_t rows,
                  bool accumulate) {
  const float factor = format == WeightFormat::kNVFP4 ? 0.37f : 1.0f;
  const RandomBlocks first(format, 17, cols, 7, factor);
  const WeightFormat other =
      format == WeightFormat::kQ6_K ? WeightFormat::kQ4_K : WeightFormat::kQ8_0;
  const RandomBlocks second(other, 30, cols, 8);
  const Matrix bias = RandomMatrix(17, 1, 9);
  const StoredMatrix biases[] = {{bias.data.data(), WeightFormat::kF32, 17, 1}, {}};
  const StoredMatrix parts[] = {first.stored(), second.stored()};
  auto linear = Linear::Create(parts, biases, type);
  ASSERT_TRUE(linear.ok()) << linear.status();
  ASSERT_EQ((*linear)->out_features(), 47);

  Matrix x = RandomMatrix(rows, cols, 10);
  x.at(rows - 1, 0) = 20.0f;  // an outlier
  MatmulInput input(type);
  input.Resize(rows, cols);
  for (int64_t r = 0; r < rows; ++r) input.SetRow(r, x.row(r));
  std::vector<float> buffer(RoundUpRows(rows) * 49, 2.0f);
  const MatrixView y{buffer.data(), rows, 47, 49};
  (*linear)->Run(input, y, accumulate);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < 47; ++j) {
      const Expected e =
          j < 17 ? Expect(x, i, first.values, j) : Expect(x, i, second.values, j - 17);
      const double extra = (j < 17 ? bias.data[j] : 0.0) + (accumulate ? 2.0 : 0.0);
      double tolerance = (e.magnitude + std::abs(extra)) * (8 + std::sqrt(cols)) * 0x1p-23 + 1e-6;
      if (type != ComputeType::kF32) {
        // Inputs in eight bits, or weights and inputs in bf16; inputs may have been bf16 before.
        tolerance += std::max(e.input_error, e.magnitude * 0x1p-8) + e.magnitude * 0x1p-8;
      }
      if (type == ComputeType::kInt8) {  // one scale per row before
        double max = 0, w_sum = 0;
        for (int64_t k = 0; k < cols; ++k) {
          max = std::max(max, std::abs(static_cast<double>(x.at(i, k))));
          w_sum += std::abs(j < 17 ? first.values.at(j, k) : second.values.at(j - 17, k));
        }
        tolerance += 0.5001 * max / 127 * w_sum * 1.02;
      }
      ASSERT_NEAR(y.row(i)[j], e.value + extra, tolerance)
          << Info(format).name << " " << i << "," << j << " of " << rows << " rows, depth " << cols
          << ", type " << static_cast<int>(type) << ", " << BlockKernelName();
    }
    ASSERT_EQ(y.row(i)[47], 2.0f);  // nothing beyond the outputs
  }
}

TEST(QuantizedMatmulTest, EqualsTheProductWithDequantisedWeights) {
  ForEachDispatchTarget([] {
    for (const WeightFormat format : kBlockFormats) {
      for (const int64_t cols : OddCols(format)) {
        for (const ComputeType type : {ComputeType::kF32, ComputeType::kBf16, ComputeType::kInt8}) {
          for (const int64_t rows : {1, 6, 17}) {
            CheckProduct(format, cols, type, rows, rows % 2 == 0);
            if (::testing::Test::HasFatalFailure()) return;
          }
        }
      }
    }
  });
}

TEST(QuantizedMatmulTest, ManyRows) {
  for (const ComputeType type : {ComputeType::kF32, ComputeType::kBf16}) {
    CheckProduct(WeightFormat::kQ4_K, 768, type, 300, true);
    CheckProduct(WeightFormat::kQ5_0, 352, type, 257, false);
    CheckProduct(WeightFormat::kQ8_0, 352, type, 256, false);
  }
}

// Parts whose columns stand in orders of their own, few and many rows.
TEST(QuantizedMatmulTest, TakesInputsInTheOrderOfThePart) {
  constexpr int64_t kCols = 160;
  const RandomBlocks first(WeightFormat::kInt4Zero32, 20, kCols, 3);
  const RandomBlocks second(WeightFormat::kQ8_0, 18, kCols, 4);
  std::vector<int32_t> order(kCols);
  for (int64_t c = 0; c < kCols; ++c) order[c] = static_cast<int32_t>((c * 37 + 5) % kCols);
  StoredMatrix ordered = first.stored();
  ordered.input_order = order.data();
  Matrix moved(20, kCols);  // the first part as a plain one
  for (int64_t r = 0; r < 20; ++r) {
    for (int64_t c = 0; c < kCols; ++c) moved.at(r, order[c]) = first.values.at(r, c);
  }
  for (const ComputeType type : {ComputeType::kF32, ComputeType::kBf16, ComputeType::kInt8}) {
    auto linear = Linear::Create({ordered, second.stored()}, {}, type);
    ASSERT_TRUE(linear.ok()) << linear.status();
    EXPECT_FALSE((*linear)->has_rows());
    for (const int64_t rows : {3, 40}) {
      const Matrix x = RandomMatrix(rows, kCols, 5);
      MatmulInput input(type);
      input.Resize(rows, kCols);
      for (int64_t r = 0; r < rows; ++r) input.SetRow(r, x.row(r));
      std::vector<float> y(RoundUpRows(rows) * 38);
      (*linear)->Run(input, {y.data(), rows, 38, 38}, false);
      for (int64_t i = 0; i < rows; ++i) {
        for (int64_t j = 0; j < 38; ++j) {
          const Expected e = j < 20 ? Expect(x, i, moved, j) : Expect(x, i, second.values, j - 20);
          const double tolerance =
              type == ComputeType::kF32 ? 1e-4 : 0.02 * e.magnitude + 2 * e.input_error;
          ASSERT_NEAR(y[i * 38 + j], e.value, tolerance) << i << "," << j;
        }
      }
    }
    // Beside a plain part all are unpacked, the order undone.
    const Matrix plain = RandomMatrix(12, kCols, 6);
    auto mixed = Linear::Create(
        {ordered, StoredMatrix{plain.data.data(), WeightFormat::kF32, 12, kCols}}, {}, type);
    ASSERT_TRUE(mixed.ok()) << mixed.status();
    const Matrix x = RandomMatrix(1, kCols, 7);
    MatmulInput input(type);
    input.Resize(1, kCols);
    input.SetRow(0, x.row(0));
    std::vector<float> y(32);
    (*mixed)->Run(input, {y.data(), 1, 32, 32}, false);
    for (int64_t j = 0; j < 20; ++j) {
      const Expected e = Expect(x, 0, moved, j);
      ASSERT_NEAR(y[j], e.value,
                  type == ComputeType::kF32 ? 1e-4 : 0.04 * e.magnitude + 2 * e.input_error);
    }
  }
}

// A row's outputs do not depend on the rows that it is computed with, as long as the way is the
// same.
// Outputs [rows][outputs] of rows [0, rows) of x.
std::vector<float> Outputs(Linear* linear, const Matrix& x, int64_t first, int64_t rows) {
  const int64_t outputs = linear->out_features();
  MatmulInput input(EffectiveComputeType(ComputeType::kBf16));
  input.Resize(rows, x.cols);
  for (int64_t r = 0; r < rows; ++r) input.SetRow(r, x.row(first + r));
  std::vector<float> y(RoundUpRows(rows) * outputs);
  linear->Run(input, {y.data(), rows, outputs, outputs}, false);
  y.resize(rows * outputs);
  return y;
}

// Whether Linear multiplies many rows with such weights by block_tiles.h: bf16 must be computed
// too.
bool MultipliesByTiles(const RandomBlocks& blocks) {
  return EffectiveComputeType(ComputeType::kBf16) == ComputeType::kBf16 &&
         HasBlockTiles(PackBlocks(blocks.stored()).kind);
}

// Whether all numbers of rows are multiplied the same way, as codes.
bool MultipliesCodesOnly(const RandomBlocks& blocks) {
  if (!OneDnnHasBf16()) return true;
  return !HasAmxProducts() && HasBlockRows(PackBlocks(blocks.stored()).kind);
}

// To the bit: few rows with what each gives alone, more rows with what few of them give.
void CheckRowsAreIndependent(WeightFormat format, int64_t cols) {
  constexpr int64_t kOutputs = 35;
  const RandomBlocks blocks(format, kOutputs, cols, 3);
  auto linear = Linear::Create({blocks.stored()}, {}, ComputeType::kBf16);
  ASSERT_TRUE(linear.ok()) << linear.status();
  const int64_t few = kMaxBlockwiseRows;
  const Matrix x = RandomMatrix(70, cols, 4);
  std::vector<float> one_by_one;
  for (int64_t r = 0; r < few; ++r) {
    const std::vector<float> row = Outputs(linear->get(), x, r, 1);
    one_by_one.insert(one_by_one.end(), row.begin(), row.end());
    if (r == 0) continue;
    ASSERT_EQ(Outputs(linear->get(), x, 0, r + 1), one_by_one)
        << Info(format).name << ", " << r + 1 << " rows, depth " << cols;
  }
  if (!MultipliesByTiles(blocks) && !MultipliesCodesOnly(blocks)) return;
  const std::vector<float> all = Outputs(linear->get(), x, 0, x.rows);
  if (MultipliesCodesOnly(blocks)) {
    ASSERT_TRUE(std::equal(one_by_one.begin(), one_by_one.end(), all.begin()))
        << Info(format).name << ", " << x.rows << " rows, depth " << cols;
  }
  for (const int64_t rows : {few + 1, int64_t{32}, int64_t{33}, int64_t{64}}) {
    const int64_t first = x.rows - rows;
    const std::vector<float> last_rows(all.begin() + first * kOutputs, all.end());
    ASSERT_EQ(Outputs(linear->get(), x, first, rows), last_rows)
        << Info(format).name << ", " << rows << " rows, depth " << cols;
  }
}

TEST(QuantizedMatmulTest, RowsAreIndependent) {
  ForEachDispatchTarget([] {
    for (const WeightFormat format : kBlockFormats) {
      for (const int64_t cols : OddCols(format)) {
        CheckRowsAreIndependent(format, cols);
        if (::testing::Test::HasFatalFailure()) return;
      }
    }
  });
}

// Warm chooses among ways by their time; no result may show which.
TEST(QuantizedMatmulTest, WarmChangesNothing) {
  constexpr int64_t kOutputs = 2000, kCols = 1024;  // enough to be measured
  for (const WeightFormat format : {WeightFormat::kQ4_0, WeightFormat::kQ6_K}) {
    const RandomBlocks blocks(format, kOutputs, kCols, 3);
    auto linear = Linear::Create({blocks.stored()}, {}, ComputeType::kBf16);
    ASSERT_TRUE(linear.ok()) << linear.status();
    const Matrix x = RandomMatrix(kMaxBlockwiseRows, kCols, 4);
    const std::vector<float> before = Outputs(linear->get(), x, 0, x.rows);
    (*linear)->Warm(512);
    for (int64_t rows = 1; rows <= x.rows; ++rows) {
      const std::vector<float> want(before.begin(), before.begin() + rows * kOutputs);
      ASSERT_EQ(Outputs(linear->get(), x, 0, rows), want) << Info(format).name << ", " << rows;
    }
  }
}

// More rows than take one unpacking of the weights, and outputs that end within a panel.
TEST(QuantizedMatmulTest, ManyRowsGiveWhatSomeGive) {
  const RandomBlocks blocks(WeightFormat::kQ4_0, 150, 288, 3);
  auto linear = Linear::Create({blocks.stored()}, {}, ComputeType::kBf16);
  ASSERT_TRUE(linear.ok()) << linear.status();
  if (!MultipliesByTiles(blocks) && !MultipliesCodesOnly(blocks)) {
    GTEST_SKIP() << "oneDNN multiplies many rows here";
  }
  const Matrix x = RandomMatrix(1100, 288, 4);
  const std::vector<float> all = Outputs(linear->get(), x, 0, x.rows);
  for (int64_t first = 0; first < x.rows; first += 100) {
    const std::vector<float> some(all.begin() + first * 150, all.begin() + (first + 100) * 150);
    ASSERT_EQ(Outputs(linear->get(), x, first, 100), some) << first;
  }
}

// To the bit, with every number of panels and rows that registers split differently.
TEST(BlockRowsTest, GiveWhatBlockDotGives) {
  bool any = false;
  ForEachDispatchTarget([&any] {
    for (const WeightFormat format : kBlockFormats) {
      for (const int64_t cols : OddCols(format)) {
        SCOPED_TRACE(std::string(Info(format).name));
        const RandomBlocks blocks(format, kMaxRowPanels * kPanelRows, cols, 3);
        const PackedBlocks packed = PackBlocks(blocks.stored());
        if (!HasBlockRows(packed.kind)) continue;
        any = true;
        constexpr int64_t kRows = 21;
        const int64_t stride = cols + 64;
        AlignedBuffer<int8_t> codes(RoundUpBlockRows(kRows) * stride);
        AlignedBuffer<float> scales(kRows * cols / kStepInputs);
        AlignedBuffer<int32_t> code_sums(kRows * cols / 16);
        const Matrix x = RandomMatrix(kRows, cols, 4);
        for (int64_t r = 0; r < kRows; ++r) {
          QuantizeInputs(x.row(r), cols, codes.data() + r * stride,
                         scales.data() + r * cols / kStepInputs, code_sums.data() + r * cols / 16);
        }
        const QuantizedInputs inputs{codes.data(), scales.data(), code_sums.data(), cols, stride};
        std::vector<BlockPanel> panels;
        std::vector<std::vector<float>> expected;  // [panel][row][16]
        for (int p = 0; p < kMaxRowPanels; ++p) {
          panels.push_back(packed.panel(p));
          expected.emplace_back(kRows * kPanelRows);
          BlockDot(panels.back(), inputs, kRows, StreamAsking::kHalf, expected.back().data());
        }
        for (const int64_t first : {0, 2}) {
          for (const int64_t rows : std::vector<int64_t>{1, 2, 3, 4, 5, 7, 13, kRows - first}) {
            for (const int count : {1, 2, 5, kMaxRowPanels}) {
              AlignedBuffer<uint8_t> scratch(BlockRowsScratch(rows));
              AlignedBuffer<float> sums(RoundUpBlockRows(rows) * count * kPanelRows);
              BlockRowsProduct(panels.data(), count, inputs.From(first), rows, scratch.data(),
                               sums.data());
              for (int64_t i = 0; i < rows * count * kPanelRows; ++i) {
                const int64_t r = i / kPanelRows / count, p = i / kPanelRows % count;
                const float want = expected[p][(first + r) * kPanelRows + i % kPanelRows];
                ASSERT_EQ(std::bit_cast<uint32_t>(sums.data()[i]), std::bit_cast<uint32_t>(want))
                    << "panel " << p << ", row " << r << " of " << rows << ", depth " << cols;
              }
            }
          }
        }
      }
    }
  });
  if (!any) GTEST_SKIP() << "no AVX-512 VNNI";
}

// Rows of the unit matrix give the weights as they are multiplied.
TEST(BlockTilesTest, MultiplyTheUnpackedWeights) {
  if (!HasAmxProducts()) GTEST_SKIP() << "no AMX";
  for (const WeightFormat format : kBlockFormats) {
    for (const int64_t cols : OddCols(format)) {
      SCOPED_TRACE(std::string(Info(format).name));
      const RandomBlocks blocks(format, 48, cols, 3);
      const PackedBlocks packed = PackBlocks(blocks.stored());
      if (!HasBlockTiles(packed.kind)) continue;
      std::vector<BlockPanel> panels;
      for (int64_t p = 0; p < 3; ++p) panels.push_back(packed.panel(p));
      AlignedBuffer<bf16> x(cols * cols), tiles(PackedInputValues(cols, cols));
      std::fill_n(x.data(), x.size(), ToBf16(0.0f));
      for (int64_t k = 0; k < cols; ++k) x.data()[k * cols + k] = ToBf16(1.0f);
      for (int64_t chunk = 0; chunk * kChunkSteps * kStepInputs < cols; ++chunk) {
        PackTileInputs(x.data(), cols, cols, chunk, tiles.data());
      }
      AlignedBuffer<bf16> weights(TileWeightValues(3));
      AlignedBuffer<float> sums(TileSums(3, cols));
      ConfigureAmxTiles();
      BlockTileProduct(panels.data(), 3, tiles.data(), cols, cols, weights.data(), sums.data());
      ReleaseAmxTiles();
      for (int64_t row = 0; row < 48; ++row) {
        for (int64_t k = 0; k < cols; ++k) {
          const int64_t tile = k / kBlockTileRows * 3 + row / kPanelRows;
          const float sum = sums.data()[(tile * kBlockTileRows + k % kBlockTileRows) * kPanelRows +
                                        row % kPanelRows];
          ASSERT_EQ(sum, ToFloat(ToBf16(blocks.values.at(row, k)))) << row << "," << k;
        }
      }
    }
  }
}

// Blocks beside plain numbers: unpacked at load.
TEST(QuantizedMatmulTest, MixesWithPlainParts) {
  const RandomBlocks blocks(WeightFormat::kQ5_1, 20, 64, 3);
  const Matrix plain = RandomMatrix(12, 64, 4);
  auto linear =
      Linear::Create({blocks.stored(), StoredMatrix{plain.data.data(), WeightFormat::kF32, 12, 64}},
                     {}, ComputeType::kF32);
  ASSERT_TRUE(linear.ok()) << linear.status();
  const Matrix x = RandomMatrix(2, 64, 5);
  MatmulInput input(ComputeType::kF32);
  input.Resize(2, 64);
  for (int64_t r = 0; r < 2; ++r) input.SetRow(r, x.row(r));
  std::vector<float> y(2 * 32);
  (*linear)->Run(input, {y.data(), 2, 32, 32}, false);
  for (int64_t i = 0; i < 2; ++i) {
    for (int64_t j = 0; j < 32; ++j) {
      const double want =
          j < 20 ? Expect(x, i, blocks.values, j).value : Expect(x, i, plain, j - 20).value;
      EXPECT_NEAR(y[i * 32 + j], want, 1e-4);
    }
  }
}

}  // namespace
}  // namespace kvasir
