#include "server/frontend/validation/speculation_validation.h"

#include <string>

#include "gmock/gmock.h"
#include "google/protobuf/text_format.h"
#include "gtest/gtest.h"
#include "tests/server/error_details.h"

namespace kvasir {
namespace {

using ::kvasir::testing::ViolationOf;
using ::testing::HasSubstr;

class SpeculationValidationTest : public ::testing::Test {
 protected:
  SpeculationParams Check(const std::string& text) {
    v1::Speculation speculation;
    EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &speculation)) << text;
    Violations violations;
    const SpeculationParams params = CheckSpeculation(speculation, policy_, &violations);
    status_ = violations.status();
    return params;
  }
  std::string FaultOf(const std::string& text, const std::string& field) {
    Check(text);
    return ViolationOf(status_, field);
  }

  SpeculationPolicy policy_;
  absl::Status status_;
};

TEST_F(SpeculationValidationTest, WhatSaysNothingGetsWhatTheOperatorChose) {
  EXPECT_EQ(Check("").mode, SpeculationMode::kOff);
  policy_.defaults = {SpeculationMode::kDraft, 20};
  policy_.draft_model = "smaller";
  EXPECT_EQ(Check("").mode, SpeculationMode::kDraft);
  EXPECT_EQ(Check("").max_draft_tokens, 20);
  EXPECT_EQ(Check("mode: SPECULATION_MODE_OFF").mode, SpeculationMode::kOff);
  EXPECT_TRUE(status_.ok());
}

TEST_F(SpeculationValidationTest, ARequestMayAskForLess) {
  const SpeculationParams params = Check("mode: SPECULATION_MODE_NGRAM max_draft_tokens: 3");
  EXPECT_TRUE(status_.ok()) << status_;
  EXPECT_EQ(params.mode, SpeculationMode::kNgram);
  EXPECT_EQ(params.max_draft_tokens, 3);
  for (const std::string count : {"-1", "0", "9", "1000000000"}) {
    EXPECT_THAT(FaultOf("max_draft_tokens: " + count, "speculation.max_draft_tokens"),
                HasSubstr(count));
  }
}

TEST_F(SpeculationValidationTest, WhatIsNotThereIsRefused) {
  EXPECT_THAT(FaultOf("mode: SPECULATION_MODE_DRAFT", "speculation.mode"),
              HasSubstr("no draft model"));
  EXPECT_THAT(FaultOf("mode: 77", "speculation.mode"), HasSubstr("77"));
}

}  // namespace
}  // namespace kvasir
