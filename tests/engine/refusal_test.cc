// A refusal survives the status that carries it, and its code follows from its reason.
#include "runtime/engine/refusal.h"

#include <optional>
#include <set>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kvasir {
namespace {

using ::testing::HasSubstr;

constexpr int kNumReasons = static_cast<int>(RefusalReason::kError) + 1;

TEST(Refusal, ComesBackFromTheStatusWhole) {
  for (int i = 0; i < kNumReasons; ++i) {
    for (const std::optional<std::string>& tenant :
         {std::optional<std::string>(), std::optional<std::string>(""),
          std::optional<std::string>("of a b"), std::optional<std::string>("-")}) {
      for (const std::optional<absl::Duration> retry :
           {std::optional<absl::Duration>(), std::optional<absl::Duration>(absl::Seconds(2))}) {
        for (const char* limit : {"", "max_requests"}) {
          const Refusal made{static_cast<RefusalReason>(i), limit, tenant, retry};
          const std::optional<Refusal> read = RefusalOf(RefusalError(made, "4 of 3"));
          ASSERT_TRUE(read.has_value());
          EXPECT_EQ(read->reason, made.reason);
          EXPECT_EQ(read->limit, limit);
          EXPECT_EQ(read->tenant, tenant);
          EXPECT_EQ(read->retry_after, retry);
        }
      }
    }
  }
}

TEST(Refusal, EveryReasonHasANameOfItsOwn) {
  std::set<std::string> names;
  for (int i = 0; i < kNumReasons; ++i) {
    names.insert(RefusalReasonName(static_cast<RefusalReason>(i)));
  }
  EXPECT_EQ(names.size(), static_cast<size_t>(kNumReasons));
}

TEST(Refusal, QuotasSayWhoseTheyAreAndWhetherWaitingHelps) {
  const absl::Status rate =
      RefusalError({RefusalReason::kRate, "tokens_per_minute", "a", absl::Seconds(1)}, "9 of 8");
  EXPECT_EQ(rate.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(rate.message(), "9 of 8 (tokens_per_minute of tenant a); try again later");
  const absl::Status never =
      RefusalError({RefusalReason::kKvQuota, "max_kv_bytes", "", std::nullopt}, "9 of 8");
  EXPECT_EQ(never.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(never.message()),
              HasSubstr("of the anonymous tenant); no waiting helps"));
}

TEST(Refusal, WhatCouldNeverFitIsTheCallersMistakeWhoeverFindsIt) {
  EXPECT_EQ(RefusalError({.reason = RefusalReason::kKvPool}, "").code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(Refusal, IsGuessedFromTheCodeOnlyWhereNobodySaid) {
  EXPECT_FALSE(RefusalOf(absl::NotFoundError("x")).has_value());
  EXPECT_EQ(RefusalOrByCode(absl::NotFoundError("x")).reason, RefusalReason::kNotFound);
  EXPECT_EQ(RefusalOrByCode(absl::InternalError("x")).reason, RefusalReason::kError);
  EXPECT_EQ(RefusalOrByCode(absl::UnimplementedError("x")).reason, RefusalReason::kInvalid);
  EXPECT_EQ(RefusalOrByCode(RefusalError({.reason = RefusalReason::kUnknownModel}, "x")).reason,
            RefusalReason::kUnknownModel);
}

}  // namespace
}  // namespace kvasir
