#include "server/config/config_difference.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/config/added_model.h"
#include "server/config/config_reader.h"
#include "server/config/server_config.h"

namespace kvasir {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;
using testing::UnorderedElementsAre;

config::v1::Config Parse(const char* yaml) {
  ConfigSource source = ParseConfig(yaml, "test.yaml").value();
  FillDefaults(&source.message);
  return source.message;
}

TEST(FieldsThatNeedARestart, NamesEachFieldThatChanged) {
  const auto running = Parse("models: [{path: /m/a}]\nthreads: 2\n");
  EXPECT_THAT(FieldsThatNeedARestart(running, running), IsEmpty());
  EXPECT_THAT(FieldsThatNeedARestart(
                  running, Parse("models: [{path: /m/a, kv_cache: {capacity_bytes: 1Gi}}]\n"
                                 "server: {drain_timeout_seconds: 1h}\n")),
              UnorderedElementsAre("models[0].kv_cache.capacity_bytes", "threads",
                                   "server.drain_timeout_seconds"));
}

TEST(FieldsThatNeedARestart, AModelIsTheSameByItsName) {
  const auto one = Parse("models: [{path: /m/a}]\nthreads: 2\n");
  const auto two = Parse("models: [{path: /m/b}, {path: /m/a}]\nthreads: 2\n");
  EXPECT_THAT(FieldsThatNeedARestart(one, two), IsEmpty());
  EXPECT_THAT(FieldsThatNeedARestart(two, one), IsEmpty());
  EXPECT_THAT(
      FieldsThatNeedARestart(two, Parse("models: [{path: /m/a, compute_type: f32}, {path: /n/b}]\n"
                                        "threads: 2\n")),
      UnorderedElementsAre("models[1].compute_type", "models[1].kv_cache.element_type",
                           "models[0].path"));
  EXPECT_THAT(ChangesOfModels(one, two).added, ElementsAre("b"));
  EXPECT_THAT(ChangesOfModels(one, two).removed, IsEmpty());
  EXPECT_THAT(ChangesOfModels(two, one).added, IsEmpty());
  EXPECT_THAT(ChangesOfModels(two, one).removed, ElementsAre("b"));
}

TEST(CheckAddedModel, IsCheckedAsAtTheStart) {
  const auto running = Parse(
      "models: [{path: /m/a}]\n"
      "tenants: [{id: t, models: [a], key_sha256: "
      "[e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855]}]\n");
  const auto model =
      CheckAddedModel(running, "b", "/m/b", "kv_cache: {capacity_bytes: 1Gi}\ncompute_type: f32");
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->name, "b");
  EXPECT_EQ(model->path, "/m/b");
  EXPECT_EQ(model->engine.kv_capacity_bytes, int64_t{1} << 30);
  EXPECT_TRUE(model->engine.scrub_freed_blocks);  // there are tenants
  EXPECT_TRUE(CheckAddedModel(running, "b", "/m/b", "").ok());
  EXPECT_TRUE(CheckAddedModel(running, "b", "/m/b", R"({"weights": "int4"})").ok());

  const auto fault = [&](const char* name, const char* path, const char* options) {
    const absl::Status status = CheckAddedModel(running, name, path, options).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    return std::string(status.message());
  };
  EXPECT_THAT(fault("", "/m/b", ""), HasSubstr("name is empty"));
  EXPECT_THAT(fault("b", "", ""), HasSubstr("path of model \"b\" is empty"));
  EXPECT_THAT(fault("b c", "/m/b", ""), HasSubstr("A-Za-z0-9"));
  EXPECT_THAT(fault("b", "/m/b", "path: /m/c"), HasSubstr("fields of their own"));
  EXPECT_THAT(fault("b", "/m/b", "\nkv_cache: {block_tokens: 7}"),
              StartsWith("options:2: kv_cache.block_tokens is 7"));
  EXPECT_THAT(fault("b", "/m/b", "compute: f32"), HasSubstr("options:1: unknown key"));
  EXPECT_THAT(fault("b", "/m/b", "[1]"), HasSubstr("must be a mapping"));
  EXPECT_THAT(fault("b", "/m/b", "a: b: c"), HasSubstr("not valid YAML"));
}

TEST(FieldsThatNeedARestart, WhatAReloadTakesIsNotNamed) {
  EXPECT_THAT(FieldsThatNeedARestart(
                  Parse("models: [{path: /m/a}]\ntenants: [{id: a}]\n"),
                  Parse("models: [{path: /m/a}]\ntenants: [{id: a, admin: true}, {id: b}]\n"
                        "server: {authentication: {anonymous: refuse}}\n")),
              IsEmpty());
}

TEST(FieldsThatNeedARestart, WritingADefaultOutIsNoChange) {
  EXPECT_THAT(FieldsThatNeedARestart(Parse("models: [{path: /m/a}]\n"),
                                     Parse("models: [{path: /m/a, name: a}]\n")),
              IsEmpty());
}

}  // namespace
}  // namespace kvasir
