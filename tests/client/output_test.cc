// What scripts read: the JSON of --json and the words of errors.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/byte_text.h"
#include "client/call_error.h"
#include "client/json_output.h"
#include "client/message_json.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace kvasir {
namespace {

using ::testing::HasSubstr;
using ::testing::IsSupersetOf;
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

std::vector<std::string> Keys(const nlohmann::ordered_json& json) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : json.items()) keys.push_back(key);
  return keys;
}

// Names that scripts read: one may be added here, none renamed or taken away.
TEST(MessageJson, HasTheNamesThatScriptsReadOn) {
  EXPECT_THAT(Keys(MessageToJson(v1::Usage())),
              IsSupersetOf({"prompt_tokens", "cached_tokens", "completion_tokens", "kv_bytes_peak",
                            "kv_byte_seconds", "kv_bytes_read", "kv_bytes_read_if_dense",
                            "state_bytes_peak", "state_bytes_read", "sparse_tokens",
                            "drafted_tokens", "accepted_tokens", "queue_seconds",
                            "time_to_first_token_seconds", "total_seconds", "preemptions"}));
  EXPECT_THAT(Keys(MessageToJson(v1::Model())), IsSupersetOf({"name",
                                                              "architecture",
                                                              "sharing",
                                                              "groups",
                                                              "kv_owner",
                                                              "kv_bytes_per_token_resident",
                                                              "kv_heads",
                                                              "parameters",
                                                              "kv_bytes_per_token_read",
                                                              "weight_bytes",
                                                              "block_tokens",
                                                              "kv_element_type",
                                                              "compute_type",
                                                              "kv_pool_bytes",
                                                              "weight_format_bytes",
                                                              "context_tokens",
                                                              "vocab_size",
                                                              "hidden_size",
                                                              "num_layers",
                                                              "head_dim",
                                                              "num_query_heads",
                                                              "eos_token_ids",
                                                              "tool_format",
                                                              "speculation_modes",
                                                              "speculation_default"}));
  EXPECT_THAT(Keys(MessageToJson(v1::KvGroup())),
              IsSupersetOf({"layers", "kind", "window_tokens", "bytes_per_token",
                            "read_bytes_per_token", "state_bytes_per_sequence"}));
  EXPECT_THAT(Keys(MessageToJson(v1::Session())),
              IsSupersetOf({"session_id", "model", "state", "tokens", "turns", "kv_bytes_physical",
                            "kv_bytes_exclusive", "kv_bytes_proportional", "state_bytes",
                            "spilled_bytes", "idle_seconds", "expires_in_seconds"}));
  EXPECT_THAT(Keys(MessageToJson(v1::ModelStats())), IsSupersetOf({"model",
                                                                   "running",
                                                                   "waiting",
                                                                   "sessions",
                                                                   "sessions_busy",
                                                                   "sessions_spilled",
                                                                   "kv_capacity_bytes",
                                                                   "kv_live_bytes",
                                                                   "kv_cached_bytes",
                                                                   "kv_free_bytes",
                                                                   "kv_state_live_bytes",
                                                                   "kv_state_cached_bytes",
                                                                   "kv_block_bytes",
                                                                   "block_tokens",
                                                                   "prompt_tokens_total",
                                                                   "cached_tokens_total",
                                                                   "generated_tokens_total",
                                                                   "preemptions_total",
                                                                   "steps_total",
                                                                   "kv_bytes_read_total",
                                                                   "tenants"}));
  EXPECT_THAT(Keys(MessageToJson(v1::RequestInfo())),
              IsSupersetOf({"request_id", "tenant", "model", "state", "prompt_tokens",
                            "cached_tokens", "computed_tokens", "generated_tokens",
                            "kv_bytes_physical", "kv_bytes_exclusive", "kv_bytes_proportional",
                            "state_bytes", "age_seconds", "session_id", "priority"}));
  EXPECT_THAT(Keys(MessageToJson(v1::TokenLogprob())),
              IsSupersetOf({"token_id", "text", "logprob", "alternatives"}));
}

TEST(MessageJson, EachKindOfFieldIsWrittenAsScriptsReadIt) {
  v1::Model model;
  model.set_name("tale");
  model.set_kv_pool_bytes(int64_t{5} << 40);
  model.add_eos_token_ids(7);
  model.add_speculation_modes("ngram");
  (*model.mutable_weight_format_bytes())["q4_k"] = 30;
  (*model.mutable_weight_format_bytes())["f32"] = 2;
  model.add_groups()->add_layers(3);
  const auto json = MessageToJson(model);
  EXPECT_EQ(json["name"], "tale");
  EXPECT_EQ(json["kv_pool_bytes"], int64_t{5} << 40);
  EXPECT_EQ(json["vocab_size"], 0);
  EXPECT_EQ(json["eos_token_ids"], std::vector<int>{7});
  EXPECT_EQ(json["kv_owner"].dump(), "[]");
  EXPECT_EQ(json["speculation_modes"], std::vector<std::string>{"ngram"});
  EXPECT_EQ(json["weight_format_bytes"].dump(), R"({"f32":2,"q4_k":30})");
  EXPECT_EQ(json["groups"][0]["layers"], std::vector<int>{3});

  v1::Session session;
  session.set_state(v1::SESSION_STATE_SPILLED);
  session.set_kv_bytes_proportional(0.5);
  EXPECT_EQ(MessageToJson(session)["state"], "spilled");
  EXPECT_EQ(MessageToJson(session)["kv_bytes_proportional"], 0.5);

  // What is not set and can tell so is left out.
  v1::Sampling sampling;
  EXPECT_FALSE(MessageToJson(sampling).contains("temperature"));
  (*sampling.mutable_logit_bias())[-4] = 2;
  sampling.set_temperature(0);
  EXPECT_EQ(MessageToJson(sampling)["temperature"], 0);
  EXPECT_EQ(MessageToJson(sampling)["logit_bias"].dump(), R"({"-4":2.0})");
}

TEST(EnumText, IsTheNameWithoutThatOfItsType) {
  EXPECT_EQ(EnumText(v1::FINISH_REASON_CONTEXT_FULL), "context_full");
  EXPECT_EQ(EnumText(v1::FINISH_REASON_UNSPECIFIED), "unspecified");
  EXPECT_EQ(EnumText(v1::SESSION_STATE_BUSY), "busy");
  EXPECT_EQ(EnumText(static_cast<v1::FinishReason>(4711)), "unspecified");
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
