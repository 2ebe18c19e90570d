#include "server/process/signals.h"

#include <unistd.h>

#include <csignal>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace kvasir {
namespace {

// Signals in the order of arrival.
class Recorder {
 public:
  SignalWatcher::Callback callback() {
    return [this](int signal_number) {
      absl::MutexLock lock(&mutex_);
      calls_.push_back(signal_number);
    };
  }

  std::vector<int> WaitFor(size_t calls) {
    absl::MutexLock lock(&mutex_);
    const auto enough = [&] { return calls_.size() >= calls; };
    mutex_.AwaitWithTimeout(absl::Condition(&enough), absl::Seconds(30));
    return calls_;
  }

 private:
  absl::Mutex mutex_;
  std::vector<int> calls_;
};

TEST(SignalWatcher, TellsTheSignalsItWatches) {
  Recorder recorder;
  SignalWatcher watcher({SIGTERM, SIGINT});
  watcher.Start(recorder.callback());
  // One at a time: pending standard signals of one kind merge.
  kill(getpid(), SIGTERM);
  ASSERT_EQ(recorder.WaitFor(1).size(), 1u);
  kill(getpid(), SIGINT);
  ASSERT_EQ(recorder.WaitFor(2).size(), 2u);
  kill(getpid(), SIGTERM);
  EXPECT_EQ(recorder.WaitFor(3), (std::vector<int>{SIGTERM, SIGINT, SIGTERM}));
}

// The daemon is not yet made when a signal arrives early: it must neither kill nor get lost.
TEST(SignalWatcher, SignalsBeforeStartWait) {
  Recorder recorder;
  SignalWatcher watcher({SIGTERM});
  kill(getpid(), SIGTERM);
  watcher.Start(recorder.callback());
  EXPECT_EQ(recorder.WaitFor(1), (std::vector<int>{SIGTERM}));
}

TEST(SignalWatcher, ThreadsStartedLaterDoNotTakeSignals) {
  Recorder recorder;
  SignalWatcher watcher({SIGTERM});
  absl::Notification end;
  std::thread other([&] { end.WaitForNotification(); });
  watcher.Start(recorder.callback());
  // Directed at the other thread; were its mask open, the default action would end the test.
  EXPECT_EQ(pthread_kill(other.native_handle(), SIGTERM), 0);
  kill(getpid(), SIGTERM);
  EXPECT_EQ(recorder.WaitFor(1).size(), 1u);
  end.Notify();
  other.join();
}

TEST(SignalWatcher, RestoresTheMask) {
  sigset_t before, after;
  pthread_sigmask(SIG_BLOCK, nullptr, &before);
  { SignalWatcher never_started({SIGUSR1}); }
  pthread_sigmask(SIG_BLOCK, nullptr, &after);
  EXPECT_EQ(sigismember(&before, SIGUSR1), sigismember(&after, SIGUSR1));
}

}  // namespace
}  // namespace kvasir
