// Panel products against sums written out: every number of rows that register tiles are cut from,
// every number of panels, odd depths, extreme values, every dispatch target.
#include "runtime/kernels/panels/panel_kernels.h"

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "base/bf16.h"
#include "gtest/gtest.h"
#include "tests/reference/dispatch_targets.h"
#include "tests/reference/naive_ops.h"

namespace kvasir {
namespace {

using reference::Matrix;
using reference::RandomMatrix;

void Convert(float from, float* to) { *to = from; }
void Convert(float from, bf16* to) { *to = ToBf16(from); }
void Convert(float from, f16* to) { *to = ToF16(from); }

// Where input k of output j lies in a panel.
size_t At(const float*, size_t k, size_t j) { return k * kPanelOutputs + j; }
size_t At(const f16*, size_t k, size_t j) { return k * kPanelOutputs + j; }
size_t At(const bf16*, size_t k, size_t j) { return (k / 2 * kPanelOutputs + j) * 2 + k % 2; }
size_t At(const int8_t*, size_t k, size_t j) { return (k / 4 * kPanelOutputs + j) * 4 + k % 4; }

template <typename T>
void CheckFloats(size_t depth, size_t panels) {
  const size_t panel_stride = depth * kPanelOutputs + 32;
  const size_t outputs = panels * kPanelOutputs;
  Matrix w = RandomMatrix(static_cast<int64_t>(outputs), static_cast<int64_t>(depth), 1);
  if (sizeof(T) == sizeof(f16)) w.at(0, 0) = 0x1p-20f;  // f16 has it as a subnormal
  std::vector<T> packed(panels * panel_stride);
  for (size_t j = 0; j < outputs; ++j) {
    for (size_t k = 0; k < depth; ++k) {
      T* const to =
          &packed[j / kPanelOutputs * panel_stride + At(packed.data(), k, j % kPanelOutputs)];
      Convert(w.at(j, k), to);
      w.at(j, k) = ToFloat(*to);
    }
  }
  const WeightPanels<T> weights{packed.data(), panel_stride, panels};
  const size_t stride = depth + 3;
  const Matrix x = RandomMatrix(40, static_cast<int64_t>(stride), 2);
  std::vector<float> alone(40 * kSumColumns);
  for (size_t r = 0; r < 40; ++r) {
    PanelProduct(x.row(r), stride, 1, depth, weights, false, &alone[r * kSumColumns]);
    for (size_t j = 0; j < outputs; ++j) {
      double want = 0, magnitude = 0;
      for (size_t k = 0; k < depth; ++k) {
        const double product = static_cast<double>(x.at(r, k)) * w.at(j, k);
        want += product;
        magnitude += std::abs(product);
      }
      ASSERT_NEAR(alone[r * kSumColumns + j], want,
                  magnitude * (8 + std::sqrt(static_cast<double>(depth))) * 0x1p-24)
          << "row " << r << ", output " << j << ", depth " << depth;
    }
  }
  for (const size_t rows : {2, 3, 4, 5, 6, 7, 8, 13, 40}) {
    std::vector<float> sums((rows + 1) * kSumColumns, 7.0f);
    PanelProduct(x.data.data(), stride, rows, depth, weights, false, sums.data());
    for (size_t r = 0; r < rows; ++r) {
      ASSERT_EQ(
          std::memcmp(&sums[r * kSumColumns], &alone[r * kSumColumns], outputs * sizeof(float)), 0)
          << "row " << r << " of " << rows << ", depth " << depth;
    }
    EXPECT_EQ(sums[rows * kSumColumns], 7.0f);
    // In two parts, which have the same sums between them.
    if (depth < 4) continue;
    const WeightPanels<T> rest{packed.data() + 2 * kPanelOutputs, panel_stride, panels};
    std::vector<float> parts(rows * kSumColumns);
    PanelProduct(x.data.data(), stride, rows, 2, weights, false, parts.data());
    PanelProduct(x.data.data() + 2, stride, rows, depth - 2, rest, true, parts.data());
    for (size_t r = 0; r < rows; ++r) {
      ASSERT_EQ(
          std::memcmp(&parts[r * kSumColumns], &alone[r * kSumColumns], outputs * sizeof(float)),
          0);
    }
  }
}

TEST(PanelProduct, OfFloatsIsASumInOrder) {
  ForEachDispatchTarget([] {
    for (const size_t depth : {2, 64, 130, 302}) {
      for (const size_t panels : {1, 3, 4}) {
        CheckFloats<float>(depth, panels);
        CheckFloats<bf16>(depth, panels);
        CheckFloats<f16>(depth, panels);
        if (::testing::Test::HasFatalFailure()) return;
      }
    }
  });
}

TEST(PanelProduct, OfBytesIsExact) {
  if (!HasInt8Panels()) GTEST_SKIP() << "no AVX2 here: panels of int8 were not tested";
  std::mt19937 random(5);
  // Extremes more often than not: pairs of them almost fill 16 bits.
  const auto extreme = [&](int least, int most) {
    const auto v = random() % 4;
    return v == 0   ? least
           : v == 1 ? most
                    : least + static_cast<int>(random() % static_cast<unsigned>(most - least + 1));
  };
  for (const size_t depth : {4, 64, 132, 304}) {
    for (const size_t panels : {1, 3, 4}) {
      const size_t panel_stride = depth * kPanelOutputs + 64;
      std::vector<int8_t> packed(panels * panel_stride);
      for (int8_t& v : packed) v = static_cast<int8_t>(extreme(-kInt8PanelLimit, kInt8PanelLimit));
      const WeightPanels<int8_t> weights{packed.data(), panel_stride, panels};
      const size_t stride = depth + 5;
      for (const size_t rows : {1, 2, 3, 4, 5, 6, 9, 37}) {
        std::vector<uint8_t> x(rows * stride);
        for (uint8_t& v : x) v = static_cast<uint8_t>(extreme(0, 255));
        std::vector<int32_t> sums(rows * kSumColumns, 11), added(rows * kSumColumns, 11);
        PanelProduct(x.data(), stride, rows, depth, weights, false, sums.data());
        PanelProduct(x.data(), stride, rows, depth, weights, true, added.data());
        for (size_t r = 0; r < rows; ++r) {
          for (size_t j = 0; j < panels * kPanelOutputs; ++j) {
            const int8_t* const panel = &packed[j / kPanelOutputs * panel_stride];
            int32_t want = 0;
            for (size_t k = 0; k < depth; ++k)
              want += x[r * stride + k] * panel[At(panel, k, j % kPanelOutputs)];
            ASSERT_EQ(sums[r * kSumColumns + j], want)
                << "row " << r << " of " << rows << ", output " << j << ", depth " << depth;
            ASSERT_EQ(added[r * kSumColumns + j], want + 11);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace kvasir
