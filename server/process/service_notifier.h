// Tells the service manager (systemd, Type=notify) that the daemon is ready, stopping, and alive.
//
// The protocol is a few lines of text sent as datagrams to the socket in $NOTIFY_SOCKET; see
// sd_notify(3). Without that variable, every method does nothing. Owns one thread when a watchdog
// is asked for ($WATCHDOG_USEC). Methods may be called from any thread, each at most once
// but Starting.
#pragma once

#include <functional>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/annotated_mutex.h"

namespace kvasir {

class ServiceNotifier {
 public:
  struct Target {
    std::string socket;  // a path, or "@name" in the abstract namespace; empty = nobody listens
    absl::Duration watchdog = absl::InfiniteDuration();  // silence after which the manager acts
  };

  // From NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID (a watchdog meant for another process is not
  // ours).
  static Target TargetFromEnvironment();

  explicit ServiceNotifier(Target target) : target_(std::move(target)) {}
  // Ends the watchdog's thread; waits for a `progress` under way.
  ~ServiceNotifier();
  ServiceNotifier(const ServiceNotifier&) = delete;
  ServiceNotifier& operator=(const ServiceNotifier&) = delete;

  // Says that the start goes on, and may take ten minutes more: of a download that moves. As often
  // as wanted.
  void Starting(absl::string_view status);

  // Says READY. With a watchdog, `progress` is then called three times per watchdog interval from
  // the own thread, and each return of it feeds the watchdog: it must return only when the daemon
  // has made progress, and may block as long as it has not.
  void Ready(absl::string_view status, std::function<void()> progress) ABSL_LOCKS_EXCLUDED(mutex_);

  // Says STOPPING. The watchdog goes on being fed: streams are being finished.
  void Stopping(absl::string_view status);

 private:
  void FeedWatchdog(const std::function<void()>& progress) ABSL_LOCKS_EXCLUDED(mutex_);
  void Send(const std::string& message) const;

  const Target target_;
  AnnotatedMutex mutex_;
  AnnotatedCondVar stop_changed_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread watchdog_thread_;
};

}  // namespace kvasir
