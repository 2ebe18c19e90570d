// What scripts read: the JSON of --json and the words of errors.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/byte_text.h"
#include "client/call_error.h"
#include "client/json_output.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace kvasir {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

GenerateResult TwoCompletions() {
  GenerateResult result;
  result.accepted.set_request_id("r1");
  result.accepted.set_model("m");
  result.usage.set_prompt_tokens(5);
  result.usage.set_cached_tokens(4);
  result.usage.set_completion_tokens(3);
  result.usage.set_kv_bytes_peak(int64_t{5} << 32);
  result.outputs.resize(2);
  result.outputs[0].text = "one";
  result.outputs[0].token_ids = {7, 8};
  result.outputs[0].end.set_finish_reason(v1::FINISH_REASON_STOP);
  result.outputs[0].end.set_stop_string("\n");
  result.outputs[1].text = "two";
  result.outputs[1].token_ids = {9};
  result.outputs[1].end.set_finish_reason(v1::FINISH_REASON_EOS);
  return result;
}

TEST(Json, GenerateHasTheNamesThatScriptsReadOn) {
  const auto json = ToJson(TwoCompletions());
  EXPECT_EQ(json["text"], "one");
  EXPECT_EQ(json["token_ids"], (std::vector<int>{7, 8}));
  EXPECT_EQ(json["finish_reason"], "stop");
  EXPECT_EQ(json["stop_string"], "\n");
  EXPECT_EQ(json["usage"]["prompt_tokens"], 5);
  EXPECT_EQ(json["usage"]["cached_tokens"], 4);
  EXPECT_EQ(json["usage"]["completion_tokens"], 3);
  EXPECT_EQ(json["usage"]["kv_bytes_peak"], int64_t{5} << 32);
  EXPECT_EQ(json["completions"].size(), 2u);
  EXPECT_EQ(json["completions"][1]["index"], 1);
  EXPECT_EQ(json["completions"][1]["finish_reason"], "eos");
}

TEST(Json, OneCompletionHasNoListOfCompletions) {
  GenerateResult result = TwoCompletions();
  result.outputs.resize(1);
  EXPECT_FALSE(ToJson(result).contains("completions"));
  EXPECT_FALSE(ToJson(result).contains("prompt_logprobs"));
}

TEST(Json, InvalidUtf8OfAModelStillDumps) {
  GenerateResult result = TwoCompletions();
  result.outputs[0].text = "bad \xff byte";
  EXPECT_THAT(DumpJson(ToJson(result)), HasSubstr("bad \xef\xbf\xbd byte"));
}

TEST(Json, ModelHasTheNamesThatScriptsReadOn) {
  v1::Model model;
  model.set_name("tale");
  model.set_sharing("gqa+cla");
  model.set_kv_bytes_per_token_resident(1024);
  model.set_kv_bytes_per_token_read(2048);
  const auto json = ToJson(model);
  EXPECT_EQ(json["name"], "tale");
  EXPECT_EQ(json["sharing"], "gqa+cla");
  EXPECT_EQ(json["kv_bytes_per_token_resident"], 1024);
  EXPECT_EQ(json["kv_bytes_per_token_read"], 2048);
}

grpc::Status RichError() {
  google::rpc::BadRequest bad;
  auto* violation = bad.add_field_violations();
  violation->set_field("sampling.temperature");
  violation->set_description("is -1, must be 0 to 100; leave it out for the model's default");
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(2);
  retry.mutable_retry_delay()->set_nanos(500000000);
  google::rpc::Status rich;
  rich.add_details()->PackFrom(bad);
  rich.add_details()->PackFrom(retry);
  return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "bad request", rich.SerializeAsString());
}

TEST(CallError, DecodesFieldViolationsAndRetryDelay) {
  const absl::Status status = StatusFromCall(RichError());
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  ASSERT_EQ(FieldViolations(status).size(), 1u);
  EXPECT_EQ(FieldViolations(status)[0].field, "sampling.temperature");
  EXPECT_EQ(RetryDelay(status), absl::Milliseconds(2500));

  const std::string text = DescribeError(status);
  EXPECT_THAT(text, HasSubstr("INVALID_ARGUMENT: bad request"));
  EXPECT_THAT(text, HasSubstr("sampling.temperature: is -1, must be 0 to 100"));
  EXPECT_THAT(text, HasSubstr("retry after 2.5s"));

  const auto json = ToJson(status);
  EXPECT_EQ(json["error"]["code"], "INVALID_ARGUMENT");
  EXPECT_EQ(json["error"]["violations"][0]["field"], "sampling.temperature");
  EXPECT_EQ(json["error"]["retry_after_seconds"], 2.5);
}

TEST(CallError, ADescriptionThatTheMessageHoldsIsNotRepeated) {
  google::rpc::BadRequest bad;
  auto* violation = bad.add_field_violations();
  violation->set_field("n");
  violation->set_description("n is 65, limit 64");
  google::rpc::Status rich;
  rich.add_details()->PackFrom(bad);
  const absl::Status status = StatusFromCall(grpc::Status(
      grpc::StatusCode::INVALID_ARGUMENT, "n: n is 65, limit 64", rich.SerializeAsString()));
  EXPECT_THAT(DescribeError(status), Not(HasSubstr("\n")));
}

TEST(CallError, SaysWhichQuotaStoodInTheWay) {
  google::rpc::QuotaFailure quota;
  auto* violation = quota.add_violations();
  violation->set_subject("tenant:team-a");
  violation->set_description("4 requests, the limit is 4");
  google::rpc::Status rich;
  rich.add_details()->PackFrom(quota);
  const absl::Status status = StatusFromCall(
      grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "too many", rich.SerializeAsString()));
  EXPECT_EQ(DescribeError(status),
            "RESOURCE_EXHAUSTED: too many\n  tenant:team-a: 4 requests, the limit is 4");
}

TEST(CallError, GarbageDetailsKeepCodeAndMessage) {
  const absl::Status status =
      StatusFromCall(grpc::Status(grpc::StatusCode::ABORTED, "busy", "\xff\xff\xff"));
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(status.message(), "busy");
  EXPECT_TRUE(FieldViolations(status).empty());
  EXPECT_FALSE(RetryDelay(status).has_value());
  EXPECT_TRUE(StatusFromCall(grpc::Status::OK).ok());
}

TEST(ByteText, PicksTheUnit) {
  EXPECT_EQ(ByteText(0), "0 B");
  EXPECT_EQ(ByteText(1023), "1023 B");
  EXPECT_EQ(ByteText(1536), "1.5 KiB");
  EXPECT_EQ(ByteText(int64_t{3} << 30), "3.0 GiB");
}

}  // namespace
}  // namespace kvasir
