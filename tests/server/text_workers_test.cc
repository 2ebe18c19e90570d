// TextWorkers with work that ends when the test says so: order, lanes, fairness, bounds,
// cancelling. Nothing is timed: jobs block on notifications, and what may run is seen by what does.
#include "server/frontend/text_workers.h"

#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/engine/refusal.h"

namespace kvasir {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr size_t kShort = 100;
constexpr size_t kLong = size_t{1} << 20;

// What ran, in order, and how it was told to.
class Record {
 public:
  TextWorkers::Run Note(const std::string& name) {
    return [this, name](const absl::Status& turn, const TextJob&) {
      absl::MutexLock lock(&mutex_);
      ran_.push_back(turn.ok() ? name : name + " not");
    };
  }
  std::vector<std::string> WaitFor(size_t count) {
    const auto there = [&]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return ran_.size() >= count; };
    absl::MutexLock lock(&mutex_, absl::Condition(&there));
    return ran_;
  }
  std::vector<std::string> ran() {
    absl::MutexLock lock(&mutex_);
    return ran_;
  }

 private:
  absl::Mutex mutex_;
  std::vector<std::string> ran_ ABSL_GUARDED_BY(mutex_);
};

// A slow encoder: occupies a thread of a lane until it is told to end, or its job is cancelled.
class Slow {
 public:
  Slow(TextWorkers* workers, const std::string& tenant, size_t bytes)
      : job_(workers->NewJob(tenant, bytes, absl::InfiniteFuture())) {
    workers->Post(job_, [this](const absl::Status& turn, const TextJob& job) {
      turn_ = turn;
      begun_.Notify();
      while (!end_.HasBeenNotified() && !job.cancelled()) absl::SleepFor(absl::Milliseconds(1));
      ended_.Notify();
    });
  }
  ~Slow() { End(); }
  void AwaitBegin() { begun_.WaitForNotification(); }
  void End() {
    if (!end_.HasBeenNotified()) end_.Notify();
    ended_.WaitForNotification();
  }
  void AwaitEnd() { ended_.WaitForNotification(); }
  bool begun() const { return begun_.HasBeenNotified(); }
  TextJob& job() { return *job_; }
  const absl::Status& turn() const { return turn_; }

 private:
  const std::shared_ptr<TextJob> job_;
  absl::Status turn_;
  absl::Notification begun_, end_, ended_;
};

void Post(TextWorkers* workers, const std::string& tenant, size_t bytes, TextWorkers::Run run) {
  workers->Post(workers->NewJob(tenant, bytes, absl::InfiniteFuture()), std::move(run));
}

void AwaitIdle(const TextWorkers& workers) {
  while (!workers.idle()) absl::SleepFor(absl::Milliseconds(1));
}

TEST(TextWorkersTest, RunsOnAThreadOfItsOwn) {
  TextWorkers workers({.threads = 1, .long_threads = 1});
  absl::Notification ran;
  std::thread::id thread;
  Post(&workers, "a", kShort, [&](const absl::Status& turn, const TextJob& job) {
    EXPECT_TRUE(turn.ok());
    EXPECT_FALSE(job.cancelled());
    thread = std::this_thread::get_id();
    ran.Notify();
  });
  ran.WaitForNotification();
  EXPECT_NE(thread, std::this_thread::get_id());
}

TEST(TextWorkersTest, ShortTextsDoNotWaitForLongOnes) {
  Record record;  // outlives the workers
  TextWorkers workers({.threads = 1, .long_threads = 1});
  Slow running(&workers, "a", kLong);
  running.AwaitBegin();
  for (int i = 0; i < 10; ++i) Post(&workers, "a", kLong, record.Note("long"));
  Post(&workers, "a", TextWorkers::kLongTextBytes, record.Note("short"));
  EXPECT_THAT(record.WaitFor(1), ElementsAre("short"));
  running.End();
  EXPECT_EQ(record.WaitFor(11).size(), 11u);
}

TEST(TextWorkersTest, LongTextsDoNotWaitForShortOnes) {
  Record record;  // outlives the workers
  TextWorkers workers({.threads = 1, .long_threads = 1});
  Slow running(&workers, "a", kShort);
  running.AwaitBegin();
  Post(&workers, "a", kShort, record.Note("short"));
  Post(&workers, "a", kLong, record.Note("long"));
  EXPECT_THAT(record.WaitFor(1), ElementsAre("long"));
}

TEST(TextWorkersTest, ATenantWithManyTextsPutsOffAnotherByWhatRunsOnly) {
  Record records[2];  // outlive the workers
  TextWorkers workers({.threads = 1, .long_threads = 1});
  for (const size_t bytes : {kShort, kLong}) {
    Slow running(&workers, "flood", bytes);
    running.AwaitBegin();
    Record& record = records[bytes == kLong];
    for (int i = 0; i < 100; ++i) Post(&workers, "flood", bytes, record.Note("flood"));
    Post(&workers, "other", bytes, record.Note("other"));
    running.End();
    const std::vector<std::string> ran = record.WaitFor(101);
    EXPECT_LE(std::find(ran.begin(), ran.end(), "other") - ran.begin(), 1);
  }
}

TEST(TextWorkersTest, TenantsShareByBytesAndNotByJobs) {
  // Of 16 KiB each three texts of "small" are one of "large": 3 small and 1 large at a time.
  Record record;  // outlives the workers
  TextWorkers workers({.threads = 1, .long_threads = 1});
  Slow running(&workers, "x", kShort);
  running.AwaitBegin();
  constexpr size_t kSmall = 7 << 10;  // and 1 KiB for the job itself
  constexpr size_t kLarge = 23 << 10;
  for (int i = 0; i < 4; ++i) Post(&workers, "large", kLarge, record.Note("L"));
  for (int i = 0; i < 12; ++i) Post(&workers, "small", kSmall, record.Note("s"));
  running.End();
  const std::vector<std::string> ran = record.WaitFor(16);
  int large = 0, small = 0;
  for (const std::string& name : ran) {
    (name == "L" ? large : small) += 1;
    EXPECT_LE(large * 3, small + 3) << "after " << large + small;
    EXPECT_LE(small, large * 3 + 3) << "after " << large + small;
  }
}

TEST(TextWorkersTest, OneTenantsTextsKeepTheirOrder) {
  Record record;  // outlives the workers
  TextWorkers workers({.threads = 1, .long_threads = 1});
  Slow running(&workers, "a", kShort);
  running.AwaitBegin();
  Post(&workers, "a", 3000, record.Note("1"));
  Post(&workers, "a", 10, record.Note("2"));
  Post(&workers, "a", 2000, record.Note("3"));
  running.End();
  EXPECT_THAT(record.WaitFor(3), ElementsAre("1", "2", "3"));
}

TEST(TextWorkersTest, CancellingTakesAWaitingJobOutAtOnce) {
  TextWorkers workers({.threads = 1, .long_threads = 1});
  Slow running(&workers, "a", kShort);
  running.AwaitBegin();
  absl::Status told;
  const auto job = workers.NewJob("a", kShort, absl::InfiniteFuture());
  workers.Post(job, [&](const absl::Status& turn, const TextJob&) { told = turn; });
  EXPECT_EQ(workers.waiting(), 1u);
  job->Cancel();
  EXPECT_TRUE(absl::IsCancelled(told)) << told;  // before Cancel returned
  EXPECT_EQ(workers.waiting(), 0u);
  job->Cancel(absl::InternalError("again"));
  EXPECT_TRUE(absl::IsCancelled(told));
}

TEST(TextWorkersTest, CancellingIsSeenByARunningJob) {
  TextWorkers workers({.threads = 1, .long_threads = 1});
  Slow running(&workers, "a", kLong);
  running.AwaitBegin();
  EXPECT_FALSE(running.job().cancelled());
  running.job().Cancel();
  running.AwaitEnd();  // nobody else ends it
  EXPECT_TRUE(absl::IsCancelled(running.job().reason()));
  AwaitIdle(workers);
  Slow next(&workers, "a", kLong);  // its slot is free
  next.AwaitBegin();
}

TEST(TextWorkersTest, AJobCancelledBeforeItIsPostedIsToldSo) {
  TextWorkers workers({.threads = 1, .long_threads = 1});
  const auto job = workers.NewJob("a", kShort, absl::InfiniteFuture());
  job->Cancel();
  absl::Status told;
  workers.Post(job, [&](const absl::Status& turn, const TextJob&) { told = turn; });
  EXPECT_TRUE(absl::IsCancelled(told)) << told;
}

TEST(TextWorkersTest, AJobWhoseDeadlineIsOverDoesNotRun) {
  TextWorkers workers({.threads = 1, .long_threads = 1});
  absl::Status told;
  workers.Post(workers.NewJob("a", kShort, absl::InfinitePast()),
               [&](const absl::Status& turn, const TextJob&) { told = turn; });
  EXPECT_TRUE(absl::IsDeadlineExceeded(told)) << told;
}

TEST(TextWorkersTest, ATransportsCancelAtTheDeadlineIsTheDeadlines) {
  TextWorkers workers({.threads = 1, .long_threads = 1});
  const auto job = workers.NewJob("a", kShort, absl::Now());
  job->Cancel();
  EXPECT_TRUE(absl::IsDeadlineExceeded(job->reason())) << job->reason();
}

TEST(TextWorkersTest, AFullQueueRefusesAndLeavesRoomForOtherTenants) {
  Record record;  // outlives the workers
  std::optional<absl::Status> refused;
  TextWorkers workers({.threads = 1, .long_threads = 1, .max_waiting = 8});
  Slow running(&workers, "a", kShort);
  running.AwaitBegin();
  int accepted = 0;
  while (!refused && accepted < 100) {
    Post(&workers, "flood", kShort, [&](const absl::Status& turn, const TextJob&) {
      if (absl::IsResourceExhausted(turn)) refused = turn;
    });
    if (!refused) ++accepted;
  }
  EXPECT_EQ(accepted, 4);  // as much as it leaves free
  ASSERT_TRUE(refused.has_value());
  EXPECT_THAT(std::string(refused->message()), HasSubstr("text.max_waiting"));
  const std::optional<Refusal> refusal = RefusalOf(*refused);
  ASSERT_TRUE(refusal.has_value());
  EXPECT_EQ(refusal->reason, RefusalReason::kQueueFull);
  EXPECT_TRUE(refusal->retry_after.has_value());
  Post(&workers, "other", kShort, record.Note("other"));
  EXPECT_TRUE(record.ran().empty());  // it waits
  running.End();
  EXPECT_THAT(record.WaitFor(1), ElementsAre("other"));
}

TEST(TextWorkersTest, TheQueueIsBoundedInBytesToo) {
  Record record;  // outlives the workers
  TextWorkers workers({.threads = 1, .long_threads = 1, .max_waiting_bytes = 4 * kLong});
  Slow running(&workers, "a", kLong);
  running.AwaitBegin();
  for (int i = 0; i < 4; ++i) Post(&workers, "flood", kLong, record.Note("flood"));
  EXPECT_THAT(record.ran(), ElementsAre("flood not", "flood not"));
  Post(&workers, "other", kLong, record.Note("other"));
  EXPECT_EQ(workers.waiting(), 3u);
}

TEST(TextWorkersTest, AnEmptyQueueTakesATextBeyondItsBytes) {
  Record record;  // outlives the workers
  TextWorkers workers({.threads = 1, .long_threads = 1, .max_waiting_bytes = kLong});
  Post(&workers, "a", 2 * kLong, record.Note("large"));
  EXPECT_THAT(record.WaitFor(1), ElementsAre("large"));
}

TEST(TextWorkersTest, CancelsByTheTenantsRequestId) {
  Record record;  // outlives the workers
  TextWorkers workers({.threads = 1, .long_threads = 1});
  Slow running(&workers, "a", kShort);
  running.AwaitBegin();
  const auto post = [&](const std::string& tenant, size_t bytes, const std::string& id) {
    workers.Post(workers.NewJob(tenant, bytes, absl::InfiniteFuture(), id),
                 record.Note(absl::StrCat(tenant, " ", id)));
  };
  Slow long_one(&workers, "a", kLong);
  long_one.AwaitBegin();
  post("a", kShort, "1");
  post("a", kLong, "2");
  post("b", kShort, "1");
  post("a", kShort, "");
  EXPECT_FALSE(workers.Cancel("a", "3", absl::CancelledError("aborted")));
  EXPECT_FALSE(workers.Cancel("b", "2", absl::CancelledError("aborted")));
  EXPECT_THAT(record.ran(), ElementsAre());
  EXPECT_TRUE(workers.Cancel("a", "1", absl::CancelledError("aborted")));
  EXPECT_TRUE(workers.Cancel("a", "2", absl::CancelledError("aborted")));
  EXPECT_THAT(record.ran(), ElementsAre("a 1 not", "a 2 not"));
  EXPECT_FALSE(workers.Cancel("a", "1", absl::CancelledError("aborted")));  // it has gone
  running.End();
  EXPECT_THAT(record.WaitFor(4),
              ::testing::UnorderedElementsAre("a 1 not", "a 2 not", "b 1", "a "));
  long_one.End();
}

TEST(TextWorkersTest, CancelAllEndsWhatWaitsAndWhatRuns) {
  TextWorkers workers({.threads = 1, .long_threads = 1});
  Slow running(&workers, "a", kShort);
  running.AwaitBegin();
  absl::Status told;
  Post(&workers, "a", kShort, [&](const absl::Status& turn, const TextJob&) { told = turn; });
  EXPECT_FALSE(workers.idle());
  workers.CancelAll(DrainingError());
  EXPECT_TRUE(absl::IsUnavailable(told)) << told;
  running.AwaitEnd();
  EXPECT_TRUE(absl::IsUnavailable(running.job().reason()));
  AwaitIdle(workers);
}

TEST(TextWorkersTest, EveryJobIsToldExactlyOnceWhateverCancels) {
  constexpr int kJobs = 2000;
  std::vector<std::atomic<int>> told(kJobs);
  {
    TextWorkers workers({.threads = 2, .long_threads = 1, .max_waiting = 64});
    std::vector<std::thread> posters;
    for (int t = 0; t < 4; ++t) {
      posters.emplace_back([&, t] {
        for (int i = t; i < kJobs; i += 4) {
          const auto job = workers.NewJob(i % 3 == 0 ? "a" : "b", i % 5 == 0 ? kLong : kShort,
                                          absl::InfiniteFuture());
          workers.Post(job, [&told, i](const absl::Status&, const TextJob&) {
            told[static_cast<size_t>(i)].fetch_add(1);
          });
          if (i % 2 == 0) job->Cancel();
        }
      });
    }
    for (std::thread& poster : posters) poster.join();
  }
  for (int i = 0; i < kJobs; ++i) EXPECT_EQ(told[static_cast<size_t>(i)].load(), 1) << i;
}

}  // namespace
}  // namespace kvasir
