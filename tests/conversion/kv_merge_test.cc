// The sums behind conversions: SYSTEMS T4's vectors, and random values against loops that say what
// the recipes mean.

#include "runtime/conversion/kv_merge.h"

#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kvasir::testing {
namespace {

using ::testing::ElementsAre;

std::vector<float> MergedConstants(LayerRecipe layers, const std::vector<float>& constants) {
  KvMerge merge(HeadRecipe::kMean, layers, 1, 2);
  for (const float constant : constants) merge.Add({constant, constant});
  return merge.Result();
}

TEST(KvMergeTest, MeanOfOneAndThreeIsTwo) {
  KvMerge merge(HeadRecipe::kMean, LayerRecipe::kFirst, 1, 1);
  merge.Add({1, 3});
  EXPECT_THAT(merge.Result(), ElementsAre(2));
}

// GQA pools of SYSTEMS T5.
TEST(KvMergeTest, PoolsNeighboursOfTheToyHeads) {
  KvMerge merge(HeadRecipe::kMean, LayerRecipe::kFirst, 2, 2);
  merge.Add({2, 3, 3, 4, 4, 5, 5, 6});
  EXPECT_THAT(merge.Result(), ElementsAre(2.5f, 3.5f, 4.5f, 5.5f));
}

TEST(KvMergeTest, ThreeLayersOfOneTwoFour) {
  EXPECT_THAT(MergedConstants(LayerRecipe::kMean, {1, 2, 4}), ElementsAre(7.0f / 3, 7.0f / 3));
  EXPECT_THAT(MergedConstants(LayerRecipe::kRunningMean, {1, 2, 4}), ElementsAre(2.75f, 2.75f));
  EXPECT_THAT(MergedConstants(LayerRecipe::kFirst, {1, 2, 4}), ElementsAre(1, 1));
}

// MLKV-1 of 12 layers as the published code makes it: half of the weight is the last layer's.
TEST(KvMergeTest, TheRunningMeanGivesTheLastLayerHalf) {
  std::vector<float> layers(12, 0.0f);
  layers.back() = 1;
  EXPECT_THAT(MergedConstants(LayerRecipe::kRunningMean, layers), ElementsAre(0.5f, 0.5f));
  EXPECT_THAT(MergedConstants(LayerRecipe::kMean, layers), ElementsAre(1.0f / 12, 1.0f / 12));
}

TEST(KvMergeTest, EqualHeadsStayToTheBit) {
  // 0.1f has no short binary form: a mean that rounded on the way would show.
  KvMerge merge(HeadRecipe::kMean, LayerRecipe::kMean, 1, 1);
  merge.Add({0.1f, 0.1f, 0.1f});
  merge.Add({0.1f, 0.1f, 0.1f});
  EXPECT_THAT(merge.Result(), ElementsAre(0.1f));
}

TEST(KvMergeTest, OnlyTheFirstLayerIsNeeded) {
  KvMerge first(HeadRecipe::kMean, LayerRecipe::kFirst, 1, 1);
  EXPECT_FALSE(first.complete());
  first.Add({1});
  EXPECT_TRUE(first.complete());
  KvMerge mean(HeadRecipe::kMean, LayerRecipe::kMean, 1, 1);
  mean.Add({1});
  EXPECT_FALSE(mean.complete());
}

TEST(KvMergeTest, RandomValuesOfOddShapes) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  for (const int heads : {1, 3, 6, 12}) {
    for (const int groups : {1, 3}) {
      if (heads % groups != 0) continue;
      for (const int64_t head_values : {1, 7, 33}) {
        for (const int num_layers : {1, 2, 5}) {
          std::vector<std::vector<float>> layers(num_layers);
          for (auto& layer : layers) {
            layer.resize(heads * head_values);
            for (float& value : layer) value = normal(random);
          }
          KvMerge mean(HeadRecipe::kMean, LayerRecipe::kMean, groups, head_values);
          KvMerge running(HeadRecipe::kMean, LayerRecipe::kRunningMean, groups, head_values);
          KvMerge first(HeadRecipe::kFirst, LayerRecipe::kMean, groups, head_values);
          for (const auto& layer : layers) {
            mean.Add(layer);
            running.Add(layer);
            first.Add(layer);
          }
          const int group_heads = heads / groups;
          const auto got_mean = mean.Result(), got_running = running.Result(),
                     got_first = first.Result();
          for (int group = 0; group < groups; ++group) {
            for (int64_t i = 0; i < head_values; ++i) {
              double all = 0, ran = 0, firsts = 0;
              for (int layer = 0; layer < num_layers; ++layer) {
                double pooled = 0;
                for (int h = 0; h < group_heads; ++h) {
                  pooled += layers[layer][(group * group_heads + h) * head_values + i];
                }
                all += pooled;
                ran = layer == 0 ? pooled / group_heads : (ran + pooled / group_heads) / 2;
                firsts += layers[layer][group * group_heads * head_values + i];
              }
              const int64_t at = group * head_values + i;
              EXPECT_NEAR(got_mean[at], all / (group_heads * num_layers), 1e-6);
              EXPECT_NEAR(got_running[at], ran, 1e-6);
              EXPECT_NEAR(got_first[at], firsts / num_layers, 1e-6);
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace kvasir::testing
