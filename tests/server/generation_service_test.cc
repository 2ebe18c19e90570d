// GenerationService over a real engine: answers, refusals, and that every way out frees the KV
// cache.
#include "server/grpc/generation_service.h"

#include <cmath>
#include <limits>
#include <memory>
#include <thread>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "google/protobuf/util/message_differencer.h"
#include "gtest/gtest.h"
#include "runtime/ops/matmul.h"
#include "tests/server/error_details.h"
#include "tests/server/test_daemon.h"

namespace kvasir {
namespace {

using ::kvasir::testing::Answer;
using ::kvasir::testing::DetailOf;
using ::kvasir::testing::Generate;
using ::kvasir::testing::GreedyRequest;
using ::kvasir::testing::ReadAll;
using ::kvasir::testing::TestDaemon;
using ::kvasir::testing::ViolationOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr int kEndless = 1800;  // tokens: seconds of decoding, inside the context of 2048

class GenerationServiceTest : public ::testing::Test {
 protected:
  // Loading takes longer than all cases together.
  static void SetUpTestSuite() { daemon_ = new TestDaemon(); }
  static void TearDownTestSuite() {
    delete daemon_;
    daemon_ = nullptr;
  }

  // Waits until no request holds KV; false when that does not come about.
  static bool BecomesIdle(Engine& engine) {
    const absl::Time give_up = absl::Now() + absl::Seconds(10);
    while (absl::Now() < give_up) {
      const EngineStats stats = engine.stats();
      if (stats.running == 0 && stats.waiting == 0 && stats.kv_live_bytes == 0) return true;
      absl::SleepFor(absl::Milliseconds(1));
    }
    return false;
  }

  static v1::Model GetModel(const std::string& name = "") {
    grpc::ClientContext context;
    v1::GetModelRequest request;
    request.set_name(name);
    v1::Model model;
    EXPECT_TRUE(daemon_->generation()->GetModel(&context, request, &model).ok());
    return model;
  }

  static TestDaemon* daemon_;
};

TestDaemon* GenerationServiceTest::daemon_ = nullptr;

TEST_F(GenerationServiceTest, StreamsAcceptedDeltasAndFinal) {
  const Answer answer = Generate(daemon_, GreedyRequest("Once upon a time", 12));
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_FALSE(answer.order_broken);
  EXPECT_EQ(answer.num_accepted, 1);
  EXPECT_EQ(answer.num_finals, 1);
  EXPECT_EQ(answer.accepted.model(), testing::kBundledModel);
  EXPECT_FALSE(answer.accepted.request_id().empty());
  EXPECT_THAT(answer.token_ids[0], SizeIs(12));
  EXPECT_FALSE(answer.texts[0].empty());
  ASSERT_EQ(answer.final.completions_size(), 1);
  EXPECT_EQ(answer.final.completions(0).finish_reason(), v1::FINISH_REASON_LENGTH);
  const v1::Usage& usage = answer.final.usage();
  EXPECT_EQ(usage.prompt_tokens(), answer.accepted.prompt_tokens());
  EXPECT_EQ(usage.completion_tokens(), 12);
  EXPECT_GT(usage.kv_bytes_peak(), 0);
  EXPECT_GT(usage.total_seconds(), 0);
  EXPECT_GE(usage.total_seconds(), usage.time_to_first_token_seconds());
  EXPECT_TRUE(BecomesIdle(daemon_->engine()));
}

TEST_F(GenerationServiceTest, TextAndItsTokenIdsGiveTheSame) {
  grpc::ClientContext context;
  v1::TokenizeRequest tokenize;
  tokenize.set_text("The little dog");
  v1::TokenizeResponse tokens;
  ASSERT_TRUE(daemon_->generation()->Tokenize(&context, tokenize, &tokens).ok());

  v1::GenerateRequest by_ids = GreedyRequest("", 8);
  *by_ids.mutable_token_ids()->mutable_ids() = tokens.token_ids();
  const Answer from_ids = Generate(daemon_, by_ids);
  const Answer from_text = Generate(daemon_, GreedyRequest("The little dog", 8));
  ASSERT_TRUE(from_ids.status.ok()) << from_ids.status.error_message();
  EXPECT_EQ(from_ids.token_ids, from_text.token_ids);
  EXPECT_EQ(from_ids.accepted.prompt_tokens(), tokens.token_ids_size());
}

TEST_F(GenerationServiceTest, SeveralCompletionsHaveTheirOwnIndex) {
  v1::GenerateRequest request = GreedyRequest("Once upon a time", 6);
  request.mutable_sampling()->set_temperature(1);
  request.mutable_sampling()->set_seed(7);
  request.mutable_sampling()->set_n(3);
  const Answer answer = Generate(daemon_, request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.final.completions_size(), 3);
  for (const auto& ids : answer.token_ids) EXPECT_THAT(ids, SizeIs(6));
  EXPECT_EQ(answer.final.usage().completion_tokens(), 18);
}

TEST_F(GenerationServiceTest, LogprobsComeWhenAskedFor) {
  v1::GenerateRequest request = GreedyRequest("Once upon a time", 4);
  request.mutable_output()->set_logprobs(3);
  request.mutable_output()->set_prompt_logprobs(0);
  grpc::ClientContext context;
  const auto reader = daemon_->generation()->Generate(&context, request);
  v1::GenerateResponse response;
  int num_logprobs = 0, num_prompt_logprobs = 0, prompt_tokens = 0;
  while (reader->Read(&response)) {
    if (response.has_accepted()) prompt_tokens = response.accepted().prompt_tokens();
    num_prompt_logprobs += response.prompt_logprobs().tokens_size();
    for (const v1::TokenLogprob& token : response.delta().logprobs()) {
      ++num_logprobs;
      ASSERT_EQ(token.alternatives_size(), 3);
      // Greedy: the likeliest is the one that was taken.
      EXPECT_EQ(token.alternatives(0).token_id(), token.token_id());
      EXPECT_LE(token.logprob(), 0);
    }
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(num_logprobs, 4);
  EXPECT_EQ(num_prompt_logprobs, prompt_tokens - 1);
}

TEST_F(GenerationServiceTest, EchoesTheRequestId) {
  grpc::ClientContext context;
  context.AddMetadata("x-request-id", "my-id-1");
  const auto reader = daemon_->generation()->Generate(&context, GreedyRequest("Hi", 1));
  const Answer answer = ReadAll(reader.get());
  EXPECT_TRUE(answer.status.ok());
  EXPECT_EQ(answer.accepted.request_id(), "my-id-1");
  const auto& metadata = context.GetServerInitialMetadata();
  ASSERT_TRUE(metadata.contains("x-request-id"));
  EXPECT_EQ(metadata.find("x-request-id")->second, "my-id-1");
}

TEST_F(GenerationServiceTest, BrokenLimitsAreInvalidArgumentWithFields) {
  v1::GenerateRequest request = GreedyRequest("Hi", 0);
  request.mutable_sampling()->set_temperature(std::numeric_limits<float>::quiet_NaN());
  const Answer answer = Generate(daemon_, request);
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(ViolationOf(answer.status, "sampling.temperature"), HasSubstr("nan"));
  EXPECT_THAT(ViolationOf(answer.status, "stopping.max_tokens"), HasSubstr("limit 1"));
  EXPECT_EQ(answer.num_accepted, 0);
  EXPECT_THAT(daemon_->observer().rejected(), Contains("invalid"));
}

TEST_F(GenerationServiceTest, TextThatIsNotUtf8IsInvalidArgumentWithItsOffset) {
  v1::GenerateRequest request = GreedyRequest("abc\xC0\xAF", 4);  // C++ clients can send it
  const Answer answer = Generate(daemon_, request);
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(ViolationOf(answer.status, "text"), HasSubstr("offset 3"));

  grpc::ClientContext context;
  v1::TokenizeRequest tokenize;
  tokenize.set_text("\xFF");
  v1::TokenizeResponse tokens;
  const grpc::Status status = daemon_->generation()->Tokenize(&context, tokenize, &tokens);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(ViolationOf(status, "text"), HasSubstr("offset 0"));
}

TEST_F(GenerationServiceTest, AnUnknownModelIsNotFoundAndSaysWhatIsServed) {
  v1::GenerateRequest request = GreedyRequest("Hi", 1);
  request.set_model("nobody");
  const Answer answer = Generate(daemon_, request);
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_THAT(answer.status.error_message(), HasSubstr(testing::kBundledModel));
  EXPECT_THAT(daemon_->observer().rejected(), Contains("unknown_model"));
}

TEST_F(GenerationServiceTest, APromptBeyondTheContextIsInvalidArgument) {
  std::string text;
  for (int i = 0; i < 3000; ++i) text += " dog";
  const Answer answer = Generate(daemon_, GreedyRequest(text, 1));
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(ViolationOf(answer.status, "text"), HasSubstr("2048"));
}

TEST_F(GenerationServiceTest, OutputEndsWithTheContext) {
  v1::GenerateRequest request = GreedyRequest("", 1000);
  for (int i = 0; i < 2040; ++i) request.mutable_token_ids()->add_ids(100 + i % 1000);
  const Answer answer = Generate(daemon_, request);
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.final.completions(0).finish_reason(), v1::FINISH_REASON_CONTEXT_FULL);
  EXPECT_LE(answer.final.completions(0).completion_tokens(), 9);
}

TEST_F(GenerationServiceTest, ChatMessagesAreUnimplemented) {
  v1::GenerateRequest request;
  auto* message = request.mutable_messages()->add_messages();
  message->set_role("user");
  message->set_content("Hi");
  const Answer answer = Generate(daemon_, request);
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_FALSE(answer.status.error_message().empty());
}

TEST_F(GenerationServiceTest, CancelFreesTheKvCache) {
  grpc::ClientContext context;
  const auto reader = daemon_->generation()->Generate(&context, GreedyRequest("Once", kEndless));
  v1::GenerateResponse response;
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(reader->Read(&response));
  EXPECT_GT(daemon_->engine().stats().kv_live_bytes, 0);
  context.TryCancel();
  EXPECT_EQ(ReadAll(reader.get()).status.error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(BecomesIdle(daemon_->engine()));
}

TEST_F(GenerationServiceTest, ADeadlineEndsTheStreamAndFreesTheKvCache) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(150));
  const auto reader = daemon_->generation()->Generate(&context, GreedyRequest("Once", kEndless));
  EXPECT_EQ(ReadAll(reader.get()).status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(BecomesIdle(daemon_->engine()));
}

TEST_F(GenerationServiceTest, AbortEndsAStreamByItsRequestId) {
  grpc::ClientContext context;
  v1::GenerateRequest request = GreedyRequest("Once", kEndless);
  request.set_request_id("to-be-aborted");
  const auto reader = daemon_->generation()->Generate(&context, request);
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));

  v1::AbortRequest abort;
  abort.set_request_id("to-be-aborted");
  v1::AbortResponse aborted;
  grpc::ClientContext abort_context;
  EXPECT_TRUE(daemon_->generation()->Abort(&abort_context, abort, &aborted).ok());
  EXPECT_EQ(ReadAll(reader.get()).status.error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(BecomesIdle(daemon_->engine()));
  // Failed streams can be billed too.
  EXPECT_TRUE(context.GetServerTrailingMetadata().contains("kvasir-completion-tokens"));

  grpc::ClientContext again_context;
  EXPECT_EQ(daemon_->generation()->Abort(&again_context, abort, &aborted).error_code(),
            grpc::StatusCode::NOT_FOUND);
  grpc::ClientContext bad_context;
  abort.set_request_id("");
  EXPECT_EQ(daemon_->generation()->Abort(&bad_context, abort, &aborted).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

// Keeps every thread that reads short texts from it.
class BusyTextWorkers {
 public:
  explicit BusyTextWorkers(TextWorkers* workers) {
    for (int i = 0; i < TextLimits().threads; ++i) {
      absl::Notification begun;
      workers->Post(workers->NewJob("busy", 1, absl::InfiniteFuture()),
                    [end = end_, &begun](const absl::Status&, const TextJob&) {
                      begun.Notify();
                      end->WaitForNotification();
                    });
      begun.WaitForNotification();
    }
  }
  ~BusyTextWorkers() { end_->Notify(); }

 private:
  // The workers', too: they may wake after this is gone.
  const std::shared_ptr<absl::Notification> end_ = std::make_shared<absl::Notification>();
};

TEST_F(GenerationServiceTest, AbortEndsWhatWaitsToBeRead) {
  BusyTextWorkers busy(&daemon_->text_workers());
  for (const bool in_metadata : {false, true}) {
    v1::GenerateRequest request = GreedyRequest("Once", kEndless);
    grpc::ClientContext context;
    if (in_metadata) {
      context.AddMetadata("x-request-id", "waits");
    } else {
      request.set_request_id("waits");
    }
    const auto reader = daemon_->generation()->Generate(&context, request);
    while (daemon_->text_workers().waiting() == 0) absl::SleepFor(absl::Milliseconds(1));

    v1::AbortRequest abort;
    abort.set_request_id("waits");
    v1::AbortResponse aborted;
    grpc::ClientContext abort_context;
    const grpc::Status found = daemon_->generation()->Abort(&abort_context, abort, &aborted);
    EXPECT_TRUE(found.ok()) << found.error_message();
    const Answer answer = ReadAll(reader.get());
    EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::CANCELLED);
    EXPECT_THAT(answer.status.error_message(), HasSubstr("aborted"));
    EXPECT_EQ(daemon_->text_workers().waiting(), 0u);
    grpc::ClientContext again_context;
    EXPECT_EQ(daemon_->generation()->Abort(&again_context, abort, &aborted).error_code(),
              grpc::StatusCode::NOT_FOUND);
  }
}

TEST_F(GenerationServiceTest, CancelsAtAnyMomentLeaveNothingBehind) {
  constexpr int kCalls = 200;
  ASSERT_TRUE(daemon_->observer().AllEnd());  // those of the tests before
  const size_t done_before = daemon_->observer().num_done();
  std::vector<std::thread> clients;
  for (int t = 0; t < 4; ++t) {
    clients.emplace_back([t] {
      for (int i = t; i < kCalls; i += 4) {
        grpc::ClientContext context;
        const auto reader =
            daemon_->generation()->Generate(&context, GreedyRequest("Once upon a time", 40));
        v1::GenerateResponse response;
        for (int reads = i % 7; reads > 0 && reader->Read(&response); --reads) {
        }
        context.TryCancel();
        ReadAll(reader.get());
      }
    });
  }
  for (std::thread& client : clients) client.join();
  // A call that was cancelled before the server saw it never began.
  EXPECT_TRUE(BecomesIdle(daemon_->engine()));
  EXPECT_TRUE(daemon_->observer().AllEnd());
  EXPECT_LE(daemon_->observer().num_done(), done_before + kCalls);
  EXPECT_GT(daemon_->observer().num_done(), done_before);
  const Answer answer = Generate(daemon_, GreedyRequest("Once upon a time", 4));
  EXPECT_TRUE(answer.status.ok());
}

TEST_F(GenerationServiceTest, TokenizeAndDetokenizeAreInverse) {
  v1::TokenizeRequest tokenize;
  tokenize.set_text("The dog said \"hello\" to 3 cats — and left.");
  tokenize.set_add_special_tokens(false);
  v1::TokenizeResponse tokens;
  grpc::ClientContext context;
  ASSERT_TRUE(daemon_->generation()->Tokenize(&context, tokenize, &tokens).ok());
  ASSERT_GT(tokens.token_ids_size(), 0);

  v1::DetokenizeRequest detokenize;
  *detokenize.mutable_token_ids() = tokens.token_ids();
  v1::DetokenizeResponse text;
  grpc::ClientContext back_context;
  ASSERT_TRUE(daemon_->generation()->Detokenize(&back_context, detokenize, &text).ok());
  EXPECT_EQ(text.text(), tokenize.text());

  detokenize.add_token_ids(1 << 30);
  grpc::ClientContext bad_context;
  const grpc::Status status = daemon_->generation()->Detokenize(&bad_context, detokenize, &text);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(ViolationOf(status, "token_ids"), HasSubstr("1073741824"));
}

TEST_F(GenerationServiceTest, GetModelGivesTheCostOfATokenByTheFormula) {
  const v1::Model model = GetModel();
  EXPECT_EQ(model.name(), testing::kBundledModel);
  EXPECT_EQ(model.architecture(), "LlamaForCausalLM");
  EXPECT_EQ(model.sharing(), "gqa");
  EXPECT_EQ(model.kv_element_type(), "bf16");
  EXPECT_EQ(model.compute_type(),
            EffectiveComputeType(ComputeType::kBf16) == ComputeType::kBf16 ? "bf16" : "f32");
  EXPECT_EQ(model.kv_bytes_per_token_resident(), 2048);
  int64_t resident = 0, read = 0;
  for (int layer = 0; layer < model.num_layers(); ++layer) {
    const int64_t bytes =
        int64_t{2} * model.kv_heads(layer) * model.head_dim() * 2;  // K and V, bf16
    read += bytes;
    if (model.kv_owner(layer) == layer) resident += bytes;
  }
  EXPECT_EQ(model.kv_bytes_per_token_resident(), resident);
  EXPECT_EQ(model.kv_bytes_per_token_read(), read);
  EXPECT_EQ(model.context_tokens(), 2048);
  EXPECT_EQ(model.vocab_size(), 4096);
  EXPECT_EQ(model.kv_pool_bytes(), daemon_->engine().stats().kv_capacity_bytes);
  EXPECT_THAT(model.eos_token_ids(), ElementsAre(0));
  EXPECT_GT(model.parameters(), 6'000'000);

  grpc::ClientContext context;
  v1::ListModelsResponse list;
  ASSERT_TRUE(daemon_->generation()->ListModels(&context, v1::ListModelsRequest(), &list).ok());
  ASSERT_EQ(list.models_size(), 1);
  // Not by their bytes: a map's order on the wire changes from message to message.
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(list.models(0), model))
      << list.models(0).DebugString() << model.DebugString();
}

// Cases that need an engine or a state of their own.

TEST(GenerationServiceOverloadTest, AFullQueueSaysWhenToRetry) {
  EngineConfig config = TestDaemon::SmallEngine();
  config.max_running = 1;
  config.max_waiting = 1;
  TestDaemon daemon(config);
  grpc::ClientContext running_context, waiting_context;
  // The first runs (its first delta proves it), the second waits.
  const auto running =
      daemon.generation()->Generate(&running_context, GreedyRequest("Once", kEndless));
  v1::GenerateResponse response;
  ASSERT_TRUE(running->Read(&response));
  ASSERT_TRUE(running->Read(&response));
  const auto waiting = daemon.generation()->Generate(&waiting_context, GreedyRequest("Once", 1));
  waiting->WaitForInitialMetadata();

  grpc::ClientContext context;
  const Answer answer =
      ReadAll(daemon.generation()->Generate(&context, GreedyRequest("Once", 1)).get());
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(DetailOf<google::rpc::RetryInfo>(answer.status).has_value());
  EXPECT_TRUE(context.GetServerTrailingMetadata().contains("grpc-retry-pushback-ms"));
  EXPECT_THAT(daemon.observer().rejected(), ElementsAre("queue_full"));

  running_context.TryCancel();
  EXPECT_TRUE(ReadAll(waiting.get()).status.ok());
  ReadAll(running.get());
}

TEST(GenerationServiceOverloadTest, ABusyCompilerOfGrammarsSaysWhenToRetry) {
  TestDaemon daemon(TestDaemon::SmallEngine(), {testing::kBundledModel}, {.max_waiting = 0});
  v1::GenerateRequest request = GreedyRequest("Once", 1);
  request.mutable_sampling()->mutable_constraint()->set_regex("a+");
  request.mutable_stopping()->clear_ignore_eos();
  const Answer answer = Generate(&daemon, request);
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(answer.status.error_message(),
              HasSubstr("sampling.constraint: 0 constraints (grammar.max_waiting) wait"));
  EXPECT_TRUE(DetailOf<google::rpc::RetryInfo>(answer.status).has_value());
  EXPECT_THAT(daemon.observer().rejected(), ElementsAre("queue_full"));
}

TEST(GenerationServiceOverloadTest, ARequestThatCouldNeverFitIsInvalidArgument) {
  EngineConfig config = TestDaemon::SmallEngine();
  config.kv_capacity_bytes = 4 * config.block_tokens * 2048;  // 4 blocks, 128 tokens
  TestDaemon daemon(config);
  const Answer answer = Generate(&daemon, GreedyRequest("Once", 1000));
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_FALSE(DetailOf<google::rpc::RetryInfo>(answer.status).has_value());
  EXPECT_THAT(daemon.observer().rejected(), ElementsAre("kv_pool"));
  EXPECT_TRUE(Generate(&daemon, GreedyRequest("Once", 20)).status.ok());
}

TEST(GenerationServiceDrainTest, RefusesNewRequestsAndFinishesRunningOnes) {
  TestDaemon daemon;
  grpc::ClientContext context;
  const auto running = daemon.generation()->Generate(&context, GreedyRequest("Once", 100));
  v1::GenerateResponse response;
  ASSERT_TRUE(running->Read(&response));
  daemon.draining() = true;
  const Answer refused = Generate(&daemon, GreedyRequest("Once", 1));
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(daemon.observer().rejected(), ElementsAre("draining"));
  const Answer rest = ReadAll(running.get());
  EXPECT_TRUE(rest.status.ok());
  EXPECT_EQ(rest.final.usage().completion_tokens(), 100);
}

TEST(GenerationServiceModelsTest, TwoModelsServeAtOnceAndMustBeNamed) {
  TestDaemon daemon(TestDaemon::SmallEngine(), {"alpha", "beta"});
  const Answer unnamed = Generate(&daemon, GreedyRequest("Once", 1));
  EXPECT_EQ(unnamed.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(unnamed.status.error_message(), HasSubstr("alpha, beta"));
  v1::GenerateRequest request = GreedyRequest("Once upon a time", 24);
  Answer alpha;
  request.set_model("alpha");
  std::thread other([&daemon, &alpha, request] { alpha = Generate(&daemon, request); });
  request.set_model("beta");
  const Answer beta = Generate(&daemon, request);
  other.join();
  ASSERT_TRUE(alpha.status.ok());
  ASSERT_TRUE(beta.status.ok());
  EXPECT_EQ(alpha.accepted.model(), "alpha");
  EXPECT_EQ(beta.accepted.model(), "beta");
  EXPECT_EQ(alpha.token_ids, beta.token_ids);  // the same checkpoint
}

}  // namespace
}  // namespace kvasir
