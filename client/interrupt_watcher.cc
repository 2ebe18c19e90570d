#include "client/interrupt_watcher.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cstdint>
#include <utility>

namespace kvasir {
namespace {

// What a shell reports for a process that SIGINT ended.
constexpr int kInterruptedExitCode = 130;

int OpenSignalFd() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return signalfd(-1, &signals, SFD_CLOEXEC);
}

}  // namespace

InterruptWatcher::InterruptWatcher()
    : stop_event_fd_(eventfd(0, EFD_CLOEXEC)),
      signal_fd_(OpenSignalFd()),
      thread_([this] { Watch(); }) {}

InterruptWatcher::~InterruptWatcher() {
  const uint64_t one = 1;
  // Cannot fail: the counter is at zero and an eventfd takes 8 bytes whole.
  if (write(stop_event_fd_, &one, sizeof(one)) != sizeof(one)) _exit(1);
  thread_.join();
  close(signal_fd_);
  close(stop_event_fd_);
}

void InterruptWatcher::SetAction(std::function<void()> action) {
  absl::MutexLock lock(&mutex_);
  action_ = std::move(action);
}

void InterruptWatcher::Watch() {
  pollfd fds[] = {{signal_fd_, POLLIN, 0}, {stop_event_fd_, POLLIN, 0}};
  for (;;) {
    if (poll(fds, 2, -1) < 0) continue;
    if (fds[1].revents != 0) return;
    signalfd_siginfo info;
    if (read(signal_fd_, &info, sizeof(info)) != sizeof(info)) continue;
    // Under the lock, so that SetAction returns only when no old action runs any more.
    absl::MutexLock lock(&mutex_);
    const std::function<void()> action = std::exchange(action_, nullptr);
    if (!action) _exit(kInterruptedExitCode);
    action();
  }
}

}  // namespace kvasir
