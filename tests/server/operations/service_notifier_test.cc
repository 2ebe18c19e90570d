#include "server/process/service_notifier.h"

#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "gtest/gtest.h"

namespace kvasir {
namespace {

// The service manager's end: a datagram socket with a name of its own.
class Manager {
 public:
  // `name`: "@..." or a path.
  explicit Manager(const std::string& name) : name_(name) {
    descriptor_ = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    timeval patience = {30, 0};
    setsockopt(descriptor_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, name.data(), name.size());
    if (name[0] == '@') address.sun_path[0] = '\0';
    EXPECT_EQ(bind(descriptor_, reinterpret_cast<sockaddr*>(&address),
                   static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size())),
              0);
  }
  ~Manager() {
    close(descriptor_);
    if (name_[0] != '@') unlink(name_.c_str());
  }

  // The next message, or "" when none comes.
  std::string Receive() {
    char buffer[512];
    const ssize_t got = recv(descriptor_, buffer, sizeof buffer, 0);
    return got < 0 ? "" : std::string(buffer, static_cast<size_t>(got));
  }
  bool HasMessage() {
    char byte;
    return recv(descriptor_, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0;
  }

 private:
  const std::string name_;
  int descriptor_ = -1;
};

std::string UniqueName(const char* kind) {
  return absl::StrCat("kvasir-notify-", kind, "-", getpid());
}

TEST(ServiceNotifier, SaysReadyAndStopping) {
  for (const std::string& name : {"@" + UniqueName("abstract"), "/tmp/" + UniqueName("path")}) {
    Manager manager(name);
    ServiceNotifier notifier({name, absl::InfiniteDuration()});
    notifier.Starting("pulling hf:a/b, 7%");
    EXPECT_EQ(manager.Receive(), "STATUS=pulling hf:a/b, 7%\nEXTEND_TIMEOUT_USEC=600000000");
    notifier.Ready("serving", [] { FAIL() << "no watchdog was asked for"; });
    EXPECT_EQ(manager.Receive(), "READY=1\nSTATUS=serving");
    notifier.Stopping("draining");
    EXPECT_EQ(manager.Receive(), "STOPPING=1\nSTATUS=draining");
  }
}

TEST(ServiceNotifier, FeedsTheWatchdogWhileThereIsProgress) {
  const std::string name = "@" + UniqueName("fed");
  Manager manager(name);
  ServiceNotifier notifier({name, absl::Milliseconds(30)});
  notifier.Ready("serving", [] {});
  EXPECT_TRUE(absl::StartsWith(manager.Receive(), "READY=1"));
  for (int i = 0; i < 5; ++i) EXPECT_EQ(manager.Receive(), "WATCHDOG=1");
}

TEST(ServiceNotifier, StarvesTheWatchdogWhileAStepHangs) {
  const std::string name = "@" + UniqueName("starved");
  Manager manager(name);
  absl::Notification asked, step_ends;
  {
    ServiceNotifier notifier({name, absl::Milliseconds(3)});
    notifier.Ready("serving", [&] {
      if (!asked.HasBeenNotified()) asked.Notify();
      step_ends.WaitForNotification();
    });
    EXPECT_TRUE(absl::StartsWith(manager.Receive(), "READY=1"));
    asked.WaitForNotification();
    EXPECT_FALSE(manager.HasMessage());
    step_ends.Notify();
    EXPECT_EQ(manager.Receive(), "WATCHDOG=1");
  }
}

TEST(ServiceNotifier, ReadsTheEnvironment) {
  setenv("NOTIFY_SOCKET", "/run/systemd/notify", 1);
  setenv("WATCHDOG_USEC", "60000000", 1);
  unsetenv("WATCHDOG_PID");
  EXPECT_EQ(ServiceNotifier::TargetFromEnvironment().socket, "/run/systemd/notify");
  EXPECT_EQ(ServiceNotifier::TargetFromEnvironment().watchdog, absl::Minutes(1));
  setenv("WATCHDOG_PID", absl::StrCat(getpid()).c_str(), 1);
  EXPECT_EQ(ServiceNotifier::TargetFromEnvironment().watchdog, absl::Minutes(1));
  setenv("WATCHDOG_PID", absl::StrCat(getpid() + 1).c_str(), 1);
  EXPECT_EQ(ServiceNotifier::TargetFromEnvironment().watchdog, absl::InfiniteDuration());
  for (const char* name : {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}) unsetenv(name);
  EXPECT_EQ(ServiceNotifier::TargetFromEnvironment().socket, "");
}

// Nobody listens, or the name is nonsense: the daemon serves all the same.
TEST(ServiceNotifier, AnAbsentManagerIsNoError) {
  for (const std::string& name :
       {std::string(), std::string("/nowhere/notify"), "@" + std::string(500, 'x')}) {
    ServiceNotifier notifier({name, absl::Milliseconds(3)});
    notifier.Ready("serving", [] {});
    notifier.Stopping("draining");
  }
}

}  // namespace
}  // namespace kvasir
