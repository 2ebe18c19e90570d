#include "server/grpc/connection_acceptor.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <deque>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/telemetry/heap_usage.h"

namespace kvasir {
namespace {

using testing::HasSubstr;

constexpr absl::Duration kPatience = absl::Seconds(20);

// A TCP connection to the port; closed with the object.
class TcpClient {
 public:
  explicit TcpClient(int port) : socket_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  }
  ~TcpClient() { close(socket_); }

  // Waits until the other side ends the connection.
  bool WasClosed() const {
    char byte;
    return recv(socket_, &byte, 1, 0) <= 0;
  }
  // False when the connection has ended.
  bool Send(const std::string& bytes) const {
    for (size_t sent = 0; sent < bytes.size();) {
      const ssize_t count =
          send(socket_, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (count < 0 && errno != EAGAIN) return false;
      if (count < 0) return true;  // whoever reads is slow
      sent += static_cast<size_t>(count);
    }
    return true;
  }
  // Closing then resets the connection.
  void ResetOnClose() const {
    const linger at_once = {1, 0};
    setsockopt(socket_, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  }

 private:
  const int socket_;
};

// Takes connections, and counts.
class Taker : public CallObserver {
 public:
  ~Taker() override {
    for (const int descriptor : taken_) close(descriptor);
  }
  void OnConnectionOpened() override { Count(&opened_); }
  void OnConnectionClosed() override { Count(&closed_); }
  void OnConnectionRefused() override { Count(&refused_); }
  void OnGenerateDone(const std::string&, const std::string&, absl::StatusCode) override {}
  void OnRefused(const RefusedCall&) override {}

  ConnectionAcceptor::HandOver hand_over() {
    return [this](int descriptor) {
      absl::MutexLock lock(&mutex_);
      taken_.push_back(descriptor);
    };
  }
  // Reads what has come on all connections; closes those that are at their end.
  void Discard() {
    absl::MutexLock lock(&mutex_);
    static char buffer[1 << 16];
    std::erase_if(taken_, [](int descriptor) {
      ssize_t count;
      while ((count = recv(descriptor, buffer, sizeof buffer, MSG_DONTWAIT)) > 0) continue;
      if (count == 0) close(descriptor);
      return count == 0;
    });
  }
  // As gRPC ends one: shut down, then closed.
  void EndOldest() {
    absl::MutexLock lock(&mutex_);
    shutdown(taken_.front(), SHUT_RDWR);
    close(taken_.front());
    taken_.pop_front();
  }
  bool Await(int opened, int closed, int refused) {
    absl::MutexLock lock(&mutex_);
    const auto reached = [&]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
      return opened_ == opened && closed_ == closed && refused_ == refused &&
             static_cast<int>(taken_.size()) >= opened_ - closed_;
    };
    return mutex_.AwaitWithTimeout(absl::Condition(&reached), kPatience);
  }

 private:
  void Count(int* events) {
    absl::MutexLock lock(&mutex_);
    ++*events;
  }

  absl::Mutex mutex_;
  std::deque<int> taken_ ABSL_GUARDED_BY(mutex_);
  int opened_ ABSL_GUARDED_BY(mutex_) = 0;
  int closed_ ABSL_GUARDED_BY(mutex_) = 0;
  int refused_ ABSL_GUARDED_BY(mutex_) = 0;
};

std::unique_ptr<ConnectionAcceptor> Listen(int max_connections, Taker* taker,
                                           const HostPort& address = {"127.0.0.1", 0}) {
  auto acceptor = ConnectionAcceptor::Listen(address, max_connections, taker);
  EXPECT_TRUE(acceptor.ok()) << acceptor.status();
  return *std::move(acceptor);
}

int OpenDescriptors() {
  const std::filesystem::directory_iterator descriptors("/proc/self/fd");
  return static_cast<int>(std::distance(begin(descriptors), end(descriptors)));
}

TEST(ConnectionAcceptor, ClosesWhatIsOverTheLimitAndTakesTheNextWhenOneEnded) {
  Taker taker;
  const auto acceptor = Listen(2, &taker);
  acceptor->Start(taker.hand_over());
  const TcpClient first(acceptor->address().port), second(acceptor->address().port);
  ASSERT_TRUE(taker.Await(2, 0, 0));
  const TcpClient third(acceptor->address().port);
  EXPECT_TRUE(third.WasClosed());
  ASSERT_TRUE(taker.Await(2, 0, 1));

  taker.EndOldest();
  EXPECT_TRUE(first.WasClosed());
  ASSERT_TRUE(taker.Await(2, 1, 1));
  const TcpClient fourth(acceptor->address().port);
  EXPECT_TRUE(taker.Await(3, 1, 1));
}

bool MallocSaysWhatItHolds() {  // a sanitizer's does not
  const int64_t before_bytes = HeapUsedBytes();
  const std::string held(1 << 20, 'x');
  return HeapUsedBytes() >= before_bytes + (1 << 19);
}

// One connection sends and sends while the heap is over its limit; two others send nothing, or
// little.
TEST(ConnectionAcceptor, EndsTheConnectionWhoseFloodFillsTheHeap) {
  constexpr int64_t kLimitBytes = 64 << 20;
  if (!MallocSaysWhatItHolds()) GTEST_SKIP() << "malloc does not say what it holds";
  Taker taker;
  auto listening = ConnectionAcceptor::Listen({"127.0.0.1", 0}, 8, &taker, kLimitBytes);
  ASSERT_TRUE(listening.ok()) << listening.status();
  const auto acceptor = *std::move(listening);
  acceptor->Start(taker.hand_over());
  const TcpClient idle(acceptor->address().port), slow(acceptor->address().port),
      flood(acceptor->address().port);
  ASSERT_TRUE(taker.Await(3, 0, 0));

  std::vector<std::string> heap;  // as what is kept of the flood
  const std::string megabyte(1 << 20, 'x');
  const absl::Time deadline = absl::Now() + kPatience;
  int sent_bytes_slow = 0;
  while (flood.Send(megabyte) && absl::Now() < deadline) {
    taker.Discard();
    if (heap.size() < 2 * (kLimitBytes >> 20)) heap.push_back(megabyte);
    if (++sent_bytes_slow < 1000) {
      EXPECT_TRUE(slow.Send("x"));
    }
  }
  EXPECT_GT(static_cast<int64_t>(heap.size()) << 20, kLimitBytes) << "nothing was wrong yet";
  EXPECT_TRUE(taker.Await(3, 1, 0));
  EXPECT_TRUE(idle.Send("x"));
  EXPECT_TRUE(slow.Send("x"));
}

// Many share a flood. Ended one a second, they would fill the memory long before the last.
TEST(ConnectionAcceptor, EndsManyConnectionsThatFloodTogether) {
  constexpr int64_t kLimitBytes = 64 << 20;
  constexpr int kFlooding = 100;
  if (!MallocSaysWhatItHolds()) GTEST_SKIP() << "malloc does not say what it holds";
  Taker taker;
  auto listening = ConnectionAcceptor::Listen({"127.0.0.1", 0}, kFlooding + 2, &taker, kLimitBytes);
  ASSERT_TRUE(listening.ok()) << listening.status();
  const auto acceptor = *std::move(listening);
  acceptor->Start(taker.hand_over());
  const TcpClient idle(acceptor->address().port), slow(acceptor->address().port);
  struct Flood {
    std::unique_ptr<TcpClient> client;
    std::vector<std::string> held;  // as the server's side of it, given back at its end
  };
  std::vector<Flood> floods(kFlooding);
  for (Flood& flood : floods) flood.client = std::make_unique<TcpClient>(acceptor->address().port);
  ASSERT_TRUE(taker.Await(kFlooding + 2, 0, 0));

  const std::string piece(32 << 10, 'x');
  const absl::Time deadline = absl::Now() + kPatience;
  const int64_t before_bytes = HeapUsedBytes();
  int64_t most_bytes = 0;
  int round = 0;
  for (; !floods.empty() && absl::Now() < deadline; ++round) {
    std::erase_if(floods, [&](Flood& flood) {
      if (!flood.client->Send(piece)) return true;
      if (flood.held.size() < 64) flood.held.push_back(piece);
      return false;
    });
    taker.Discard();
    if (round < 1000) {
      EXPECT_TRUE(slow.Send("x"));
    }
    most_bytes = std::max(most_bytes, HeapUsedBytes() - before_bytes);
  }
  EXPECT_GT(most_bytes, kLimitBytes) << "nothing was wrong yet";
  EXPECT_TRUE(floods.empty()) << floods.size() << " go on after " << round << " rounds";
  EXPECT_TRUE(idle.Send("x"));
  EXPECT_TRUE(slow.Send("x"));
}

TEST(ConnectionAcceptor, HoldsNoDescriptorOfEndedConnections) {
  Taker taker;
  const auto acceptor = Listen(8, &taker);
  acceptor->Start(taker.hand_over());
  const int before = OpenDescriptors();
  for (int i = 1; i <= 100; ++i) {
    auto client = std::make_unique<TcpClient>(acceptor->address().port);
    ASSERT_TRUE(taker.Await(i, i - 1, 0));
    if (i % 2 == 0) client->ResetOnClose();
    if (i % 3 != 0) client.reset();  // else it is the server that ends it
    taker.EndOldest();
    ASSERT_TRUE(taker.Await(i, i, 0)) << i;
  }
  EXPECT_EQ(OpenDescriptors(), before);
}

TEST(ConnectionAcceptor, GoesOnWhenDescriptorsHadRunOut) {
  Taker taker;
  const auto acceptor = Listen(8, &taker);
  // They wait in the kernel until Start.
  const TcpClient first(acceptor->address().port), second(acceptor->address().port);
  rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit none_left = before;
  // The highest descriptor in use; a limit counts numbers, not how many are open.
  none_left.rlim_cur = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    none_left.rlim_cur =
        std::max<rlim_t>(none_left.rlim_cur, std::stoul(entry.path().filename()) + 1);
  }
  std::vector<int> gaps;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none_left), 0);
  for (int gap; (gap = dup(0)) >= 0;) gaps.push_back(gap);
  acceptor->Start(taker.hand_over());
  close(gaps.back());  // one is left: enough to accept, too few to watch
  gaps.pop_back();
  EXPECT_TRUE(taker.Await(0, 0, 2));
  EXPECT_TRUE(first.WasClosed() && second.WasClosed());

  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  for (const int gap : gaps) close(gap);
  const TcpClient third(acceptor->address().port);
  EXPECT_TRUE(taker.Await(1, 0, 2));
}

TEST(ConnectionAcceptor, StopLeavesConnectionsToTheirOwner) {
  Taker taker;
  auto acceptor = Listen(8, &taker);
  acceptor->Start(taker.hand_over());
  const TcpClient client(acceptor->address().port);
  ASSERT_TRUE(taker.Await(1, 0, 0));
  acceptor->Stop();
  ASSERT_TRUE(taker.Await(1, 1, 0));
  acceptor.reset();
  taker.EndOldest();
  EXPECT_TRUE(client.WasClosed());
}

TEST(ConnectionAcceptor, SaysWhyItCannotListen) {
  Taker taker;
  const auto first = Listen(8, &taker);
  const auto second = ConnectionAcceptor::Listen({"127.0.0.1", first->address().port}, 8, &taker);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("already in use"));
  const auto foreign = ConnectionAcceptor::Listen({"192.0.2.1", 0}, 8, &taker);
  EXPECT_EQ(foreign.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(foreign.status().message()), HasSubstr("192.0.2.1:0"));
}

TEST(ConnectionAcceptor, ListensOnEveryAddressOfAName) {
  Taker taker;
  const auto acceptor = Listen(8, &taker, {"localhost", 0});
  acceptor->Start(taker.hand_over());
  const TcpClient client(acceptor->address().port);
  EXPECT_TRUE(taker.Await(1, 0, 0));
}

}  // namespace
}  // namespace kvasir
