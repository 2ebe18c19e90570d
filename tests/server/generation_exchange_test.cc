// Generations over an exchange that the test holds: when headers leave, what keeps a silent stream
// alive, how a failure is told before and after. The clock is the test's: ticks come when it says.
#include "server/http/generation_exchange.h"

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/test_daemon.h"

namespace kvasir {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

constexpr absl::Duration kPatience = absl::Seconds(60);
constexpr int kEndless = 1900;

// Tells exchanges that bytes have left. Of the process: an exchange may end in one of its tasks.
WorkerThread& Writer() {
  static auto* const writer = new WorkerThread("writer", 1 << 20);
  return *writer;
}

class HeldExchange final : public HttpExchange {
 public:
  explicit HeldExchange(const std::string& body) {
    request_.method = "POST";
    request_.path = "/v1/completions";
    request_.body = body;
  }

  const HttpRequest& request() const override { return request_; }
  void Send(HttpResponse response, std::function<void(bool)> done) override {
    Note(absl::StrCat("whole ", response.status, " ", response.body), std::move(done));
  }
  void StartStream(HttpResponse response) override {
    Note(absl::StrCat("head ", response.status, " ", response.content_type), nullptr);
  }
  void Write(std::string bytes, std::function<void(bool)> done) override {
    Note(std::move(bytes), std::move(done));
  }
  void EndStream() override { Note("end", nullptr); }
  void OnClientGone(std::function<void()>) override {}
  void EveryWhile(double period_seconds, std::function<void()> tick) override {
    absl::MutexLock lock(&mutex_);
    period_seconds_ = period_seconds;
    tick_ = std::move(tick);
  }

  // The stream waits for its first result.
  void AwaitBegin() {
    const auto begun = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return tick_ != nullptr; };
    absl::MutexLock lock(&mutex_);
    ASSERT_TRUE(mutex_.AwaitWithTimeout(absl::Condition(&begun), kPatience));
  }
  // What was sent, up to the first piece that holds `text`.
  std::vector<std::string> AwaitSent(const std::string& text) {
    const auto there = [&]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
      return absl::StrContains(absl::StrJoin(sent_, "\n"), text);
    };
    absl::MutexLock lock(&mutex_);
    EXPECT_TRUE(mutex_.AwaitWithTimeout(absl::Condition(&there), kPatience)) << text;
    return sent_;
  }
  std::vector<std::string> sent() {
    absl::MutexLock lock(&mutex_);
    return sent_;
  }
  double period_seconds() {
    absl::MutexLock lock(&mutex_);
    return period_seconds_;
  }
  void Tick() {
    std::function<void()> tick;
    {
      absl::MutexLock lock(&mutex_);
      tick = tick_;
    }
    tick();
  }
  // Writes leave at once from now on, those before too.
  void Flow() {
    std::vector<std::function<void(bool)>> waiting;
    {
      absl::MutexLock lock(&mutex_);
      flows_ = true;
      waiting.swap(waiting_);
    }
    for (const auto& done : waiting) done(true);
  }

 private:
  void Note(std::string what, std::function<void(bool)> done) {
    absl::MutexLock lock(&mutex_);
    sent_.push_back(std::move(what));
    if (!done) return;
    if (flows_) {
      // From another call stack. Whoever sees what was sent sees this posted.
      EXPECT_TRUE(Writer().Post([done] { done(true); }));
    } else {
      waiting_.push_back(std::move(done));
    }
  }

  HttpRequest request_;
  absl::Mutex mutex_;
  std::vector<std::string> sent_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::function<void(bool)>> waiting_ ABSL_GUARDED_BY(mutex_);
  bool flows_ ABSL_GUARDED_BY(mutex_) = false;
  double period_seconds_ ABSL_GUARDED_BY(mutex_) = 0;
  std::function<void()> tick_ ABSL_GUARDED_BY(mutex_);
};

class GenerationExchangeTest : public ::testing::Test {
 protected:
  static EngineConfig OneAtATime() {
    EngineConfig config = testing::TestDaemon::SmallEngine();
    config.max_running = 1;
    return config;
  }

  void TearDown() override {
    // What waits holds what waits for it.
    for (const auto& exchange : asked_) exchange->Flow();
    absl::Notification idle;
    ASSERT_TRUE(Writer().Post([&] { idle.Notify(); }));
    idle.WaitForNotification();
  }

  // Something runs, so that what comes next waits.
  void Occupy() {
    company_ =
        daemon_.generation()->Generate(&company_context_, testing::GreedyRequest("Once", kEndless));
    v1::GenerateResponse response;
    ASSERT_TRUE(company_->Read(&response));
  }
  void Free() {
    company_context_.TryCancel();
    testing::ReadAll(company_.get());
  }
  void Abort(const std::string& id) {
    v1::AbortRequest abort;
    abort.set_request_id(id);
    v1::AbortResponse aborted;
    grpc::ClientContext context;
    const grpc::Status status = daemon_.generation()->Abort(&context, abort, &aborted);
    EXPECT_TRUE(status.ok()) << status.error_message();
  }
  std::shared_ptr<HeldExchange> Ask(const std::string& fields) {
    auto exchange = std::make_shared<HeldExchange>(absl::StrCat(
        R"({"prompt": "Once", "temperature": 0, "max_tokens": 3, "request_id": "it", )", fields,
        "}"));
    AnswerGeneration(frontend_, exchange, AnswerForm::kCompletion, {});
    asked_.push_back(exchange);
    return exchange;
  }

  testing::TestDaemon daemon_{OneAtATime()};
  const Frontend frontend_{daemon_.environment()};
  std::vector<std::shared_ptr<HeldExchange>> asked_;
  grpc::ClientContext company_context_;
  std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>> company_;
};

TEST_F(GenerationExchangeTest, ASilentStreamIsKeptAliveByComments) {
  Occupy();
  const auto exchange = Ask(R"("stream": true)");
  exchange->AwaitBegin();
  EXPECT_EQ(exchange->period_seconds(), kKeepAliveSeconds);
  EXPECT_THAT(exchange->sent(), IsEmpty()) << "headers wait for the first result";
  const char kHead[] = "head 200 text/event-stream; charset=utf-8";
  exchange->Tick();
  EXPECT_THAT(exchange->sent(), ElementsAre(kHead, ":\n\n"));
  exchange->Tick();  // the last one has not left: a slow reader gets no more
  EXPECT_THAT(exchange->sent(), ElementsAre(kHead, ":\n\n"));
  exchange->Flow();
  exchange->Tick();
  EXPECT_THAT(exchange->sent(), ElementsAre(kHead, ":\n\n", ":\n\n"));
  Free();
  const std::vector<std::string> all = exchange->AwaitSent("end");
  EXPECT_THAT(all[3], StartsWith("data: {"));
  EXPECT_THAT(all[all.size() - 2], ::testing::EndsWith("data: [DONE]\n\n"));
  EXPECT_EQ(all.back(), "end");
}

TEST_F(GenerationExchangeTest, HeadersLeaveWithTheFirstResult) {
  const auto exchange = Ask(R"("stream": true)");
  exchange->Flow();
  const std::vector<std::string> all = exchange->AwaitSent("end");
  EXPECT_THAT(all[0], StartsWith("head 200"));
  EXPECT_THAT(all[1], StartsWith("data: {"));
  EXPECT_THAT(absl::StrJoin(all, ""), ::testing::Not(HasSubstr("\n:\n")));
}

TEST_F(GenerationExchangeTest, AFailureBeforeTheFirstResultHasItsOwnStatus) {
  EXPECT_THAT(Ask(R"("stream": true, "top_p": 7)")->AwaitSent("whole"),
              ElementsAre(StartsWith("whole 400 {\"error\"")));
  Occupy();
  const auto exchange = Ask(R"("stream": true)");
  exchange->AwaitBegin();
  Abort("it");
  EXPECT_THAT(exchange->AwaitSent("whole"), ElementsAre(HasSubstr("aborted")));
  Free();
}

TEST_F(GenerationExchangeTest, AFailureAfterwardsIsAnEvent) {
  Occupy();
  const auto exchange = Ask(R"("stream": true)");
  exchange->AwaitBegin();
  exchange->Flow();
  exchange->Tick();
  Abort("it");
  const std::vector<std::string> all = exchange->AwaitSent("end");
  ASSERT_EQ(all.size(), 4u) << absl::StrJoin(all, "|");
  EXPECT_THAT(all[2], StartsWith("data: {\"error\":"));
  EXPECT_THAT(all[2], HasSubstr("aborted"));
  Free();
}

}  // namespace
}  // namespace kvasir
