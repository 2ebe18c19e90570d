#include "runtime/ops/sparse/sparq_method.h"

#include <gtest/gtest.h>

#include <vector>

#include "runtime/ops/sparse/sparq_attention.h"

namespace kvasir {
namespace {

// r / (2 d) + k / S, the share of dense attention's bytes.
double Share(const SparseParams& params, int head_dim, int context) {
  return params.rank / (2.0 * head_dim) + static_cast<double>(params.top_k) / context;
}

TEST(ResolveSparq, MeetsTheCompressionByTheByteModel) {
  for (const float compression : {2.0f, 4.0f, 8.0f}) {
    SparqRequest request;
    request.compression = compression;
    const SparseParams params = ResolveSparq(request, {128, 4}, 32768);
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
  const SparseParams params = ResolveSparq(request, {64, 1}, 4096);
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

TEST(ResolveSparq, GivesAllDimensionsTheWholeTargetAsPicks) {
  SparqRequest request;
  request.compression = 4;
  request.mean_value = true;
  request.least_mass = 0.5f;
  request.all_dimensions = true;
  const SparseParams params = ResolveSparq(request, {64, 1}, 32768);
  EXPECT_EQ(params.top_k, 8192);
  EXPECT_EQ(params.rank, 64);
  EXPECT_FALSE(params.mean_value);
  EXPECT_EQ(params.least_mass, 0);
}

TEST(FirstSparsePosition, IsBehindThePromptAndTheFloorAndWhereNotAllArePicked) {
  SparqRequest request;
  request.min_tokens = 1000;
  SparseParams params;
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
    const SparseParams params = ResolveSparq(request, shape, kContext);
    SparseParams costs = params;
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
  const SparseParams params = ResolveSparq(request, shape, kContext);
  EXPECT_GE(FirstSparsePosition(request, shape, params, kPrompt), kContext);
}

// Layers differ in heads and dimensions, and some are not SparQ's: each has its own parameters.
TEST(SparqMethod, ResolvesEachLayerForItself) {
  KvLayoutSpec spec;
  spec.layers = UniformKvLayers({0, 1, 1, 3, 4}, 2, 64, 64);
  spec.layers[0].kv_heads = 4;  // of 4 query heads: no groups
  spec.layers[0].k_dim = spec.layers[0].v_dim = 128;
  spec.layers[4].window = 64;
  spec.k_columns = KvColumns::kSame;
  const KvLayout layout = KvLayout::Create(spec).value();
  SparqRequest request;
  request.compression = 4;
  request.min_tokens = 100;
  // Layer 3's scores are not plain; layer 4 keeps no columns.
  const std::vector<int32_t> heads = {4, 8, 4, 0, 8};
  const auto resolved = SparqMethod(request).Resolve(layout, heads, 20, 8192);
  ASSERT_NE(resolved, nullptr);
  const auto& sparq = static_cast<const ResolvedSparq&>(*resolved);
  EXPECT_TRUE(sparq.Covers(0) && sparq.Covers(1) && sparq.Covers(2));
  EXPECT_FALSE(sparq.Covers(3));
  EXPECT_FALSE(sparq.Covers(4));
  EXPECT_EQ(sparq.params(0).rank, 32);
  EXPECT_EQ(sparq.params(1).rank, 16);
  EXPECT_TRUE(sparq.params(0).mean_value);
  EXPECT_FALSE(sparq.params(1).mean_value);
  EXPECT_FALSE(sparq.params(2).mean_value);
  EXPECT_EQ(sparq.first_position(), 1024);  // top_k
  EXPECT_EQ(sparq.BytesRead(layout, 1, 8192),
            SparqBytesRead(layout, 1, 8192, ResolveSparq(request, {64, 4}, 8192)));

  EXPECT_NE(SparqMethod(request).Resolve(layout, {0, 0, 0, 8, 8}, 20, 8192), nullptr);
  EXPECT_EQ(SparqMethod(request).Resolve(layout, {0, 0, 0, 0, 8}, 20, 8192), nullptr);
  spec.k_columns = KvColumns::kOff;
  EXPECT_EQ(SparqMethod(request).Resolve(KvLayout::Create(spec).value(), heads, 20, 8192), nullptr);
}

}  // namespace
}  // namespace kvasir
