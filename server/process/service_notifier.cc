#include "server/process/service_notifier.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "server/telemetry/logging.h"

namespace kvasir {
namespace {

// A number from the environment; false when it is absent or none.
bool NumberFromEnvironment(const char* name, int64_t* number) {
  const char* text = std::getenv(name);
  return text != nullptr && absl::SimpleAtoi(text, number);
}

}  // namespace

ServiceNotifier::Target ServiceNotifier::TargetFromEnvironment() {
  Target target;
  if (const char* socket = std::getenv("NOTIFY_SOCKET"); socket != nullptr) target.socket = socket;
  int64_t microseconds = 0, pid = 0;
  if (NumberFromEnvironment("WATCHDOG_USEC", &microseconds) && microseconds > 0 &&
      (!NumberFromEnvironment("WATCHDOG_PID", &pid) || pid == getpid())) {
    target.watchdog = absl::Microseconds(microseconds);
  }
  return target;
}

ServiceNotifier::~ServiceNotifier() {
  {
    AnnotatedLock lock(&mutex_);
    stop_ = true;
    stop_changed_.NotifyAll();
  }
  if (watchdog_thread_.joinable()) watchdog_thread_.join();
}

void ServiceNotifier::Starting(absl::string_view status) {
  Send(absl::StrCat("STATUS=", status, "\nEXTEND_TIMEOUT_USEC=600000000"));
}

void ServiceNotifier::Ready(absl::string_view status, std::function<void()> progress) {
  Send(absl::StrCat("READY=1\nSTATUS=", status));
  if (target_.socket.empty() || target_.watchdog == absl::InfiniteDuration()) return;
  watchdog_thread_ =
      std::thread([this, progress = std::move(progress)] { FeedWatchdog(progress); });
}

void ServiceNotifier::Stopping(absl::string_view status) {
  Send(absl::StrCat("STOPPING=1\nSTATUS=", status));
}

void ServiceNotifier::FeedWatchdog(const std::function<void()>& progress) {
  while (true) {
    progress();
    Send("WATCHDOG=1");
    AnnotatedLock lock(&mutex_);
    const auto stopping = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stop_; };
    // sd_watchdog_enabled(3) advises half the interval; a third bears one slow step more.
    if (stop_changed_.Await(&mutex_, target_.watchdog / 3, stopping)) return;
  }
}

void ServiceNotifier::Send(const std::string& message) const {
  if (target_.socket.empty()) return;
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (target_.socket.size() >= sizeof address.sun_path) {
    LogWarning("cannot notify the service manager",
               {{"socket", target_.socket}, {"reason", "the path is too long"}});
    return;
  }
  std::memcpy(address.sun_path, target_.socket.data(), target_.socket.size());
  if (address.sun_path[0] == '@') address.sun_path[0] = '\0';  // the abstract namespace
  const auto address_bytes =
      static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + target_.socket.size());

  const int descriptor = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  const bool sent =
      descriptor >= 0 && sendto(descriptor, message.data(), message.size(), MSG_NOSIGNAL,
                                reinterpret_cast<const sockaddr*>(&address), address_bytes) >= 0;
  if (!sent) {
    LogWarning("cannot notify the service manager",
               {{"socket", target_.socket}, {"reason", std::string(std::strerror(errno))}});
  }
  if (descriptor >= 0) close(descriptor);
}

}  // namespace kvasir
