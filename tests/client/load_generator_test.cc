// The load generator against a server that is a function: how many requests, how many at once, what
// they ask, and what becomes of errors, cancels and stops. No expectation depends on the machine's
// speed.
#include "client/load_generator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <set>
#include <thread>

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"

namespace kvasir {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;

LoadOptions SmallOptions() {
  LoadOptions options;
  options.model = "m";
  options.requests = 20;
  options.streams = 4;
  options.prompt_tokens = 12;
  options.max_tokens = 5;
  options.vocab_size = 50;
  return options;
}

// Streams max_tokens deltas of one token; a reader that stops gets Cancelled, as from the client.
absl::StatusOr<GenerateResult> FakeStream(const v1::GenerateRequest& request,
                                          const GenerationClient::OnDelta& on_delta) {
  v1::Delta delta;
  delta.add_token_ids(1);
  for (int i = 0; i < request.stopping().max_tokens(); ++i) {
    if (!on_delta(delta)) return absl::CancelledError("stopped by the caller");
  }
  GenerateResult result;
  result.usage.set_prompt_tokens(request.token_ids().ids_size());
  result.usage.set_cached_tokens(request.token_ids().ids_size() / 4);
  return result;
}

std::vector<int32_t> Prompt(const LoadOptions& options, int32_t index) {
  const v1::GenerateRequest request = MakeLoadRequest(options, index);
  return {request.token_ids().ids().begin(), request.token_ids().ids().end()};
}

TEST(LoadRequestTest, PromptsRepeatWithTheSeedAndShareTheirBeginning) {
  LoadOptions options = SmallOptions();
  options.vocab_size = 5000;
  options.prompt_tokens = 40;
  options.shared_prefix_tokens = 30;
  const std::vector<int32_t> first = Prompt(options, 0), second = Prompt(options, 1);
  EXPECT_EQ(first.size(), 40u);
  EXPECT_EQ(first, Prompt(options, 0));
  EXPECT_TRUE(std::equal(first.begin(), first.begin() + 30, second.begin()));
  EXPECT_NE(std::vector<int32_t>(first.begin() + 30, first.end()),
            std::vector<int32_t>(second.begin() + 30, second.end()));
  options.seed = 2;
  EXPECT_NE(first, Prompt(options, 0));
}

TEST(LoadRequestTest, PromptsHaveNoExcludedTokenAndRunToTheirLength) {
  LoadOptions options = SmallOptions();
  options.vocab_size = 4;
  options.excluded_token_ids = {0, 3};
  options.prompt_tokens = 200;
  EXPECT_THAT(Prompt(options, 0), Each(::testing::AnyOf(1, 2)));
  const v1::GenerateRequest request = MakeLoadRequest(options, 0);
  EXPECT_EQ(request.model(), "m");
  EXPECT_TRUE(request.stopping().ignore_eos());
  EXPECT_EQ(request.stopping().max_tokens(), 5);
  EXPECT_EQ(request.sampling().temperature(), 0);
}

TEST(PoissonArrivalsTest, AreSeededAscendingAndOfTheRateAskedFor) {
  LoadOptions options = SmallOptions();
  options.requests = 20000;
  options.arrivals_per_second = 50;
  const std::vector<absl::Duration> arrivals = PoissonArrivals(options);
  EXPECT_TRUE(std::is_sorted(arrivals.begin(), arrivals.end()));
  EXPECT_EQ(arrivals, PoissonArrivals(options));
  // The sum of n gaps has a standard deviation of its mean / sqrt(n): 5 of them are 3.5 %.
  EXPECT_NEAR(absl::ToDoubleSeconds(arrivals.back()), 400, 0.035 * 400);
  // Of exponential gaps, e^-1 are longer than the mean.
  int longer = 0;
  for (size_t i = 1; i < arrivals.size(); ++i)
    longer += arrivals[i] - arrivals[i - 1] > absl::Milliseconds(20);
  EXPECT_NEAR(longer / 20000.0, 0.3679, 0.02);
  options.seed = 2;
  EXPECT_NE(arrivals, PoissonArrivals(options));
}

TEST(RunLoadTest, AClosedLoopSendsEveryRequestOnceWithAllStreamsAtWork) {
  const LoadOptions options = SmallOptions();
  std::multiset<std::vector<int32_t>> wanted, sent;
  for (int i = 0; i < options.requests; ++i) wanted.insert(Prompt(options, i));

  absl::Mutex mutex;
  int under_way = 0, most = 0;
  int64_t progress = 0;
  LoadHooks hooks;
  hooks.on_progress = [&](int64_t ended) { progress = std::max(progress, ended); };
  const auto report = RunLoad(
      options,
      [&](const v1::GenerateRequest& request, const GenerationClient::OnDelta& on_delta) {
        {
          absl::MutexLock lock(&mutex);
          sent.insert({request.token_ids().ids().begin(), request.token_ids().ids().end()});
          most = std::max(most, ++under_way);
          // Nobody goes on before the first four are here together.
          mutex.Await(absl::Condition(
              +[](int* seen) { return *seen >= 4; }, &most));
        }
        auto result = FakeStream(request, on_delta);
        absl::MutexLock lock(&mutex);
        --under_way;
        return result;
      },
      hooks);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(sent, wanted);
  EXPECT_EQ(most, 4);
  EXPECT_EQ(progress, options.requests);
  EXPECT_EQ(report->succeeded, options.requests);
  EXPECT_EQ(report->completion_tokens, 5 * options.requests);
  EXPECT_EQ(report->inter_token_latency.count, 4 * options.requests);
  EXPECT_DOUBLE_EQ(report->cached_ratio, 0.25);
  EXPECT_EQ(report->max_send_delay, absl::ZeroDuration());
}

TEST(RunLoadTest, AnOpenLoopCountsLatencyFromWhenARequestWasDue) {
  LoadOptions options = SmallOptions();
  options.requests = 5;
  options.streams = 1;
  options.arrivals_per_second = 1e6;  // all are due at once
  const auto report = RunLoad(
      options, [](const v1::GenerateRequest& request, const GenerationClient::OnDelta& on_delta) {
        absl::SleepFor(absl::Milliseconds(20));
        return FakeStream(request, on_delta);
      });
  ASSERT_TRUE(report.ok()) << report.status();
  // The only reader sends the last one after four others, and its users have waited that long.
  EXPECT_GE(report->max_send_delay, absl::Milliseconds(75));
  EXPECT_GE(report->total.max, absl::Milliseconds(95));
  EXPECT_GE(report->time_to_first_token.max, absl::Milliseconds(95));
}

TEST(RunLoadTest, CancelsAfterSoManyTokensAndCountsThem) {
  LoadOptions options = SmallOptions();
  options.cancel_after_tokens = 3;
  const auto report = RunLoad(options, FakeStream);
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report->succeeded, 0);
  EXPECT_EQ(report->cancelled_on_purpose, options.requests);
  EXPECT_EQ(report->completion_tokens, 3 * options.requests);
  EXPECT_TRUE(report->errors_by_code.empty());
}

TEST(RunLoadTest, ASlowReaderWaitsBeforeEachFurtherDelta) {
  LoadOptions options = SmallOptions();
  options.requests = 1;
  options.read_delay = absl::Milliseconds(10);
  const auto report = RunLoad(options, FakeStream);
  ASSERT_TRUE(report.ok());
  EXPECT_GE(report->total.max, absl::Milliseconds(50));
}

TEST(RunLoadTest, ErrorsDoNotEndTheRun) {
  std::atomic<int> calls = 0;
  const auto report =
      RunLoad(SmallOptions(),
              [&](const v1::GenerateRequest& request,
                  const GenerationClient::OnDelta& on_delta) -> absl::StatusOr<GenerateResult> {
                if (calls++ % 4 == 0) return absl::ResourceExhaustedError("full");
                return FakeStream(request, on_delta);
              });
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report->succeeded, 15);
  EXPECT_EQ(report->errors_by_code.at("RESOURCE_EXHAUSTED"), 5);
  EXPECT_EQ(report->first_error, "full");
}

TEST(RunLoadTest, StoppingSendsNoFurtherRequest) {
  LoadOptions options = SmallOptions();
  options.streams = 1;
  std::atomic<int> calls = 0;
  LoadHooks hooks;
  hooks.stopped = [&] { return calls >= 3; };
  const auto report = RunLoad(
      options,
      [&](const v1::GenerateRequest& request, const GenerationClient::OnDelta& on_delta) {
        ++calls;
        return FakeStream(request, on_delta);
      },
      hooks);
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report->requests, 3);
}

TEST(LoadOptionsTest, NamesTheFlagItsValueAndItsLimits) {
  const auto refused = [](auto change) {
    LoadOptions options = SmallOptions();
    change(&options);
    const absl::Status status = CheckLoadOptions(options);
    EXPECT_TRUE(absl::IsInvalidArgument(status));
    EXPECT_EQ(RunLoad(options, FakeStream).status(), status);
    return std::string(status.message());
  };
  EXPECT_THAT(refused([](LoadOptions* o) { o->requests = 0; }), HasSubstr("--requests is 0"));
  EXPECT_THAT(refused([](LoadOptions* o) { o->streams = 5000; }), HasSubstr("1 to 4096"));
  EXPECT_THAT(refused([](LoadOptions* o) { o->arrivals_per_second = -1; }), HasSubstr("--rate"));
  EXPECT_THAT(refused([](LoadOptions* o) { o->prompt_tokens = 0; }), HasSubstr("--prompt_tokens"));
  EXPECT_THAT(refused([](LoadOptions* o) { o->shared_prefix_tokens = 13; }), HasSubstr("0 to 12"));
  EXPECT_THAT(refused([](LoadOptions* o) { o->max_tokens = -3; }), HasSubstr("--max_tokens is -3"));
  EXPECT_THAT(refused([](LoadOptions* o) { o->cancel_after_tokens = -1; }),
              HasSubstr("--cancel_after_tokens"));
  EXPECT_THAT(refused([](LoadOptions* o) { o->read_delay = -absl::Seconds(1); }),
              HasSubstr("--read_delay"));
  EXPECT_THAT(refused([](LoadOptions* o) { o->vocab_size = 0; }), HasSubstr("vocabulary"));
}

}  // namespace
}  // namespace kvasir
