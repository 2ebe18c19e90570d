// Every limit of generation.proto, one row each: which field the answer names, and that it says
// value and limit.
#include "server/frontend/validation/request_validation.h"

#include <cmath>
#include <functional>
#include <limits>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/error_details.h"
#include "tests/server/small_model.h"

namespace kvasir {
namespace {

using ::kvasir::testing::DetailOf;
using ::kvasir::testing::SmallLimits;
using ::kvasir::testing::SmallSpec;
using ::kvasir::testing::ViolationOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;
using ::testing::SizeIs;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

v1::GenerateRequest ValidRequest() {
  v1::GenerateRequest message;
  message.mutable_token_ids()->add_ids(2);
  return message;
}

absl::StatusOr<CheckedRequest> Check(const v1::GenerateRequest& message,
                                     absl::string_view metadata_id = "") {
  static const ModelSpec spec = SmallSpec();
  return CheckGenerateRequest(message, SmallLimits(spec), metadata_id);
}

struct BrokenLimit {
  const char* name;
  std::function<void(v1::GenerateRequest*)> change;
  const char* field;
  std::vector<const char*> said;  // value, limit
};

class BrokenLimitTest : public ::testing::TestWithParam<BrokenLimit> {};

TEST_P(BrokenLimitTest, IsInvalidArgumentThatNamesFieldValueAndLimit) {
  v1::GenerateRequest message = ValidRequest();
  GetParam().change(&message);
  const absl::Status status = Check(message).status();
  ASSERT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  const std::string violation = ViolationOf(status, GetParam().field);
  ASSERT_FALSE(violation.empty()) << "no violation of " << GetParam().field << " in " << status;
  for (const char* word : GetParam().said) EXPECT_THAT(violation, HasSubstr(word));
  // The message alone is enough for clients that do not decode details.
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().field));
  const auto bad = DetailOf<google::rpc::BadRequest>(ToGrpcStatus(status, "test"));
  EXPECT_THAT(bad->field_violations(), SizeIs(1))
      << "an unbroken limit was reported too: " << status;
}

std::vector<BrokenLimit> SamplingLimits() {
  std::vector<BrokenLimit> rows;
  const auto add = [&rows](const char* name, auto change, const char* field,
                           std::vector<const char*> said) {
    rows.push_back({name, [change](v1::GenerateRequest* m) { change(m->mutable_sampling()); },
                    field, std::move(said)});
  };
  using S = v1::Sampling;
  add("temperature_nan", [](S* s) { s->set_temperature(kNan); }, "sampling.temperature",
      {"nan", "100"});
  add("temperature_infinite", [](S* s) { s->set_temperature(kInfinity); }, "sampling.temperature",
      {"inf", "100"});
  add("temperature_negative", [](S* s) { s->set_temperature(-0.5f); }, "sampling.temperature",
      {"-0.5", "0"});
  add("temperature_high", [](S* s) { s->set_temperature(100.5f); }, "sampling.temperature",
      {"100.5", "100"});
  add("top_p_zero", [](S* s) { s->set_top_p(0); }, "sampling.top_p", {"0 is", "above 0 to 1"});
  add("top_p_high", [](S* s) { s->set_top_p(1.5f); }, "sampling.top_p", {"1.5", "to 1"});
  add("top_p_nan", [](S* s) { s->set_top_p(kNan); }, "sampling.top_p", {"nan"});
  add("top_k_negative", [](S* s) { s->set_top_k(-1); }, "sampling.top_k", {"-1", "0"});
  add("min_p_high", [](S* s) { s->set_min_p(1.25f); }, "sampling.min_p", {"1.25", "0 to 1"});
  add("min_p_nan", [](S* s) { s->set_min_p(kNan); }, "sampling.min_p", {"nan"});
  add("repetition_zero", [](S* s) { s->set_repetition_penalty(0); }, "sampling.repetition_penalty",
      {"above 0 to 10"});
  add("repetition_high", [](S* s) { s->set_repetition_penalty(11); }, "sampling.repetition_penalty",
      {"11", "10"});
  add("presence_high", [](S* s) { s->set_presence_penalty(2.5f); }, "sampling.presence_penalty",
      {"2.5", "-2 to 2"});
  add("presence_infinite", [](S* s) { s->set_presence_penalty(-kInfinity); },
      "sampling.presence_penalty", {"-inf"});
  add("frequency_low", [](S* s) { s->set_frequency_penalty(-3); }, "sampling.frequency_penalty",
      {"-3", "-2 to 2"});
  add("bias_unknown_id", [](S* s) { (*s->mutable_logit_bias())[10] = 1; },
      "sampling.logit_bias[10]", {"10", "0 to 9"});
  add("bias_negative_id", [](S* s) { (*s->mutable_logit_bias())[-1] = 1; },
      "sampling.logit_bias[-1]", {"-1", "0 to 9"});
  add("bias_high", [](S* s) { (*s->mutable_logit_bias())[3] = 101; }, "sampling.logit_bias[3]",
      {"101", "100"});
  add("bias_nan", [](S* s) { (*s->mutable_logit_bias())[3] = kNan; }, "sampling.logit_bias[3]",
      {"nan", "100"});
  add("bias_many",
      [](S* s) {
        for (int i = 0; i < 1025; ++i) (*s->mutable_logit_bias())[i] = 1;
      },
      "sampling.logit_bias", {"1025", "1024"});
  add("n_zero", [](S* s) { s->set_n(0); }, "sampling.n", {"0 is", "1 to 4"});
  add("n_beyond_engine", [](S* s) { s->set_n(5); }, "sampling.n", {"5", "1 to 4"});
  return rows;
}

std::vector<BrokenLimit> StoppingLimits() {
  std::vector<BrokenLimit> rows;
  const auto add = [&rows](const char* name, auto change, const char* field,
                           std::vector<const char*> said) {
    rows.push_back({name, [change](v1::GenerateRequest* m) { change(m->mutable_stopping()); },
                    field, std::move(said)});
  };
  using S = v1::Stopping;
  add("max_tokens_zero", [](S* s) { s->set_max_tokens(0); }, "stopping.max_tokens",
      {"0 is", "limit 1"});
  add("max_tokens_negative", [](S* s) { s->set_max_tokens(-7); }, "stopping.max_tokens",
      {"-7", "limit 1"});
  add("min_above_max",
      [](S* s) {
        s->set_max_tokens(3);
        s->set_min_tokens(4);
      },
      "stopping.min_tokens", {"4", "0 to 3"});
  add("min_above_default", [](S* s) { s->set_min_tokens(6); }, "stopping.min_tokens",
      {"6", "0 to 5"});
  add("min_negative", [](S* s) { s->set_min_tokens(-1); }, "stopping.min_tokens", {"-1", "0 to 5"});
  add("stop_many",
      [](S* s) {
        for (int i = 0; i < 17; ++i) *s->add_stop() = std::string(1, 'x');
      },
      "stopping.stop", {"17", "16"});
  add("stop_empty",
      [](S* s) {
        *s->add_stop() = std::string(1, 'x');
        s->add_stop("");
      },
      "stopping.stop[1]", {"0 bytes", "1 to 256"});
  add("stop_long", [](S* s) { s->add_stop(std::string(257, 'x')); }, "stopping.stop[0]",
      {"257", "256"});
  add("stop_not_utf8", [](S* s) { s->add_stop("ab\xC3("); }, "stopping.stop[0]",
      {"0xc3", "offset 2"});
  add("stop_ids_many",
      [](S* s) {
        for (int i = 0; i < 65; ++i) s->add_stop_token_ids(1);
      },
      "stopping.stop_token_ids", {"65", "64"});
  add("stop_id_unknown",
      [](S* s) {
        s->add_stop_token_ids(2);
        s->add_stop_token_ids(10);
      },
      "stopping.stop_token_ids[1]", {"10", "0 to 9"});
  return rows;
}

std::vector<BrokenLimit> OtherLimits() {
  using M = v1::GenerateRequest;
  return {
      {"no_prompt", [](M* m) { m->clear_prompt(); }, "prompt", {"exactly 1"}},
      {"empty_text", [](M* m) { m->set_text(""); }, "text", {"0 bytes", "at least 1"}},
      {"no_ids",
       [](M* m) { m->mutable_token_ids()->clear_ids(); },
       "token_ids",
       {"0 ids", "at least 1"}},
      {"text_not_utf8", [](M* m) { m->set_text("abc\xFF"); }, "text", {"0xff", "offset 3"}},
      {"text_huge",
       [](M* m) { m->set_text(std::string(Tokenizer::kMaxTextBytes + 1, 'a')); },
       "text",
       {"8388609", "8388608"}},
      {"id_unknown",
       [](M* m) { m->mutable_token_ids()->add_ids(10); },
       "token_ids.ids[1]",
       {"10", "0 to 9"}},
      {"id_negative",
       [](M* m) { m->mutable_token_ids()->add_ids(-5); },
       "token_ids.ids[1]",
       {"-5", "0 to 9"}},
      {"ids_beyond_context",
       [](M* m) {
         for (int i = 0; i < 8; ++i) m->mutable_token_ids()->add_ids(2);
       },
       "token_ids",
       {"9 tokens", "8", "by 1"}},
      {"session_empty", [](M* m) { m->set_session_id(""); }, "session_id", {"0 bytes", "128"}},
      {"session_long",
       [](M* m) { m->set_session_id(std::string(129, 's')); },
       "session_id",
       {"129", "128"}},
      {"session_characters",
       [](M* m) { m->set_session_id("a/b"); },
       "session_id",
       {"a/b", "[A-Za-z0-9._-]"}},
      {"session_with_n",
       [](M* m) {
         m->set_session_id("s");
         m->mutable_sampling()->set_n(2);
       },
       "sampling.n",
       {"2", "1"}},
      {"session_input_unknown",
       [](M* m) { m->set_session_input(static_cast<v1::SessionInput>(7)); },
       "session_input",
       {"7", "(1)", "(2)"}},
      {"priority_high", [](M* m) { m->set_priority(101); }, "priority", {"101", "-100 to 100"}},
      {"priority_low", [](M* m) { m->set_priority(-101); }, "priority", {"-101", "-100 to 100"}},
      {"request_id_long",
       [](M* m) { m->set_request_id(std::string(129, 'r')); },
       "request_id",
       {"129", "128"}},
      {"request_id_blank", [](M* m) { m->set_request_id("a b"); }, "request_id", {"a b", "128"}},
      {"request_id_newline", [](M* m) { m->set_request_id("a\n"); }, "request_id", {"\\n", "128"}},
      {"logprobs_many",
       [](M* m) { m->mutable_output()->set_logprobs(21); },
       "output.logprobs",
       {"21", "0 to 20"}},
      {"logprobs_negative",
       [](M* m) { m->mutable_output()->set_logprobs(-1); },
       "output.logprobs",
       {"-1", "0 to 20"}},
      {"prompt_logprobs_many",
       [](M* m) { m->mutable_output()->set_prompt_logprobs(21); },
       "output.prompt_logprobs",
       {"21", "0 to 20"}},
  };
}

std::string RowName(const ::testing::TestParamInfo<BrokenLimit>& row) { return row.param.name; }
INSTANTIATE_TEST_SUITE_P(Sampling, BrokenLimitTest, ::testing::ValuesIn(SamplingLimits()), RowName);
INSTANTIATE_TEST_SUITE_P(Stopping, BrokenLimitTest, ::testing::ValuesIn(StoppingLimits()), RowName);
INSTANTIATE_TEST_SUITE_P(Other, BrokenLimitTest, ::testing::ValuesIn(OtherLimits()), RowName);

TEST(CheckGenerateRequestTest, ReportsAllBrokenFieldsAtOnce) {
  v1::GenerateRequest message = ValidRequest();
  message.mutable_sampling()->set_temperature(-1);
  message.mutable_sampling()->set_top_p(2);
  message.mutable_stopping()->set_max_tokens(0);
  const absl::Status status = Check(message).status();
  EXPECT_NE(ViolationOf(status, "sampling.temperature"), "");
  EXPECT_NE(ViolationOf(status, "sampling.top_p"), "");
  EXPECT_NE(ViolationOf(status, "stopping.max_tokens"), "");
}

TEST(CheckGenerateRequestTest, LimitsThemselvesAreAllowed) {
  v1::GenerateRequest message;
  for (int i = 0; i < 8; ++i) message.mutable_token_ids()->add_ids(9);
  auto* sampling = message.mutable_sampling();
  sampling->set_temperature(100);
  sampling->set_top_p(1);
  sampling->set_min_p(1);
  sampling->set_repetition_penalty(10);
  sampling->set_presence_penalty(-2);
  sampling->set_frequency_penalty(2);
  sampling->set_n(4);
  (*sampling->mutable_logit_bias())[9] = -100;
  auto* stopping = message.mutable_stopping();
  stopping->set_max_tokens(std::numeric_limits<int32_t>::max());
  stopping->set_min_tokens(std::numeric_limits<int32_t>::max());
  for (int i = 0; i < 16; ++i) stopping->add_stop(std::string(256, 'x'));
  for (int i = 0; i < 64; ++i) stopping->add_stop_token_ids(9);
  message.mutable_output()->set_logprobs(20);
  message.mutable_output()->set_prompt_logprobs(0);
  message.set_priority(-100);
  message.set_request_id(std::string(128, '~'));
  const auto checked = Check(message);
  ASSERT_TRUE(checked.ok()) << checked.status();
  EXPECT_EQ(checked->prompt_tokens_estimate, 8);
  EXPECT_THAT(checked->request.prompt, SizeIs(8));
  EXPECT_EQ(checked->request.sampling.temperature, 100.0f);
  EXPECT_THAT(checked->request.sampling.logit_bias, ElementsAre(Pair(9, -100.0f)));
  EXPECT_EQ(checked->request.n, 4);
  EXPECT_THAT(checked->request.stopping.stop, SizeIs(16));
  EXPECT_EQ(checked->request.logprobs, 20);
  EXPECT_EQ(checked->request.prompt_logprobs, 0);
  EXPECT_EQ(checked->request.priority, -100);
}

TEST(CheckGenerateRequestTest, AbsentFieldsTakeTheProtosDefaults) {
  const auto checked = Check(ValidRequest());
  ASSERT_TRUE(checked.ok()) << checked.status();
  const GenerationRequest& request = checked->request;
  EXPECT_EQ(request.sampling.temperature, 1.0f);
  EXPECT_EQ(request.sampling.top_p, 1.0f);
  EXPECT_EQ(request.sampling.top_k, 0);
  EXPECT_EQ(request.sampling.min_p, 0.0f);
  EXPECT_EQ(request.sampling.repetition_penalty, 1.0f);
  EXPECT_EQ(request.n, 1);
  EXPECT_EQ(request.stopping.max_tokens, 5);
  EXPECT_EQ(request.stopping.min_tokens, 0);
  EXPECT_FALSE(request.stopping.ignore_eos);
  EXPECT_FALSE(request.logprobs.has_value());
  EXPECT_FALSE(request.prompt_logprobs.has_value());
  EXPECT_TRUE(request.skip_special_tokens);
  EXPECT_TRUE(request.session_id.empty());
  EXPECT_EQ(request.priority, 0);
}

const SparqRequest& SparqOf(const CheckedRequest& checked) {
  return static_cast<const SparqMethod&>(*checked.request.attention).request();
}

TEST(CheckGenerateRequestTest, SparqNeedsAModelThatKeepsItsKeys) {
  v1::GenerateRequest message = ValidRequest();
  EXPECT_EQ(Check(message)->request.attention, nullptr);
  message.mutable_attention()->mutable_dense();
  EXPECT_EQ(Check(message)->request.attention, nullptr);
  message.mutable_attention()->mutable_auto_();  // dense there
  EXPECT_EQ(Check(message)->request.attention, nullptr);
  v1::SparqAttention* sparq = message.mutable_attention()->mutable_sparq();
  EXPECT_THAT(ViolationOf(Check(message).status(), "attention.sparq"),
              HasSubstr("kv_cache.sparq_keys"));

  ModelSpec spec = SmallSpec();
  spec.layers.emplace_back();
  std::get<AttentionSpec>(spec.layers[0].mixer).head_dim = 2;
  ModelLimits limits = SmallLimits(spec);
  limits.attention.keeps_sparq_keys = true;
  const auto absent = CheckGenerateRequest(message, limits, "");
  ASSERT_TRUE(absent.ok()) << absent.status();
  EXPECT_FALSE(SparqOf(*absent).rank.has_value());
  EXPECT_EQ(SparqOf(*absent).min_tokens, kDefaultSparqMinTokens);

  sparq->set_rank(1);
  sparq->set_top_k(8);
  sparq->set_local_window(8);
  sparq->set_min_tokens(0);
  sparq->set_compression(64);
  sparq->set_mean_value(v1::MEAN_VALUE_OFF);
  sparq->set_selection(v1::SPARQ_SELECTION_LOGIT_SUM);
  const auto given = CheckGenerateRequest(message, limits, "");
  ASSERT_TRUE(given.ok()) << given.status();
  EXPECT_EQ(SparqOf(*given).top_k, 8);
  EXPECT_EQ(SparqOf(*given).mean_value, false);
  EXPECT_EQ(SparqOf(*given).selection, SparseSelection::kLogitSum);

  sparq->set_rank(spec.head_dim() + 1);
  sparq->set_top_k(9);
  sparq->set_local_window(10);
  sparq->set_min_tokens(-1);
  sparq->set_compression(kNan);
  sparq->set_mean_value(static_cast<v1::MeanValue>(7));
  sparq->set_selection(static_cast<v1::SparqSelection>(7));
  const absl::Status status = CheckGenerateRequest(message, limits, "").status();
  for (const char* field :
       {"rank", "top_k", "local_window", "min_tokens", "compression", "mean_value", "selection"}) {
    EXPECT_NE(ViolationOf(status, std::string("attention.sparq.") + field), "") << field;
  }
}

TEST(CheckGenerateRequestTest, SeedIsTheClientsOrRandom) {
  v1::GenerateRequest message = ValidRequest();
  EXPECT_NE(Check(message)->request.sampling.seed, Check(message)->request.sampling.seed);
  message.mutable_sampling()->set_seed(0);
  EXPECT_EQ(Check(message)->request.sampling.seed, 0u);
}

TEST(CheckGenerateRequestTest, RequestIdIsTheFieldsThenTheMetadatasThenNew) {
  v1::GenerateRequest message = ValidRequest();
  EXPECT_EQ(Check(message, "from-metadata")->request.id, "from-metadata");
  message.set_request_id("from-field");
  EXPECT_EQ(Check(message, "from-metadata")->request.id, "from-field");
  message.clear_request_id();
  const std::string made = Check(message)->request.id;
  EXPECT_THAT(made, SizeIs(32));
  EXPECT_NE(made, Check(message)->request.id);
  EXPECT_THAT(ViolationOf(Check(message, std::string(129, 'x')).status(), "x-request-id"),
              HasSubstr("129"));
}

TEST(CheckGenerateRequestTest, SessionInputSaysWhatThePromptIs) {
  v1::GenerateRequest message = ValidRequest();
  message.set_session_id("chat-1.b_C");
  EXPECT_EQ(Check(message)->request.session_id, "chat-1.b_C");
  EXPECT_FALSE(Check(message)->request.session_full_history);
  message.set_session_input(v1::SESSION_INPUT_FULL_HISTORY);
  EXPECT_TRUE(Check(message)->request.session_full_history);
  message.set_session_input(v1::SESSION_INPUT_CONTINUATION);
  EXPECT_FALSE(Check(message)->request.session_full_history);
}

TEST(CheckGenerateRequestTest, ChatMessagesAreUnimplementedUnlessAFieldIsWrongToo) {
  v1::GenerateRequest message;
  auto* chat = message.mutable_messages()->add_messages();
  chat->set_role("user");
  chat->set_content("hello");
  EXPECT_EQ(Check(message).status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_FALSE(Check(message).status().message().empty());
  message.mutable_sampling()->set_temperature(-1);
  EXPECT_EQ(Check(message).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(CheckGenerateRequestTest, TextIsNotTokenisedYetButEstimated) {
  v1::GenerateRequest message;
  message.set_text(std::string(400, 'a'));  // far beyond the context
  const auto checked = Check(message);
  ASSERT_TRUE(checked.ok()) << checked.status();
  EXPECT_TRUE(checked->request.prompt.empty());
  EXPECT_EQ(checked->prompt_tokens_estimate, 101);
}

TEST(CheckSessionIdTest, NamesTheFieldItWasGiven) {
  EXPECT_TRUE(CheckSessionId("session_id", "a").ok());
  EXPECT_THAT(ViolationOf(CheckSessionId("new_session_id", "a b"), "new_session_id"),
              HasSubstr("a b"));
}

}  // namespace
}  // namespace kvasir
