// The model's own sampling defaults (generation_config.json) in requests that do not say.
#include "gtest/gtest.h"
#include "server/frontend/validation/request_validation.h"
#include "tests/server/small_model.h"

namespace kvasir::testing {
namespace {

v1::GenerateRequest Request() {
  v1::GenerateRequest message;
  message.mutable_token_ids()->add_ids(2);
  return message;
}

TEST(SamplingDefaultsTest, ModelsStandBeforeTheProtos) {
  ModelSpec spec = SmallSpec();
  spec.default_temperature = 0.7f;
  spec.default_top_p = 0.9f;
  spec.default_top_k = 40;
  spec.default_min_p = 0.05f;
  spec.default_repetition_penalty = 1.1f;
  const auto absent = CheckGenerateRequest(Request(), SmallLimits(spec), "");
  ASSERT_TRUE(absent.ok()) << absent.status();
  const SamplingParams& params = absent->request.sampling;
  EXPECT_EQ(params.temperature, 0.7f);
  EXPECT_EQ(params.top_p, 0.9f);
  EXPECT_EQ(params.top_k, 40);
  EXPECT_EQ(params.min_p, 0.05f);
  EXPECT_EQ(params.repetition_penalty, 1.1f);
}

TEST(SamplingDefaultsTest, AZeroThatTheClientWroteIsNotAnAbsentField) {
  ModelSpec spec = SmallSpec();
  spec.default_temperature = 0.7f;
  spec.default_top_p = 0.9f;
  spec.default_top_k = 40;
  spec.default_min_p = 0.05f;
  spec.default_repetition_penalty = 1.1f;
  v1::GenerateRequest message = Request();
  message.mutable_sampling()->set_temperature(0);
  message.mutable_sampling()->set_top_p(1);
  message.mutable_sampling()->set_top_k(0);
  message.mutable_sampling()->set_min_p(0);
  message.mutable_sampling()->set_repetition_penalty(1);
  const auto given = CheckGenerateRequest(message, SmallLimits(spec), "");
  ASSERT_TRUE(given.ok()) << given.status();
  const SamplingParams& params = given->request.sampling;
  EXPECT_EQ(params.temperature, 0.0f);
  EXPECT_EQ(params.top_p, 1.0f);
  EXPECT_EQ(params.top_k, 0);
  EXPECT_EQ(params.min_p, 0.0f);
  EXPECT_EQ(params.repetition_penalty, 1.0f);
}

}  // namespace
}  // namespace kvasir::testing
