#include "runtime/sampling/philox.h"

#include <cmath>
#include <set>
#include <vector>

#include "gtest/gtest.h"

namespace kvasir {
namespace {

// The known answers that come with Random123 (philox4x32, 10 rounds).
TEST(PhiloxTest, GivesTheKnownAnswers) {
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}),
            (PhiloxCounter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (PhiloxCounter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (PhiloxCounter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(TokenUniformTest, DependsOnEachOfItsInputs) {
  std::set<double> seen;
  for (const uint64_t seed : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 32, ~uint64_t{0}}) {
    for (int completion = 0; completion < 8; ++completion) {
      for (int position = 0; position < 64; ++position) {
        const double value = TokenUniform(seed, completion, position);
        EXPECT_GE(value, 0.0);
        EXPECT_LT(value, 1.0);
        EXPECT_EQ(value, TokenUniform(seed, completion, position));
        EXPECT_TRUE(seen.insert(value).second) << seed << " " << completion << " " << position;
      }
    }
  }
}

// Along the positions of one sequence, and along the completions of one request.
TEST(TokenUniformTest, IsUniform) {
  constexpr int kBins = 64;
  constexpr int kDraws = 64000;
  for (const bool along_positions : {true, false}) {
    std::vector<int> bins(kBins);
    for (int i = 0; i < kDraws; ++i) {
      const double value = along_positions ? TokenUniform(7, 3, i) : TokenUniform(7, i, 3);
      ++bins[static_cast<int>(value * kBins)];
    }
    double chi_square = 0;
    constexpr double kExpected = static_cast<double>(kDraws) / kBins;
    for (const int count : bins) chi_square += std::pow(count - kExpected, 2) / kExpected;
    // 63 degrees of freedom: mean 63, standard deviation 11.2; six of them.
    EXPECT_LT(chi_square, 63 + 6 * 11.2);
  }
}

}  // namespace
}  // namespace kvasir
