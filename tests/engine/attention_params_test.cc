#include "runtime/engine/attention_params.h"

#include <gtest/gtest.h>

namespace kvasir {
namespace {

// r / (2 d) + k / S, the share of dense attention's bytes.
double Share(const SparqParams& params, int head_dim, int context) {
  return params.rank / (2.0 * head_dim) + static_cast<double>(params.top_k) / context;
}

TEST(ResolveSparq, MeetsTheCompressionByTheByteModel) {
  for (const float compression : {2.0f, 4.0f, 8.0f}) {
    SparqRequest request;
    request.compression = compression;
    const SparqParams params = ResolveSparq(request, {128, 4}, 32768);
    EXPECT_NEAR(Share(params, 128, 32768), 1 / compression, 1e-3);
    EXPECT_EQ(params.local_window, params.top_k / 4);
    EXPECT_FALSE(params.mean_value);
  }
  EXPECT_TRUE(ResolveSparq({}, {128, 1}, 32768).mean_value);
}

TEST(ResolveSparq, KeepsFloorsAndWhatWasAsked) {
  SparqRequest request;
  request.compression = 64;
  EXPECT_EQ(ResolveSparq(request, {64, 1}, 4096).rank, 8);
  EXPECT_EQ(ResolveSparq(request, {64, 1}, 4096).top_k, 128);
  EXPECT_EQ(ResolveSparq(request, {4, 1}, 4096).rank, 4);
  request.rank = 3;
  request.top_k = 10;
  request.local_window = 50;
  request.mean_value = false;
  const SparqParams params = ResolveSparq(request, {64, 1}, 4096);
  EXPECT_EQ(params.rank, 3);
  EXPECT_EQ(params.top_k, 10);
  EXPECT_EQ(params.local_window, 10);
  EXPECT_FALSE(params.mean_value);
}

TEST(ResolveSparq, LetsPicksGrowFourfoldOrAsAsked) {
  SparqRequest request;
  EXPECT_EQ(ResolveSparq(request, {64, 1}, 32768).max_top_k, 0);
  request.least_mass = 0.9f;
  request.top_k = 1000;
  EXPECT_EQ(ResolveSparq(request, {64, 1}, 32768).max_top_k, 4000);
  EXPECT_EQ(ResolveSparq(request, {64, 1}, 3000).max_top_k, 3000);
  request.max_top_k = 1500;
  EXPECT_EQ(ResolveSparq(request, {64, 1}, 32768).max_top_k, 1500);
  request.max_top_k = 1;
  EXPECT_EQ(ResolveSparq(request, {64, 1}, 32768).max_top_k, 1000);
}

TEST(ResolveSparq, GivesBaselinesTheSameBytes) {
  SparqRequest request;
  request.compression = 4;
  request.mean_value = true;
  request.least_mass = 0.5f;
  for (const auto ranking : {SparseRanking::kExact, SparseRanking::kWindow}) {
    request.ranking = ranking;
    const SparqParams params = ResolveSparq(request, {64, 1, 32}, 32768);
    EXPECT_EQ(params.top_k, 8192);
    EXPECT_EQ(params.rank, 64);
    EXPECT_FALSE(params.mean_value);
    EXPECT_EQ(params.least_mass, 0);
  }
  request.ranking = SparseRanking::kBlockBounds;
  EXPECT_EQ(ResolveSparq(request, {64, 1, 32}, 32768).top_k, 8192 - 1024);
}

TEST(FirstSparsePosition, IsBehindThePromptAndTheFloorAndWhereNotAllArePicked) {
  SparqRequest request;
  request.min_tokens = 1000;
  SparqParams params;
  params.rank = 16;
  params.top_k = 500;
  const AttentionShape shape{128, 4};
  // The token at position 999 is the first with 1000 to choose from.
  EXPECT_EQ(FirstSparsePosition(request, shape, params, 10), 999);
  EXPECT_EQ(FirstSparsePosition(request, shape, params, 3000), 3000);
  request.min_tokens = 0;
  EXPECT_EQ(FirstSparsePosition(request, shape, params, 10), 500);
}

TEST(FirstSparsePosition, OfAutoReadsSoMuchLessThatItIsFaster) {
  constexpr int kContext = 65536, kPrompt = 2100;
  const AttentionShape shape{128, 4};
  for (const float compression : {2.0f, 4.0f, 8.0f, 64.0f}) {
    SparqRequest request;
    request.compression = compression;
    request.min_tokens = 2000;
    request.only_where_faster = true;
    const SparqParams params = ResolveSparq(request, shape, kContext);
    SparqParams costs = params;
    costs.top_k += static_cast<int32_t>(kChoosingShare * request.min_tokens);
    const int first = FirstSparsePosition(request, shape, params, kPrompt);
    EXPECT_LE(Share(costs, 128, first + 1), 1 / kMinSparqGain) << compression;
    if (first > kPrompt) {
      EXPECT_GT(Share(costs, 128, first - 1), 1 / kMinSparqGain) << compression;
    }
    EXPECT_LT(first, kContext) << compression;
  }
  // Short contexts gain little: half of the bytes are not few enough at 2048 positions.
  SparqRequest half;
  half.compression = 2;
  half.only_where_faster = true;
  EXPECT_GT(FirstSparsePosition(half, shape, ResolveSparq(half, shape, 2048), 0), 2048);
  EXPECT_EQ(FirstSparsePosition(half, shape, ResolveSparq(half, shape, 4096), 4050), 4050);
  SparqRequest request;
  request.compression = 1;  // ranking alone would read half
  request.only_where_faster = true;
  const SparqParams params = ResolveSparq(request, shape, kContext);
  EXPECT_GE(FirstSparsePosition(request, shape, params, kPrompt), kContext);
}

}  // namespace
}  // namespace kvasir
