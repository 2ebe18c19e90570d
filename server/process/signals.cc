#include "server/process/signals.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <system_error>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/check.h"

namespace kvasir {

SignalWatcher::SignalWatcher(const std::vector<int>& signals) {
  sigset_t watched;
  sigemptyset(&watched);
  for (const int signal_number : signals) sigaddset(&watched, signal_number);
  KVASIR_CHECK(pthread_sigmask(SIG_BLOCK, &watched, &previous_mask_) == 0);
  signal_fd_ = signalfd(-1, &watched, SFD_CLOEXEC);
  stop_fd_ = eventfd(0, EFD_CLOEXEC);
  if (signal_fd_ >= 0 && stop_fd_ >= 0) return;
  const int error = errno;
  if (signal_fd_ >= 0) close(signal_fd_);
  pthread_sigmask(SIG_SETMASK, &previous_mask_, nullptr);
  throw std::system_error(error, std::generic_category(), "descriptors for signals");
}

void SignalWatcher::Start(Callback on_signal) {
  KVASIR_CHECK(!thread_.joinable());
  on_signal_ = std::move(on_signal);
  thread_ = std::thread([this] { Run(); });
}

void SignalWatcher::Stop() {
  if (!thread_.joinable()) return;
  const uint64_t one = 1;
  KVASIR_CHECK(write(stop_fd_, &one, sizeof one) == sizeof one);
  thread_.join();
}

SignalWatcher::~SignalWatcher() {
  Stop();
  close(signal_fd_);
  close(stop_fd_);
  pthread_sigmask(SIG_SETMASK, &previous_mask_, nullptr);
}

void SignalWatcher::Run() {
  pthread_setname_np(pthread_self(), "signals");
  pollfd descriptors[] = {{signal_fd_, POLLIN, 0}, {stop_fd_, POLLIN, 0}};
  while (true) {
    if (poll(descriptors, 2, -1) < 0) {
      // Without memory for a moment the kernel refuses; signals wait.
      if (errno != EINTR) absl::SleepFor(absl::Milliseconds(100));
      continue;
    }
    if (descriptors[1].revents != 0) return;
    signalfd_siginfo info;
    if (descriptors[0].revents != 0 && read(signal_fd_, &info, sizeof info) == sizeof info) {
      on_signal_(static_cast<int>(info.ssi_signo));
    }
  }
}

}  // namespace kvasir
