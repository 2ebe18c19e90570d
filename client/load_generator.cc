#include "client/load_generator.h"

#include <algorithm>
#include <atomic>
#include <random>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"

namespace kvasir {
namespace {

// A thread each: more would measure the client's own scheduling.
constexpr int32_t kMaxStreams = 4096;
constexpr int32_t kMaxRequests = 10'000'000;

// How long an open loop's readers sleep at most before they look whether the run was stopped.
constexpr absl::Duration kStopPollInterval = absl::Milliseconds(100);

// Numbers of the independent random series of one seed; requests use their own index.
constexpr uint64_t kSharedPrefixSeries = uint64_t{1} << 62;
constexpr uint64_t kArrivalSeries = kSharedPrefixSeries + 1;

std::mt19937_64 Series(uint64_t seed, uint64_t series) {
  std::seed_seq words = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32),
                         static_cast<uint32_t>(series), static_cast<uint32_t>(series >> 32)};
  return std::mt19937_64(words);
}

void AppendRandomTokens(const LoadOptions& options, uint64_t series, int32_t count,
                        v1::TokenIds* tokens) {
  std::mt19937_64 random = Series(options.seed, series);
  std::uniform_int_distribution<int32_t> draw(0, options.vocab_size - 1);
  const std::vector<int32_t>& excluded = options.excluded_token_ids;
  for (int32_t i = 0; i < count; ++i) {
    int32_t id = draw(random);
    while (std::find(excluded.begin(), excluded.end(), id) != excluded.end()) id = draw(random);
    tokens->add_ids(id);
  }
}

absl::Status OutOfRange(const char* name, double value, double least, double most) {
  return absl::InvalidArgumentError(
      absl::StrCat("--", name, " is ", value, " but takes ", least, " to ", most));
}

// The run under way: hands request numbers to the readers and collects what they saw.
class LoadRun {
 public:
  LoadRun(const LoadOptions& options, const LoadCall& call, const LoadHooks& hooks)
      : options_(options),
        call_(call),
        hooks_(hooks),
        arrivals_(options.arrivals_per_second > 0 ? PoissonArrivals(options)
                                                  : std::vector<absl::Duration>()),
        start_(absl::Now()) {}

  LatencyReport Run() {
    std::vector<std::thread> readers;
    const int32_t num_readers = std::min(options_.streams, options_.requests);
    for (int32_t i = 0; i < num_readers; ++i) readers.emplace_back([this] { ReadStreams(); });
    for (std::thread& reader : readers) reader.join();
    absl::MutexLock lock(&mutex_);
    return MakeReport(outcomes_, absl::Now() - start_);
  }

 private:
  void ReadStreams() {
    for (int32_t index = next_++; index < options_.requests; index = next_++) {
      const absl::Time due = arrivals_.empty() ? absl::Now() : start_ + arrivals_[index];
      if (!WaitUntil(due)) return;
      RequestOutcome outcome = RunOne(MakeLoadRequest(options_, index), due);
      absl::MutexLock lock(&mutex_);
      outcomes_.push_back(std::move(outcome));
      if (hooks_.on_progress) hooks_.on_progress(static_cast<int64_t>(outcomes_.size()));
    }
  }

  bool stopped() const { return hooks_.stopped && hooks_.stopped(); }

  // False when the run was stopped meanwhile.
  bool WaitUntil(absl::Time due) const {
    for (absl::Time now = absl::Now(); now < due && !stopped(); now = absl::Now())
      absl::SleepFor(std::min(due - now, kStopPollInterval));
    return !stopped();
  }

  RequestOutcome RunOne(const v1::GenerateRequest& request, absl::Time due) const {
    RequestOutcome outcome;
    outcome.send_delay = arrivals_.empty() ? absl::ZeroDuration() : absl::Now() - due;
    absl::Time last = absl::InfinitePast();
    const absl::StatusOr<GenerateResult> result = call_(request, [&](const v1::Delta& delta) {
      const absl::Time now = absl::Now();
      if (last == absl::InfinitePast()) {
        outcome.time_to_first_token = now - due;
      } else {
        // Tokens of one step (speculation) count at equal distances, as in the server's metrics.
        const int tokens = std::max(1, delta.token_ids_size());
        outcome.gaps.insert(outcome.gaps.end(), tokens, (now - last) / tokens);
      }
      outcome.completion_tokens += delta.token_ids_size();
      if (options_.cancel_after_tokens > 0 &&
          outcome.completion_tokens >= options_.cancel_after_tokens) {
        outcome.cancelled_on_purpose = true;
        return false;
      }
      if (options_.read_delay > absl::ZeroDuration()) absl::SleepFor(options_.read_delay);
      last = absl::Now();  // the reader's own delay is not the server's gap
      return true;
    });
    outcome.total = absl::Now() - due;
    outcome.status = result.status();
    if (result.ok()) {
      outcome.prompt_tokens = result->usage.prompt_tokens();
      outcome.cached_tokens = result->usage.cached_tokens();
    }
    return outcome;
  }

  const LoadOptions& options_;
  const LoadCall& call_;
  const LoadHooks& hooks_;
  const std::vector<absl::Duration> arrivals_;  // [requests], or empty in a closed loop
  const absl::Time start_;
  std::atomic<int32_t> next_ = 0;

  absl::Mutex mutex_;
  std::vector<RequestOutcome> outcomes_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

absl::Status CheckLoadOptions(const LoadOptions& options) {
  constexpr double kMaxTokens = 1 << 24;  // the API's limit of max_tokens
  if (options.requests < 1 || options.requests > kMaxRequests)
    return OutOfRange("requests", options.requests, 1, kMaxRequests);
  if (options.streams < 1 || options.streams > kMaxStreams)
    return OutOfRange("streams", options.streams, 1, kMaxStreams);
  // Written so that NaN is refused too.
  if (!(options.arrivals_per_second >= 0 && options.arrivals_per_second <= 1e6))
    return OutOfRange("rate", options.arrivals_per_second, 0, 1e6);
  if (options.prompt_tokens < 1 || options.prompt_tokens > kMaxTokens)
    return OutOfRange("prompt_tokens", options.prompt_tokens, 1, kMaxTokens);
  if (options.shared_prefix_tokens < 0 || options.shared_prefix_tokens > options.prompt_tokens)
    return OutOfRange("shared_prefix_tokens", options.shared_prefix_tokens, 0,
                      options.prompt_tokens);
  if (options.max_tokens < 1 || options.max_tokens > kMaxTokens)
    return OutOfRange("max_tokens", options.max_tokens, 1, kMaxTokens);
  if (options.cancel_after_tokens < 0 || options.cancel_after_tokens > kMaxTokens)
    return OutOfRange("cancel_after_tokens", options.cancel_after_tokens, 0, kMaxTokens);
  if (options.read_delay < absl::ZeroDuration() || options.read_delay > absl::Hours(1))
    return OutOfRange("read_delay", absl::ToDoubleSeconds(options.read_delay), 0, 3600);
  if (options.vocab_size <= static_cast<int64_t>(options.excluded_token_ids.size())) {
    return absl::InvalidArgumentError(
        absl::StrCat("a vocabulary of ", options.vocab_size, " tokens without ",
                     options.excluded_token_ids.size(), " excluded ones leaves none to draw from"));
  }
  return absl::OkStatus();
}

v1::GenerateRequest MakeLoadRequest(const LoadOptions& options, int32_t index) {
  v1::GenerateRequest request;
  request.set_model(options.model);
  v1::TokenIds* const tokens = request.mutable_token_ids();
  AppendRandomTokens(options, kSharedPrefixSeries, options.shared_prefix_tokens, tokens);
  AppendRandomTokens(options, static_cast<uint64_t>(index),
                     options.prompt_tokens - options.shared_prefix_tokens, tokens);
  request.mutable_sampling()->set_temperature(0);
  request.mutable_stopping()->set_max_tokens(options.max_tokens);
  request.mutable_stopping()->set_ignore_eos(true);
  return request;
}

std::vector<absl::Duration> PoissonArrivals(const LoadOptions& options) {
  std::mt19937_64 random = Series(options.seed, kArrivalSeries);
  std::exponential_distribution<double> gap_seconds(options.arrivals_per_second);
  std::vector<absl::Duration> arrivals;
  arrivals.reserve(options.requests);
  absl::Duration due;
  for (int32_t i = 0; i < options.requests; ++i) {
    due += absl::Seconds(gap_seconds(random));
    arrivals.push_back(due);
  }
  return arrivals;
}

absl::StatusOr<LatencyReport> RunLoad(const LoadOptions& options, const LoadCall& call,
                                      const LoadHooks& hooks) {
  if (absl::Status status = CheckLoadOptions(options); !status.ok()) return status;
  return LoadRun(options, call, hooks).Run();
}

}  // namespace kvasir
