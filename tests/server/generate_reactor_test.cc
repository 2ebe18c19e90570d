// The reactor behind a real gRPC server, its TokenStream fed by hand: what the client sees for each
// order of events.
#include "server/grpc/generate_reactor.h"

#include <atomic>
#include <limits>
#include <map>
#include <optional>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "gtest/gtest.h"
#include "server/frontend/request_errors.h"
#include "server/frontend/request_id.h"
#include "server/grpc/call_context.h"
#include "server/grpc/generation_service.h"
#include "server/grpc/wire_message.h"
#include "tests/server/error_details.h"
#include "tests/server/recording_call_observer.h"

namespace kvasir {
namespace {

using ::kvasir::testing::RecordingCallObserver;
using ::testing::Contains;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;

constexpr size_t kOutboxEvents = 16;

// One stream and what its engine side was told.
struct FedStream {
  FedStream() : stream(std::make_shared<TokenStream>(kOutboxEvents, [this] { Wake(); })) {}

  void Wake() {
    absl::MutexLock lock(&mutex);
    woken = true;
  }
  // False when nothing woke the engine for `timeout`.
  bool WaitForWake(absl::Duration timeout) {
    absl::MutexLock lock(&mutex);
    if (!mutex.AwaitWithTimeout(absl::Condition(&woken), timeout)) return false;
    woken = false;
    return true;
  }

  void Accept() { stream->Push(AcceptedEvent{.prompt_tokens = 3, .cached_tokens = 2}); }
  void Delta(int index, const std::string& text, std::vector<TokenId> tokens = {}) {
    DeltaEvent event;
    event.index = index;
    event.text = text;
    event.tokens = std::move(tokens);
    stream->Push(std::move(event));
  }
  void Finish(absl::Status status) {
    FinishedEvent event;
    event.status = std::move(status);
    event.completions.emplace_back().reason = FinishReason::kLength;
    event.usage.prompt_tokens = 3;
    event.usage.completion_tokens = 4;
    event.usage.kv_bytes_peak = 4096;
    stream->Push(std::move(event));
  }

  // Pushes deltas of `text_bytes` for completions 0 to n - 1 in turn, their number in front, until
  // nobody takes events any more: flow control, one write in flight and the outbox are full. The
  // count, or nothing when far more than sockets buffer did not suffice.
  std::optional<int> PushUntilHeldBack(int n, size_t text_bytes) {
    constexpr size_t kFarTooMuchBytes = 256 << 20;
    const std::string padding(text_bytes, '.');
    for (int pushed = 0; pushed * text_bytes < kFarTooMuchBytes;) {
      if (stream->HasRoom(1)) {
        Delta(pushed % n, absl::StrCat("<", pushed, ">", padding));
        ++pushed;
      } else if (!WaitForWake(absl::Milliseconds(300))) {
        return pushed;
      }
    }
    return std::nullopt;
  }

  absl::Mutex mutex;
  bool woken ABSL_GUARDED_BY(mutex) = false;
  std::shared_ptr<TokenStream> stream;
  absl::Time deadline = absl::InfiniteFuture();  // as the server knows it
};

// Serves every call from a fresh FedStream; model "refuse" is refused.
class FedService : public RawGenerationService {
 public:
  FedService(RecordingCallObserver* observer, WorkerThread* writer)
      : observer_(observer), writer_(writer) {}

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Generate(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* wire) override {
    auto call = std::make_unique<GenerationCall>(observer_, std::string(RequestIdOf(*context)),
                                                 DeadlineOf(*context));
    call->model = "fed";
    v1::GenerateRequest request;
    EXPECT_TRUE(ParseWire(*wire, &request).ok());
    if (request.model() == "refuse") {
      const absl::Status refusal =
          WithRetryAfter(absl::ResourceExhaustedError("queue full"), absl::Milliseconds(1500));
      call->SetOutcome(refusal);
      const auto reactor = GenerateReactor::Make(context, std::move(call));
      reactor->Begin(refusal, writer_);
      return reactor.get();
    }
    auto fed = std::make_shared<FedStream>();
    fed->deadline = call->deadline;
    {
      absl::MutexLock lock(&mutex_);
      streams_[call->request_id] = fed;
    }
    call->SetStream(fed->stream);
    const auto reactor = GenerateReactor::Make(context, std::move(call));
    reactor->Begin(fed->stream, writer_);
    return reactor.get();
  }

  // The stream of the call with this id, once it is there.
  std::shared_ptr<FedStream> WaitFor(const std::string& id) {
    const auto known = [&]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return streams_.contains(id); };
    absl::MutexLock lock(&mutex_, absl::Condition(&known));
    return streams_[id];
  }

 private:
  RecordingCallObserver* const observer_;
  WorkerThread* const writer_;
  absl::Mutex mutex_;
  std::map<std::string, std::shared_ptr<FedStream>> streams_ ABSL_GUARDED_BY(mutex_);
};

class GenerateReactorTest : public ::testing::Test {
 protected:
  GenerateReactorTest() {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    const auto channel =
        grpc::CreateChannel(absl::StrCat("127.0.0.1:", port), grpc::InsecureChannelCredentials());
    // So that short deadlines are not spent on connecting.
    EXPECT_TRUE(
        channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(10)));
    stub_ = v1::GenerationService::NewStub(channel);
  }

  using Reader = std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>>;
  Reader Call(grpc::ClientContext* context, const std::string& id, const std::string& model = "") {
    context->AddMetadata(kRequestIdKey, id);
    v1::GenerateRequest request;
    request.set_model(model);
    return stub_->Generate(context, request);
  }

  // Keeps the stream writer busy until the result is notified.
  std::shared_ptr<absl::Notification> HoldWriter() {
    auto release = std::make_shared<absl::Notification>();
    EXPECT_TRUE(writer_.Post([release] { release->WaitForNotification(); }));
    return release;
  }

  // Returns when the stream writer has done all that was posted before.
  void WaitForWriter() {
    absl::Notification done;
    EXPECT_TRUE(writer_.Post([&done] { done.Notify(); }));
    done.WaitForNotification();
  }

  static std::string Trailer(const grpc::ClientContext& context, const std::string& key) {
    const auto& trailers = context.GetServerTrailingMetadata();
    const auto found = trailers.find(key);
    return found == trailers.end() ? "" : std::string(found->second.data(), found->second.size());
  }

  RecordingCallObserver observer_;
  WorkerThread writer_{"writer", std::numeric_limits<size_t>::max()};
  FedService service_{&observer_, &writer_};
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<v1::GenerationService::Stub> stub_;
};

TEST_F(GenerateReactorTest, SendsAcceptedDeltasAndOneFinalInOrder) {
  grpc::ClientContext context;
  Reader reader = Call(&context, "r1");
  // Admission alone makes the client hear something.
  reader->WaitForInitialMetadata();
  const auto& initial = context.GetServerInitialMetadata();
  ASSERT_TRUE(initial.contains(kRequestIdKey));
  EXPECT_EQ(initial.find(kRequestIdKey)->second, "r1");

  const auto fed = service_.WaitFor("r1");
  v1::GenerateResponse response;
  fed->Accept();
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.accepted().request_id(), "r1");
  EXPECT_EQ(response.accepted().model(), "fed");
  EXPECT_EQ(response.accepted().prompt_tokens(), 3);
  EXPECT_EQ(response.accepted().cached_tokens(), 2);

  fed->stream->Push(
      PromptLogprobsEvent{.first_position = 1, .tokens = {{7, -0.5f, {{8, -0.25f}}}}});
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.prompt_logprobs().first_position(), 1);
  EXPECT_EQ(response.prompt_logprobs().tokens(0).token_id(), 7);
  EXPECT_EQ(response.prompt_logprobs().tokens(0).alternatives(0).logprob(), -0.25f);

  for (const char* text : {"one", "two"}) {
    fed->Delta(0, text, {1, 2});
    ASSERT_TRUE(reader->Read(&response));
    EXPECT_EQ(response.delta().text(), text);
    EXPECT_THAT(response.delta().token_ids(), ElementsAre(1, 2));
  }
  fed->Finish(absl::OkStatus());
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.final().completions(0).finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(response.final().usage().kv_bytes_peak(), 4096);
  EXPECT_FALSE(reader->Read(&response));
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(Trailer(context, "kvasir-completion-tokens"), "4");
  EXPECT_THAT(observer_.WaitForDone(1), ElementsAre(absl::StatusCode::kOk));
}

TEST_F(GenerateReactorTest, DeltasThatWaitBecomeOneMessagePerCompletion) {
  grpc::ClientContext context;
  Reader reader = Call(&context, "r1");
  const auto fed = service_.WaitFor("r1");
  const auto release = HoldWriter();
  fed->Accept();
  //  0: a c e     1: b d
  fed->Delta(0, "a", {1});
  fed->Delta(1, "b", {2});
  fed->Delta(0, "c", {3});
  fed->Delta(1, "d", {4});
  fed->Delta(0, "e", {5});
  fed->Finish(absl::OkStatus());
  release->Notify();

  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_TRUE(response.has_accepted());
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.delta().index(), 0);
  EXPECT_EQ(response.delta().text(), "ace");
  EXPECT_THAT(response.delta().token_ids(), ElementsAre(1, 3, 5));
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.delta().index(), 1);
  EXPECT_EQ(response.delta().text(), "bd");
  EXPECT_THAT(response.delta().token_ids(), ElementsAre(2, 4));
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_TRUE(response.has_final());
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(GenerateReactorTest, GatheredMessagesStayFarBelowTheMessageLimit) {
  grpc::ClientContext context;
  Reader reader = Call(&context, "r1");
  const auto fed = service_.WaitFor("r1");
  const auto release = HoldWriter();
  const std::string piece(50'000, 'x');
  for (int i = 0; i < 10; ++i) fed->Delta(0, piece);
  fed->Finish(absl::OkStatus());
  release->Notify();

  size_t text_bytes = 0;
  v1::GenerateResponse response;
  while (reader->Read(&response) && response.has_delta()) {
    EXPECT_LE(response.ByteSizeLong(), (64 << 10) + piece.size() + 100);
    text_bytes += response.delta().text().size();
  }
  EXPECT_EQ(text_bytes, 10 * piece.size());
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(GenerateReactorTest, AFailureEndsTheStreamWithoutFinalButWithUsage) {
  const absl::Status failures[] = {
      absl::DeadlineExceededError("too late"), absl::AbortedError("session busy"),
      absl::ResourceExhaustedError("slow reader"), absl::CancelledError("shutdown"),
      absl::InternalError("the prompt was 'secret'")};
  for (const absl::Status& failure : failures) {
    grpc::ClientContext context;
    const std::string id = absl::StrCat("r-", static_cast<int>(failure.code()));
    Reader reader = Call(&context, id);
    const auto fed = service_.WaitFor(id);
    fed->Accept();
    fed->Delta(0, "partial");
    fed->Finish(failure);

    v1::GenerateResponse response;
    std::string text;
    while (reader->Read(&response)) {
      EXPECT_FALSE(response.has_final());
      text += response.delta().text();
    }
    EXPECT_EQ(text, "partial");
    const grpc::Status status = reader->Finish();
    EXPECT_EQ(static_cast<int>(status.error_code()), static_cast<int>(failure.code()));
    EXPECT_THAT(status.error_message(), Not(HasSubstr("secret")));
    if (absl::IsInternal(failure)) {
      EXPECT_THAT(status.error_message(), HasSubstr(id));
    }
    EXPECT_EQ(Trailer(context, "kvasir-prompt-tokens"), "3");
    EXPECT_EQ(Trailer(context, "kvasir-completion-tokens"), "4");
    EXPECT_EQ(Trailer(context, "kvasir-kv-bytes-peak"), "4096");
  }
  EXPECT_THAT(observer_.WaitForDone(std::size(failures)), SizeIs(std::size(failures)));
}

TEST_F(GenerateReactorTest, ARefusalSaysWhenToRetry) {
  grpc::ClientContext context;
  Reader reader = Call(&context, "r1", "refuse");
  v1::GenerateResponse response;
  EXPECT_FALSE(reader->Read(&response));
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  const auto retry = testing::DetailOf<google::rpc::RetryInfo>(status);
  ASSERT_TRUE(retry);
  EXPECT_EQ(retry->retry_delay().seconds(), 1);
  EXPECT_EQ(Trailer(context, "grpc-retry-pushback-ms"), "1500");
  EXPECT_THAT(observer_.WaitForDone(1), ElementsAre(absl::StatusCode::kResourceExhausted));
}

TEST_F(GenerateReactorTest, CancelReachesTheEngineAndTheCallEndsWhenTheEngineSaysSo) {
  grpc::ClientContext context;
  Reader reader = Call(&context, "r1");
  const auto fed = service_.WaitFor("r1");
  fed->Accept();
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  context.TryCancel();
  while (!fed->stream->cancelled()) ASSERT_TRUE(fed->WaitForWake(absl::Seconds(10)));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_EQ(observer_.num_done(), 0u);  // the engine still holds the request's KV cache
  fed->Finish(absl::CancelledError("client went away"));
  EXPECT_THAT(observer_.WaitForDone(1), ElementsAre(absl::StatusCode::kCancelled));
}

// Once such a call never ended: what waited behind the failed write kept the reactor from looking
// for Finished.
TEST_F(GenerateReactorTest, AClientThatLeavesDuringAWriteWithMoreBehindItEndsTheCall) {
  grpc::ClientContext context;
  Reader reader = Call(&context, "r1");
  const auto fed = service_.WaitFor("r1");
  // Many completions, so that messages wait behind the write that nobody reads.
  ASSERT_TRUE(fed->PushUntilHeldBack(kOutboxEvents, 4 << 10).has_value());
  fed->Finish(absl::OkStatus());
  WaitForWriter();
  context.TryCancel();
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_THAT(observer_.WaitForDone(1), ElementsAre(absl::StatusCode::kCancelled));
}

TEST_F(GenerateReactorTest, APassedDeadlineIsReportedAsOne) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(300));
  Reader reader = Call(&context, "r1");
  const auto fed = service_.WaitFor("r1");
  // gRPC cancels the call; the engine only sees that.
  while (!fed->stream->cancelled()) ASSERT_TRUE(fed->WaitForWake(absl::Seconds(10)));
  absl::SleepFor(fed->deadline - absl::Now());  // the client's clock may be a little ahead
  fed->Finish(absl::CancelledError("client went away"));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_THAT(observer_.WaitForDone(1), ElementsAre(absl::StatusCode::kDeadlineExceeded));
}

TEST_F(GenerateReactorTest, ACancelLongBeforeTheDeadlineIsNone) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::hours(1));
  Reader reader = Call(&context, "r1");
  const auto fed = service_.WaitFor("r1");
  context.TryCancel();
  while (!fed->stream->cancelled()) ASSERT_TRUE(fed->WaitForWake(absl::Seconds(10)));
  fed->Finish(absl::CancelledError("client went away"));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_THAT(observer_.WaitForDone(1), ElementsAre(absl::StatusCode::kCancelled));
}

TEST_F(GenerateReactorTest, ASlowReaderIsBoundedAndLosesNothing) {
  grpc::ClientContext context;
  Reader reader = Call(&context, "r1");
  const auto fed = service_.WaitFor("r1");
  const std::optional<int> pushed = fed->PushUntilHeldBack(1, 32 << 10);
  ASSERT_TRUE(pushed.has_value());

  std::thread finish([&] {
    while (!fed->stream->HasRoom(1)) fed->WaitForWake(absl::Seconds(10));
    fed->Finish(absl::OkStatus());
  });
  v1::GenerateResponse response;
  std::string numbers;
  while (reader->Read(&response)) {
    for (const char c : response.delta().text()) {
      if (c != '.') numbers += c;
    }
  }
  finish.join();
  EXPECT_TRUE(reader->Finish().ok());
  std::string expected;
  for (int i = 0; i < *pushed; ++i) absl::StrAppend(&expected, "<", i, ">");
  EXPECT_EQ(numbers, expected);
}

// Clients that leave at any moment, engines that finish at any moment: every call ends once and
// nothing is left over.
TEST_F(GenerateReactorTest, EveryCallEndsOnceWhateverTheOrder) {
  constexpr int kCalls = 300;
  constexpr int kThreads = 4;
  std::atomic<int> next{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(static_cast<unsigned>(t));
      while (true) {
        const int call = next++;
        if (call >= kCalls) return;
        const std::string id = absl::StrCat("call-", call);
        const int events = static_cast<int>(random() % 8);
        const int reads = static_cast<int>(random() % 8);
        grpc::ClientContext context;
        Reader reader = Call(&context, id);
        const auto fed = service_.WaitFor(id);
        std::thread engine([fed, events] {
          fed->Accept();
          for (int i = 0; i < events && !fed->stream->cancelled(); ++i) fed->Delta(i % 2, "x", {i});
          fed->Finish(fed->stream->cancelled() ? absl::CancelledError("") : absl::OkStatus());
        });
        v1::GenerateResponse response;
        for (int i = 0; i < reads && reader->Read(&response); ++i) {
        }
        if (call % 2 == 0) context.TryCancel();
        while (reader->Read(&response)) {
        }
        const grpc::Status status = reader->Finish();
        EXPECT_TRUE(status.ok() || status.error_code() == grpc::StatusCode::CANCELLED);
        engine.join();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(observer_.WaitForDone(kCalls), SizeIs(kCalls));
  EXPECT_THAT(observer_.WaitForDone(kCalls), Contains(absl::StatusCode::kOk));
}

TEST_F(GenerateReactorTest, ShutdownOfTheServerEndsRunningCalls) {
  grpc::ClientContext context;
  Reader reader = Call(&context, "r1");
  const auto fed = service_.WaitFor("r1");
  fed->Accept();
  std::thread engine([&] {
    while (!fed->stream->cancelled()) fed->WaitForWake(absl::Seconds(10));
    fed->Finish(absl::CancelledError("shutdown"));
  });
  server_->Shutdown(std::chrono::system_clock::now());  // cancels, and waits for every call
  engine.join();
  EXPECT_THAT(observer_.WaitForDone(1), SizeIs(1));
  v1::GenerateResponse response;
  while (reader->Read(&response)) {
  }
  EXPECT_FALSE(reader->Finish().ok());
}

TEST(WorkerThreadTest, RunsInOrderAndAllBeforeItEnds) {
  std::vector<int> ran;
  {
    WorkerThread worker("worker", 100);
    for (int i = 0; i < 100; ++i) EXPECT_TRUE(worker.Post([&ran, i] { ran.push_back(i); }));
  }
  ASSERT_THAT(ran, SizeIs(100));
  EXPECT_TRUE(std::is_sorted(ran.begin(), ran.end()));
}

TEST(WorkerThreadTest, RefusesBeyondItsBound) {
  absl::Notification began, release;
  WorkerThread worker("worker", 2);
  ASSERT_TRUE(worker.Post([&] {
    began.Notify();
    release.WaitForNotification();
  }));
  began.WaitForNotification();
  EXPECT_TRUE(worker.Post([] {}));
  EXPECT_TRUE(worker.Post([] {}));
  EXPECT_FALSE(worker.Post([] {}));
  release.Notify();
}

}  // namespace
}  // namespace kvasir
