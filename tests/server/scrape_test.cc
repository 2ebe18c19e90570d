// What a scrape costs, and what it may not wait for: Metrics over a real engine with the bundled
// model, while more requests than it runs at once are alive.
#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <ctime>
#include <limits>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/config.h"
#include "absl/base/options.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "gtest/gtest.h"
#include "runtime/model/model.h"
#include "server/telemetry/metrics.h"
#include "server/telemetry/observer_fanout.h"
#include "tests/engine/wait_pop.h"
#include "tests/test_models.h"

// Counts the absl::Mutex that a thread locks, the engine's being all of that class. The thread
// sanitizer's builds put their own Mutex::Lock in this place (tests/absl_sync_for_tsan.cc).
#if !defined(ABSL_HAVE_THREAD_SANITIZER)
#define KVASIR_COUNTS_LOCKS 1
#define KVASIR_QUOTE_EXPANDED(text) #text
#define KVASIR_QUOTE(text) KVASIR_QUOTE_EXPANDED(text)

namespace {
thread_local int locks_taken = 0;
}  // namespace

namespace absl {
ABSL_NAMESPACE_BEGIN
void Mutex::Lock() {
  ++locks_taken;
  static auto* const original = [] {
    const std::string inline_namespace = KVASIR_QUOTE(ABSL_OPTION_INLINE_NAMESPACE_NAME);
    const std::string name =
        "_ZN4absl" + std::to_string(inline_namespace.size()) + inline_namespace + "5Mutex4LockEv";
    void* const symbol = dlsym(RTLD_NEXT, name.c_str());
    KVASIR_CHECK(symbol != nullptr);
    return reinterpret_cast<void (*)(Mutex*)>(symbol);
  }();
  original(this);
}
ABSL_NAMESPACE_END
}  // namespace absl
#endif

namespace kvasir {
namespace {

constexpr int kTenants = 64;
constexpr int kLiveRequests = 128;  // twice what runs at once: as many wait

// Stops the engine thread where a test asks for it, inside a step, until it is let go.
class Gate : public EngineObserver {
 public:
  enum class Place { kNowhere, kScheduled, kTokens, kTenantUsage, kStep };

  ~Gate() override { Open(); }

  // The engine thread stops the next time it comes to `place`.
  void Close(Place place) {
    absl::MutexLock lock(&mutex_);
    place_ = place;
  }
  // Returns once it stands there.
  void Wait() {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(&standing_));
  }
  // Returns once it goes on.
  void Open() {
    absl::MutexLock lock(&mutex_);
    place_ = Place::kNowhere;
    mutex_.Await(absl::Condition(
        +[](bool* standing) { return !*standing; }, &standing_));
  }

  void OnScheduled(const GenerationRequest&, int32_t, absl::Duration) override {
    Pass(Place::kScheduled);
  }
  void OnTokens(const GenerationRequest&, int32_t, absl::Duration) override {
    Pass(Place::kTokens);
  }
  void OnTenantUsage(const std::string&, const TenantUsage&, const TenantUsage&) override {
    Pass(Place::kTenantUsage);
  }
  void OnStep(const StepSummary&) override { Pass(Place::kStep); }

 private:
  void Pass(Place place) {
    absl::MutexLock lock(&mutex_);
    if (place_ != place) return;
    standing_ = true;
    const auto open = [&]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return place_ != place; };
    mutex_.Await(absl::Condition(&open));
    standing_ = false;
  }

  absl::Mutex mutex_;
  Place place_ ABSL_GUARDED_BY(mutex_) = Place::kNowhere;
  bool standing_ ABSL_GUARDED_BY(mutex_) = false;
};

std::vector<std::string> TenantNames() {
  std::vector<std::string> names;
  for (int i = 0; i < kTenants; ++i) names.push_back(absl::StrCat("tenant-", i));
  return names;
}

class ScrapeTest : public ::testing::Test {
 protected:
  ScrapeTest() : metrics_(TenantNames(), /*vllm_names=*/true) {
    const std::string folder = testing::ModelFolder(testing::kBundledModel);
    model_ = Model::Load(folder, {}).value();
    tokenizer_ = Tokenizer::Load(folder).value();
    auto gate = std::make_unique<Gate>();
    gate_ = gate.get();
    std::vector<std::unique_ptr<EngineObserver>> observers;
    observers.push_back(metrics_.MakeEngineObserver("tale", "gqa"));
    observers.push_back(std::move(gate));
    observer_ = std::make_unique<ObserverFanout>(std::move(observers));
    EngineConfig config;
    config.model_name = "tale";
    config.kv_capacity_bytes = 256 << 20;
    config.max_running = kLiveRequests / 2;
    config.stream_outbox_events = 4096;  // nobody reads the streams, and none shall pause
    config.threads = 1;
    engine_ = Engine::Create(config, model_.get(), tokenizer_.get(), observer_.get()).value();
    ModelFacts facts;
    facts.model = "tale";
    metrics_.AddModel(std::move(facts), [this] { return engine_->stats(); });
  }

  ~ScrapeTest() override {
    gate_->Open();
    metrics_.RemoveModels();
    engine_->Shutdown();
  }

  std::shared_ptr<TokenStream> Submit(int number, int max_tokens) {
    GenerationRequest request;
    request.id = absl::StrCat("r", number);
    request.tenant = absl::StrCat("tenant-", number % kTenants);
    request.prompt.assign(16, static_cast<TokenId>(10 + number));
    request.stopping.max_tokens = max_tokens;
    request.stopping.ignore_eos = true;
    request.session_id = number % 4 == 0 ? absl::StrCat("s", number) : "";
    request.arrival = absl::Now();
    metrics_.OnGenerateStarted();
    return engine_
        ->Submit(engine_->Admit({.tenant = request.tenant, .prompt_tokens = 16}).value(),
                 std::move(request))
        .value();
  }

  // Series of every kind for every tenant: requests that end well and badly, and some refused.
  void PopulateEveryFamily() {
    std::vector<std::shared_ptr<TokenStream>> streams;
    for (int i = 0; i < kTenants; ++i) streams.push_back(Submit(i, 2));
    for (const auto& stream : streams) {
      while (!std::holds_alternative<FinishedEvent>(WaitPop(stream.get()))) {
      }
    }
    for (const std::string& tenant : TenantNames()) {
      GenerationRequest request;
      request.tenant = tenant;
      for (const auto code :
           {absl::StatusCode::kOk, absl::StatusCode::kCancelled,
            absl::StatusCode::kDeadlineExceeded, absl::StatusCode::kInvalidArgument,
            absl::StatusCode::kResourceExhausted}) {
        metrics_.OnGenerateDone("tale", tenant, code);
        FinishedEvent outcome;
        outcome.status = absl::Status(code, "");
        outcome.completions.resize(1);
        RequestSummary summary;
        summary.request = &request;
        summary.outcome = &outcome;
        events_->OnFinished(summary);
      }
      for (const RefusalReason reason :
           {RefusalReason::kQueueFull, RefusalReason::kDraining, RefusalReason::kInvalid}) {
        metrics_.OnRefused({.model = "tale", .tenant = tenant, .refusal = {reason}});
      }
      events_->OnPreemption(request, PreemptionReason::kKvExhausted);
      events_->OnSlowReaderPause(request);
    }
    events_->OnSessionEvicted("ttl");
    events_->OnSpillDamaged("");
  }

  Metrics metrics_;
  // Beside the engine's own, with the same series: these end with the first of the two, so it
  // outlives the engine.
  const std::unique_ptr<EngineObserver> events_ = metrics_.MakeEngineObserver("tale", "gqa");
  std::unique_ptr<Model> model_;
  std::unique_ptr<Tokenizer> tokenizer_;
  Gate* gate_ = nullptr;
  std::unique_ptr<EngineObserver> observer_;
  std::unique_ptr<Engine> engine_;
};

double ThreadCpuSeconds() {
  timespec now = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// The least that an exposition can cost: its lines are there, and only the values are printed.
std::string PrintAgain(const std::vector<std::pair<std::string, double>>& samples) {
  std::ostringstream out;
  out.precision(std::numeric_limits<double>::max_digits10 - 1);
  for (const auto& [series, value] : samples) out << series << ' ' << value << '\n';
  return out.str();
}

std::vector<std::pair<std::string, double>> SamplesOf(absl::string_view exposition) {
  std::vector<std::pair<std::string, double>> samples;
  for (const absl::string_view line : absl::StrSplit(exposition, '\n', absl::SkipEmpty())) {
    const size_t space = line.rfind(' ');
    double value = 0;
    if (line[0] == '#' || !absl::SimpleAtod(line.substr(space + 1), &value)) continue;
    samples.emplace_back(std::string(line.substr(0, space)), value);
  }
  return samples;
}

double MedianOf(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

// A scrape takes CPU time from the cores that compute. How much depends on the machine, so it is
// measured in printings of the same numbers, taken in turns with it.
TEST_F(ScrapeTest, CostsAFewPrintingsOfItsNumbers) {
  constexpr double kMaxPrintings = 12;
  PopulateEveryFamily();
  std::vector<std::shared_ptr<TokenStream>> live;
  for (int i = 0; i < kLiveRequests; ++i) live.push_back(Submit(i, 1900));
  while (engine_->stats().running < kLiveRequests / 2) std::this_thread::yield();

  const std::vector<std::pair<std::string, double>> samples = SamplesOf(metrics_.Exposition());
  std::vector<double> scrapes, printings;
  size_t bytes = 0;
  int64_t fewest_live = kLiveRequests;
  for (int scrape = 0; scrape < 101; ++scrape) {
    const double start = ThreadCpuSeconds();
    bytes = metrics_.Exposition().size();
    const double scraped = ThreadCpuSeconds();
    ASSERT_GT(PrintAgain(samples).size(), bytes / 4);
    scrapes.push_back(scraped - start);
    printings.push_back(ThreadCpuSeconds() - scraped);
    const EngineStats stats = engine_->stats();
    fewest_live = std::min(fewest_live, stats.running + stats.waiting);
  }
  const double scrape = MedianOf(scrapes), printing = MedianOf(printings);
  std::printf(
      "a scrape of %zu bytes, %zu samples, %d tenants, at least %d requests alive: CPU %.2f ms, "
      "%.1f printings of its numbers (medians of 101)\n",
      bytes, samples.size(), kTenants, static_cast<int>(fewest_live), 1e3 * scrape,
      scrape / printing);
  EXPECT_GT(fewest_live, 100);
  EXPECT_LT(scrape, kMaxPrintings * printing);
}

// Wherever the engine thread stands within a step, with whatever it holds, a scrape goes through
// and shows the figures of the step before.
TEST_F(ScrapeTest, TakesNoLockOfTheEngine) {
  std::vector<std::shared_ptr<TokenStream>> live;
  int number = 0;
  for (const Gate::Place place : {Gate::Place::kScheduled, Gate::Place::kTokens,
                                  Gate::Place::kTenantUsage, Gate::Place::kStep}) {
    SCOPED_TRACE(static_cast<int>(place));
    gate_->Close(place);
    live.push_back(Submit(number++, 500));
    gate_->Wait();
    absl::Notification scraped;
    std::string exposition;
    int locks = 0;
    std::thread scraper([&] {
      metrics_.Exposition();  // static tables are built, and guarded, once
#if KVASIR_COUNTS_LOCKS
      locks_taken = 0;
#endif
      exposition = metrics_.Exposition();
#if KVASIR_COUNTS_LOCKS
      locks = locks_taken;
#endif
      scraped.Notify();
    });
    EXPECT_TRUE(scraped.WaitForNotificationWithTimeout(absl::Seconds(20)))
        << "the scrape waits for the engine";
    gate_->Open();
    scraper.join();
    EXPECT_TRUE(absl::StrContains(exposition, "kvasir_requests_running{model=\"tale\"}"));
    EXPECT_EQ(locks, 0) << "a scrape locked an absl::Mutex";
  }
#if KVASIR_COUNTS_LOCKS
  // That the count counts. (The engine's door is an AnnotatedMutex, and not counted: a scrape has
  // prometheus-cpp's own std::mutex.)
  locks_taken = 0;
  absl::Mutex mutex;
  mutex.Lock();
  EXPECT_EQ(locks_taken, 1);
  mutex.Unlock();
#endif
}

}  // namespace
}  // namespace kvasir
