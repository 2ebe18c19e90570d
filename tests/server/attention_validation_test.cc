#include "server/frontend/validation/attention_validation.h"

#include <optional>
#include <string>

#include "gmock/gmock.h"
#include "google/protobuf/text_format.h"
#include "gtest/gtest.h"
#include "runtime/ops/sparse/sparq_method.h"
#include "tests/server/error_details.h"

namespace kvasir {
namespace {

using ::kvasir::testing::ViolationOf;
using ::testing::HasSubstr;

class AttentionValidationTest : public ::testing::Test {
 protected:
  AttentionValidationTest() { policy_.keeps_sparq_keys = true; }

  std::optional<SparqRequest> Check(const std::string& text) {
    v1::Attention attention;
    EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &attention)) << text;
    Violations violations;
    const auto asked = CheckAttention(attention, policy_, {64, 2048}, &violations);
    status_ = violations.status();
    if (asked == nullptr) return std::nullopt;
    return static_cast<const SparqMethod&>(*asked).request();
  }
  // What is said of a field; fails when nothing is.
  std::string FaultOf(const std::string& text, const std::string& field) {
    Check(text);
    const std::string fault = ViolationOf(status_, field);
    EXPECT_NE(fault, "") << text << ": " << status_;
    return fault;
  }

  AttentionPolicy policy_;
  absl::Status status_;
};

TEST_F(AttentionValidationTest, WhatSaysNothingGetsWhatTheOperatorChose) {
  EXPECT_FALSE(Check("").has_value());
  policy_.sparse_by_default = true;
  policy_.compression = 4;
  policy_.min_tokens = 77;
  policy_.min_rank = 12;
  policy_.min_top_k = 99;
  const auto asked = Check("");
  ASSERT_TRUE(asked.has_value());
  EXPECT_EQ(asked->compression, 4);
  EXPECT_EQ(asked->min_tokens, 77);
  EXPECT_EQ(asked->least_rank, 12);
  EXPECT_EQ(asked->least_top_k, 99);
  EXPECT_TRUE(asked->only_where_faster);
  EXPECT_FALSE(Check("dense {}").has_value());
  policy_.keeps_sparq_keys = false;
  EXPECT_FALSE(Check("").has_value());
}

TEST_F(AttentionValidationTest, AutoIsSparseWhereItMayBe) {
  const auto asked = Check("auto { compression: 2 }");
  ASSERT_TRUE(status_.ok() && asked.has_value()) << status_;
  EXPECT_EQ(asked->compression, 2);
  EXPECT_TRUE(asked->only_where_faster);
  EXPECT_FALSE(asked->rank.has_value());
  policy_.allow_sparq = false;
  EXPECT_FALSE(Check("auto {}").has_value());
  EXPECT_TRUE(status_.ok());
  EXPECT_THAT(FaultOf("sparq {}", "attention.sparq"), HasSubstr("attention.allow_sparq"));
  EXPECT_THAT(FaultOf("auto { compression: 65 }", "attention.auto.compression"),
              HasSubstr("65 is outside the range 1 to 64"));
}

TEST_F(AttentionValidationTest, VariantsReachTheEngine) {
  const auto asked = Check(
      "sparq { least_mass: 0.9 max_top_k: 512 reuse_picks: true mean_value: "
      "MEAN_VALUE_UNSELECTED }");
  ASSERT_TRUE(status_.ok()) << status_;
  EXPECT_FALSE(asked->only_where_faster);
  EXPECT_EQ(asked->least_mass, 0.9f);
  EXPECT_EQ(asked->max_top_k, 512);
  EXPECT_TRUE(asked->reuse_picks);
  EXPECT_EQ(asked->mean_value, true);
  EXPECT_TRUE(asked->mean_of_unselected);
  EXPECT_FALSE(asked->all_dimensions);
  const auto plain = Check("sparq {}");
  EXPECT_EQ(plain->least_mass, 0);
  EXPECT_FALSE(plain->reuse_picks);
  EXPECT_FALSE(plain->mean_of_unselected);

  FaultOf("sparq { least_mass: 1.5 }", "attention.sparq.least_mass");
  FaultOf("sparq { least_mass: nan }", "attention.sparq.least_mass");
  FaultOf("sparq { least_mass: -0.1 }", "attention.sparq.least_mass");
  FaultOf("sparq { max_top_k: 512 }", "attention.sparq.max_top_k");
  FaultOf("sparq { least_mass: 0.5 top_k: 100 max_top_k: 99 }", "attention.sparq.max_top_k");
  FaultOf("sparq { least_mass: 0.5 max_top_k: 2049 }", "attention.sparq.max_top_k");
}

TEST_F(AttentionValidationTest, TheRankingForComparisonIsTheOperatorsToAllow) {
  EXPECT_THAT(FaultOf("sparq { ranking: SPARQ_RANKING_EXACT }", "attention.sparq.ranking"),
              HasSubstr("attention.allow_experimental"));
  policy_.allow_experimental = true;
  EXPECT_TRUE(Check("sparq { ranking: SPARQ_RANKING_EXACT }")->all_dimensions);
  EXPECT_TRUE(status_.ok());
  for (const std::string gone : {"SPARQ_RANKING_WINDOW", "SPARQ_RANKING_BLOCK_BOUNDS"}) {
    EXPECT_THAT(FaultOf("sparq { ranking: " + gone + " }", "attention.sparq.ranking"),
                HasSubstr(gone + " is no longer served"));
  }
  for (const char* other :
       {"rank: 8", "least_mass: 0.5", "reuse_picks: true", "mean_value: MEAN_VALUE_ON"}) {
    FaultOf(std::string("sparq { ranking: SPARQ_RANKING_EXACT ") + other + " }",
            "attention.sparq.ranking");
  }
  v1::Attention unknown;
  unknown.mutable_sparq()->set_ranking(static_cast<v1::SparqRanking>(9));
  Violations violations;
  CheckAttention(unknown, policy_, {64, 2048}, &violations);
  EXPECT_THAT(ViolationOf(violations.status(), "attention.sparq.ranking"),
              HasSubstr("9 is none of its values"));
}

TEST_F(AttentionValidationTest, TheOperatorsLimitsHold) {
  policy_.max_compression = 4;
  policy_.min_rank = 8;
  policy_.min_top_k = 128;
  EXPECT_THAT(FaultOf("sparq { compression: 8 }", "attention.sparq.compression"),
              HasSubstr("attention.max_compression"));
  EXPECT_THAT(FaultOf("sparq { rank: 7 }", "attention.sparq.rank"),
              HasSubstr("7 is outside the range 8 to 64"));
  EXPECT_THAT(FaultOf("sparq { top_k: 127 }", "attention.sparq.top_k"),
              HasSubstr("127 is outside the range 128 to 2048"));
  EXPECT_TRUE(Check("sparq { rank: 8 top_k: 128 compression: 4 }").has_value());
  EXPECT_TRUE(status_.ok()) << status_;
  // A limit beyond what the model has leaves what the model has.
  policy_.min_rank = 1000;
  EXPECT_TRUE(Check("sparq { rank: 64 }").has_value());
  EXPECT_TRUE(status_.ok()) << status_;
}

}  // namespace
}  // namespace kvasir
