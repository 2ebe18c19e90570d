#include "server/config/attention_policy.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/config/checked_config.h"

namespace kvasir {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(AttentionPolicy, IsDenseAndOpenByDefault) {
  const absl::StatusOr<DaemonConfig> config = Check("models: [{path: /models/m}]\n");
  ASSERT_TRUE(config.ok()) << config.status();
  const AttentionPolicy& policy = config->models[0].attention;
  EXPECT_FALSE(policy.keeps_sparq_keys);
  EXPECT_FALSE(policy.sparse_by_default);
  EXPECT_EQ(policy.compression, 8);
  EXPECT_EQ(policy.max_compression, 64);
  EXPECT_EQ(policy.min_rank, 1);
  EXPECT_EQ(policy.min_top_k, 1);
  EXPECT_EQ(policy.min_tokens, kDefaultSparqMinTokens);
  EXPECT_TRUE(policy.allow_sparq);
  EXPECT_FALSE(policy.allow_experimental);
}

TEST(AttentionPolicy, ReadsWhatIsGiven) {
  const absl::StatusOr<DaemonConfig> config = Check(
      "models:\n"
      "- path: /models/m\n"
      "  kv_cache: {sparq_keys: int8}\n"
      "  attention: {mode: auto, max_compression: 4, min_rank: 8, min_top_k: 128, min_tokens: "
      "100,\n"
      "              allow_experimental: true}\n");
  ASSERT_TRUE(config.ok()) << config.status();
  const AttentionPolicy& policy = config->models[0].attention;
  EXPECT_TRUE(policy.keeps_sparq_keys);
  EXPECT_TRUE(policy.sparse_by_default);
  EXPECT_EQ(policy.compression, 4);  // the limit alone is enough
  EXPECT_EQ(policy.max_compression, 4);
  EXPECT_EQ(policy.min_rank, 8);
  EXPECT_EQ(policy.min_top_k, 128);
  EXPECT_EQ(policy.min_tokens, 100);
  EXPECT_TRUE(policy.allow_experimental);
}

TEST(AttentionPolicy, SaysWhatIsWrong) {
  EXPECT_THAT(FaultOf("models:\n- path: /m\n  attention:\n    mode: sparse\n"),
              AllOf(HasSubstr("test.yaml:4: models[0].attention.mode is 'sparse'"),
                    HasSubstr("dense, auto")));
  EXPECT_THAT(FaultOf("models: [{path: /m, attention: {mode: auto}}]\n"),
              HasSubstr("set kv_cache.sparq_keys to same or int8"));
  EXPECT_THAT(FaultOf("models: [{path: /m, kv_cache: {sparq_keys: same},\n"
                      "          attention: {mode: auto, allow_sparq: false}}]\n"),
              HasSubstr("allow_sparq is false"));
  EXPECT_THAT(FaultOf("models: [{path: /m, attention: {compression: 16, max_compression: 8}}]\n"),
              HasSubstr("attention.compression is 16, but max_compression is 8"));
  EXPECT_THAT(
      FaultOf("models: [{path: /m, attention: {compression: 0.5, min_rank: 0, min_top_k: 0,\n"
              "                                min_tokens: -1, max_compression: 65}}]\n"),
      AllOf(HasSubstr("compression is 0.5"), HasSubstr("min_rank is 0"),
            HasSubstr("min_top_k is 0"), HasSubstr("min_tokens is -1"),
            HasSubstr("max_compression is 65")));
  EXPECT_THAT(FaultOf("models: [{path: /m}]\ntenants:\n- id: a\n  attention: {mode: off}\n"),
              HasSubstr("test.yaml:4: tenants[0].attention.mode is"));
  EXPECT_THAT(FaultOf("models: [{path: /m}]\n"
                      "tenants: [{id: a, attention: {compression: 8, max_compression: 2}}]\n"),
              HasSubstr("tenants[0].attention.compression is 8, but max_compression is 2"));
}

TEST(AttentionPolicy, ATenantChoosesWithinTheModelsLimits) {
  AttentionPolicy model;
  model.keeps_sparq_keys = true;
  model.max_compression = 16;
  model.min_rank = 8;
  model.min_tokens = 1000;
  const AttentionPolicy same = ForTenant(model, {});
  EXPECT_EQ(same.compression, 8);
  EXPECT_EQ(same.max_compression, 16);
  EXPECT_EQ(same.min_rank, 8);
  EXPECT_FALSE(same.sparse_by_default);

  config::v1::AttentionConfig tenant;
  tenant.set_mode("auto");
  tenant.set_compression(32);
  tenant.set_max_compression(64);
  tenant.set_min_rank(4);
  tenant.set_min_top_k(256);
  tenant.set_min_tokens(10);
  tenant.set_allow_experimental(true);
  const AttentionPolicy wider = ForTenant(model, tenant);
  EXPECT_TRUE(wider.sparse_by_default);
  EXPECT_EQ(wider.max_compression, 16);  // the model's is stricter
  EXPECT_EQ(wider.compression, 16);
  EXPECT_EQ(wider.min_rank, 8);
  EXPECT_EQ(wider.min_top_k, 256);
  EXPECT_EQ(wider.min_tokens, 10);
  EXPECT_FALSE(wider.allow_experimental);

  tenant.Clear();
  tenant.set_max_compression(2);
  tenant.set_allow_sparq(false);
  const AttentionPolicy narrower = ForTenant(model, tenant);
  EXPECT_EQ(narrower.compression, 2);
  EXPECT_FALSE(narrower.allow_sparq);
}

}  // namespace
}  // namespace kvasir
