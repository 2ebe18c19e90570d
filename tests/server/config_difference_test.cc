#include "server/config/config_difference.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/config/config_reader.h"
#include "server/config/server_config.h"

namespace kvasir {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
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
  EXPECT_THAT(
      FieldsThatNeedARestart(running, Parse("models: [{path: /m/a}, {path: /m/b}]\nthreads: 2\n")),
      ElementsAre("models[1]"));
  EXPECT_THAT(
      FieldsThatNeedARestart(Parse("models: [{path: /m/a}, {path: /m/b}]\nthreads: 2\n"), running),
      ElementsAre("models[1]"));
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
