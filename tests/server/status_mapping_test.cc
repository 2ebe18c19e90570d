#include "server/grpc/status_mapping.h"

#include "absl/strings/str_cat.h"
#include "base/quoted.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/engine/refusal.h"
#include "runtime/tokenizer/utf8.h"
#include "server/frontend/request_errors.h"
#include "tests/server/error_details.h"

namespace kvasir {
namespace {

using ::kvasir::testing::DetailOf;
using ::kvasir::testing::ViolationOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;

// What gRPC peers accept as trailers unless told otherwise.
constexpr size_t kTrailerLimitBytes = 8 << 10;

TEST(ToGrpcStatusTest, KeepsCodeAndMessage) {
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus(), "id").ok());
  for (int code = 1; code <= 16; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code), "why");
    const grpc::Status mapped = ToGrpcStatus(status, "id");
    EXPECT_EQ(static_cast<int>(mapped.error_code()), code);
  }
  const grpc::Status mapped = ToGrpcStatus(absl::NotFoundError("no model x"), "id");
  EXPECT_EQ(mapped.error_message(), "no model x");
  EXPECT_TRUE(mapped.error_details().empty());
}

TEST(ToGrpcStatusTest, InternalErrorsSayTheRequestIdAndNothingElse) {
  const std::string prompt = "my secret prompt";
  for (const absl::Status& status :
       {absl::InternalError(prompt), absl::UnknownError(prompt), absl::DataLossError(prompt)}) {
    const grpc::Status mapped = ToGrpcStatus(status, "req-7");
    EXPECT_THAT(mapped.error_message(), HasSubstr("req-7"));
    EXPECT_THAT(mapped.error_message(), Not(HasSubstr(prompt)));
    EXPECT_THAT(mapped.error_details(), Not(HasSubstr(prompt)));
  }
}

TEST(BadRequestErrorTest, CarriesEveryFieldInMessageAndDetails) {
  const absl::Status status = BadRequestError({{"a.b", "7 is too much"}, {"c", "missing"}});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(std::string(status.message()), "invalid request: a.b: 7 is too much; c: missing");
  EXPECT_EQ(ViolationOf(status, "a.b"), "7 is too much");
  EXPECT_EQ(ViolationOf(status, "c"), "missing");
}

TEST(BadRequestErrorTest, FitsIntoTrailersWhateverItSays) {
  std::vector<FieldViolation> violations;
  for (int i = 0; i < 1000; ++i) {
    violations.push_back({std::string(500, 'f'), std::string(5000, 'd')});
  }
  const grpc::Status mapped = ToGrpcStatus(BadRequestError(violations), "id");
  EXPECT_LE(mapped.error_message().size() + mapped.error_details().size(),
            kTrailerLimitBytes - 1024);
  const auto bad = DetailOf<google::rpc::BadRequest>(mapped);
  ASSERT_TRUE(bad);
  EXPECT_THAT(bad->field_violations(), SizeIs(kMaxFieldViolations));
}

TEST(BadRequestErrorTest, CountsWhatItDoesNotShow) {
  const std::vector<FieldViolation> violations(kMaxFieldViolations + 3, {"f", "d"});
  EXPECT_THAT(std::string(BadRequestError(violations).message()), HasSubstr("and 3 more"));
}

TEST(BadRequestErrorTest, BytesThatAreNotUtf8DoNotReachTheDetails) {
  const grpc::Status mapped = ToGrpcStatus(BadFieldError("field", "bad \xFF\xFE text"), "id");
  EXPECT_FALSE(FindInvalidUtf8(mapped.error_message()).has_value());
  EXPECT_THAT(ViolationOf(mapped, "field"), HasSubstr("\\xff"));
}

TEST(BadRequestErrorTest, CutsBetweenCharacters) {
  for (size_t pad = 0; pad < 4; ++pad) {
    std::string text(pad, 'x');
    while (text.size() < 2 * kMaxViolationBytes) text += "\xF0\x9F\x8C\x8A";
    const std::string shown = ViolationOf(BadFieldError("f", text), "f");
    EXPECT_LE(shown.size(), kMaxViolationBytes);
    EXPECT_FALSE(FindInvalidUtf8(shown).has_value()) << shown;
  }
}

TEST(WithRetryAfterTest, RoundTripsAndReachesTheClient) {
  const absl::Status status =
      WithRetryAfter(absl::ResourceExhaustedError("full"), absl::Milliseconds(2500));
  EXPECT_EQ(RetryAfter(status), absl::Milliseconds(2500));
  const auto info = DetailOf<google::rpc::RetryInfo>(ToGrpcStatus(status, "id"));
  ASSERT_TRUE(info);
  EXPECT_EQ(info->retry_delay().seconds(), 2);
  EXPECT_EQ(info->retry_delay().nanos(), 500'000'000);
  EXPECT_FALSE(RetryAfter(absl::ResourceExhaustedError("full")).has_value());
}

TEST(QuotaRefusalTest, BecomesQuotaFailureAndRetryInfoWhereWaitingHelps) {
  const absl::Status status = RefusalError(
      {RefusalReason::kConcurrency, "max_requests", "team-a", absl::Milliseconds(1500.5)},
      "3 now, the limit is 3");
  EXPECT_EQ(RetryAfter(status), absl::Milliseconds(1501));
  const grpc::Status mapped = ToGrpcStatus(status, "id");
  EXPECT_EQ(mapped.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  const auto failure = DetailOf<google::rpc::QuotaFailure>(mapped);
  ASSERT_TRUE(failure);
  ASSERT_EQ(failure->violations_size(), 1);
  EXPECT_EQ(failure->violations(0).subject(), "tenant:team-a");
  EXPECT_THAT(failure->violations(0).description(), HasSubstr("the limit is 3 (max_requests"));
  const auto info = DetailOf<google::rpc::RetryInfo>(mapped);
  ASSERT_TRUE(info);
  EXPECT_EQ(info->retry_delay().seconds(), 1);
  EXPECT_EQ(info->retry_delay().nanos(), 501'000'000);
  // What the process knows it by stays inside.
  google::rpc::Status rich;
  ASSERT_TRUE(rich.ParseFromString(mapped.error_details()));
  EXPECT_THAT(rich.details(), SizeIs(2));
}

TEST(QuotaRefusalTest, SaysNothingOfRetryingWhereItCannotHelp) {
  const absl::Status status =
      RefusalError({RefusalReason::kKvQuota, "max_kv_bytes", "", std::nullopt}, "9 of 8");
  EXPECT_FALSE(RetryAfter(status).has_value());
  const grpc::Status mapped = ToGrpcStatus(status, "id");
  EXPECT_EQ(mapped.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_FALSE(DetailOf<google::rpc::RetryInfo>(mapped).has_value());
  EXPECT_EQ(DetailOf<google::rpc::QuotaFailure>(mapped)->violations(0).subject(),
            "tenant:anonymous");
}

TEST(QuotaRefusalTest, SaysWhenAllTenantsShareIt) {
  const absl::Status status = RefusalError(
      {RefusalReason::kSessionsFull, "max_sessions", std::nullopt, absl::Seconds(1)}, "2 are busy");
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("2 are busy (max_sessions of this model, for all tenants)"));
  EXPECT_EQ(RefusalOf(status)->tenant, std::nullopt);
  EXPECT_EQ(
      DetailOf<google::rpc::QuotaFailure>(ToGrpcStatus(status, "id"))->violations(0).subject(),
      "model");
}

TEST(QuotedTest, EscapesAndCuts) {
  EXPECT_EQ(Quoted("a\n\xFF"), "\"a\\n\\xff\"");
  EXPECT_EQ(Quoted("abcdef", 3), "\"abc\"...");
}

}  // namespace
}  // namespace kvasir
