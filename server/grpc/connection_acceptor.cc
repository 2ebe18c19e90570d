#include "server/grpc/connection_acceptor.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "base/steady_time.h"
#include "server/telemetry/logging.h"

namespace kvasir {
namespace {

// Descriptors for everything else: weights, logs, spill files, scrapes, gRPC's own.
constexpr rlim_t kOtherDescriptors = 512;
constexpr rlim_t kDescriptorsPerConnection = 2;

// How long accepting rests when the machine has no descriptors or memory for a connection.
constexpr int kRestMilliseconds = 100;

// Connections taken before ends are looked at again.
constexpr int kMaxAtOnce = 64;

// Connections refused are told in the log at most this often; /metrics counts all.
constexpr absl::Duration kRefusalLogInterval = absl::Seconds(10);

// How many connections the limit of descriptors has room for, after raising it towards `wanted`.
int RoomForConnections(int wanted) {
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return wanted;
  const rlim_t needed = kOtherDescriptors + kDescriptorsPerConnection * wanted;
  if (limit.rlim_cur < needed) {
    limit.rlim_cur = std::min(needed, limit.rlim_max);
    setrlimit(RLIMIT_NOFILE, &limit);
    getrlimit(RLIMIT_NOFILE, &limit);
  }
  if (limit.rlim_cur >= needed) return wanted;
  const rlim_t room =
      limit.rlim_cur > kOtherDescriptors ? limit.rlim_cur - kOtherDescriptors : rlim_t{0};
  return std::max(1, static_cast<int>(room / kDescriptorsPerConnection));
}

bool Watch(int epoll_fd, int operation, int descriptor, uint32_t events) {
  epoll_event event = {};
  event.events = events;
  event.data.fd = descriptor;
  return epoll_ctl(epoll_fd, operation, descriptor, &event) == 0;
}

// Address and port of the other side.
std::string PeerOf(int socket) {
  sockaddr_storage address = {};
  socklen_t size = sizeof address;
  char host[NI_MAXHOST], port[NI_MAXSERV];
  if (getpeername(socket, reinterpret_cast<sockaddr*>(&address), &size) != 0 ||
      getnameinfo(reinterpret_cast<const sockaddr*>(&address), size, host, sizeof host, port,
                  sizeof port, NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return "unknown";
  }
  return absl::StrCat(host, ":", port);
}

// Ends a TCP connection at once, through any of its descriptors, whatever waits to be read or sent.
// After a shutdown() alone, Linux goes on taking in what the peer sends until a read finds nothing,
// and with a flood none does.
void Reset(int socket) {
  sockaddr none = {};
  none.sa_family = AF_UNSPEC;
  if (connect(socket, &none, sizeof none) != 0) shutdown(socket, SHUT_RDWR);
}

}  // namespace

absl::StatusOr<std::unique_ptr<ConnectionAcceptor>> ConnectionAcceptor::Listen(
    const HostPort& address, int max_connections, CallObserver* observer,
    int64_t max_heap_growth_bytes) {
  const int room = RoomForConnections(max_connections);
  if (room < max_connections) {
    LogWarning("fewer connections than configured, for want of file descriptors",
               {{"max_connections", room},
                {"configured", max_connections},
                {"remedy",
                 absl::StrCat("raise the hard limit of open files to ",
                              kOtherDescriptors + kDescriptorsPerConnection * max_connections)}});
  }
  std::unique_ptr<ConnectionAcceptor> acceptor(
      new ConnectionAcceptor(room, observer, max_heap_growth_bytes));
  const auto refused = [] {
    return absl::UnavailableError(absl::StrCat("cannot watch connections: ", std::strerror(errno),
                                               "; raise the limit of open files (ulimit -n, "
                                               "LimitNOFILE) or fs.epoll.max_user_watches"));
  };
  if (acceptor->epoll_fd_ < 0 || acceptor->stop_fd_ < 0 ||
      !Watch(acceptor->epoll_fd_, EPOLL_CTL_ADD, acceptor->stop_fd_, EPOLLIN)) {
    return refused();
  }

  KVASIR_ASSIGN_OR_RETURN(
      acceptor->sockets_,
      ListeningSockets::Open(address, "choose another listen address (port 0 takes any free one)"));
  for (const int listener : acceptor->sockets_.descriptors()) {
    if (!Watch(acceptor->epoll_fd_, EPOLL_CTL_ADD, listener, EPOLLIN)) return refused();
  }
  return acceptor;
}

ConnectionAcceptor::ConnectionAcceptor(int max_connections, CallObserver* observer,
                                       int64_t max_heap_growth_bytes)
    : max_connections_(max_connections),
      observer_(observer),
      epoll_fd_(epoll_create1(EPOLL_CLOEXEC)),
      stop_fd_(eventfd(0, EFD_CLOEXEC)),
      flood_guard_(max_heap_growth_bytes) {}

ConnectionAcceptor::~ConnectionAcceptor() {
  Stop();
  if (stop_fd_ >= 0) close(stop_fd_);
  if (epoll_fd_ >= 0) close(epoll_fd_);
}

void ConnectionAcceptor::Start(HandOver hand_over) {
  KVASIR_CHECK(!thread_.joinable());
  hand_over_ = std::move(hand_over);
  thread_ = std::thread([this] { Run(); });
}

void ConnectionAcceptor::Stop() {
  if (thread_.joinable()) {
    const uint64_t one = 1;
    KVASIR_CHECK(write(stop_fd_, &one, sizeof one) == sizeof one);
    thread_.join();
  }
  sockets_.Close();
  while (!open_.empty()) Forget(*open_.begin());
}

void ConnectionAcceptor::Run() {
  const std::vector<int>& listeners = sockets_.descriptors();
  std::array<epoll_event, 64> events;
  bool resting = false;
  absl::Time next_look = SteadyNow();
  while (true) {
    const int count = epoll_wait(epoll_fd_, events.data(), static_cast<int>(events.size()),
                                 resting ? kRestMilliseconds : FloodGuard::kLookMilliseconds);
    KVASIR_CHECK(count >= 0 || errno == EINTR);
    // Ends first: they make room for the connections that wait.
    for (int i = 0; i < count; ++i) {
      if (events[i].data.fd == stop_fd_) return;
      if (open_.count(events[i].data.fd) > 0) Forget(events[i].data.fd);
    }
    bool exhausted = false;
    for (int i = 0; i < count; ++i) {
      const int descriptor = events[i].data.fd;
      const bool listens =
          std::find(listeners.begin(), listeners.end(), descriptor) != listeners.end();
      if (listens && !Accept(descriptor)) exhausted = true;
    }
    // Otherwise what waits would be reported again at once, and this thread would spin.
    if (exhausted != resting) SetListening(!exhausted);
    resting = exhausted;
    if (const absl::Time now = SteadyNow(); now >= next_look) {
      next_look = now + absl::Milliseconds(FloodGuard::kLookMilliseconds);
      EndFlood();
    }
  }
}

bool ConnectionAcceptor::Accept(int listener) {
  for (int i = 0; i < kMaxAtOnce; ++i) {
    const int connection = accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (connection < 0) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      return errno != EMFILE && errno != ENFILE && errno != ENOBUFS && errno != ENOMEM;
    }
    if (static_cast<int>(open_.size()) >= max_connections_) {
      Refuse(connection);
      continue;
    }
    const int duplicate = fcntl(connection, F_DUPFD_CLOEXEC, 0);
    // No event is asked for: EPOLLHUP is always reported.
    if (duplicate < 0 || !Watch(epoll_fd_, EPOLL_CTL_ADD, duplicate, 0)) {
      if (duplicate >= 0) close(duplicate);
      Refuse(connection);
      return false;
    }
    // Small messages, one per token: none may wait for the acknowledgement of the one before. (A
    // unix socket has no such thing.)
    const int on = 1;
    setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    open_.insert(duplicate);
    observer_->OnConnectionOpened();
    hand_over_(connection);
  }
  return true;
}

void ConnectionAcceptor::Refuse(int connection) {
  close(connection);
  observer_->OnConnectionRefused();
  const absl::Time now = SteadyNow();
  if (now < next_refusal_log_) return;
  next_refusal_log_ = now + kRefusalLogInterval;
  LogWarning("connection refused",
             {{"open", static_cast<int64_t>(open_.size())},
              {"max_connections", max_connections_},
              {"remedy", "raise server.max_connections, or find who keeps so many open"}});
}

void ConnectionAcceptor::Forget(int duplicate) {
  open_.erase(duplicate);
  close(duplicate);  // the last reference of the socket, or epoll would go on reporting it
  observer_->OnConnectionClosed();
}

void ConnectionAcceptor::EndFlood() {
  const std::vector<int> flooding = flood_guard_.Look(open_);
  if (flooding.empty()) return;
  // One line, however many: the log is not to be flooded either.
  LogWarning("connections ended: what they sent fills the memory",
             {{"connections", static_cast<int64_t>(flooding.size())},
              {"first_peer", PeerOf(flooding.front())},
              {"remedy", "keep these peers away; a proxy that bounds HTTP/2 headers does"}});
  for (const int socket : flooding) Reset(socket);  // owners and epoll notice
}

void ConnectionAcceptor::SetListening(bool listening) {
  for (const int listener : sockets_.descriptors()) {
    KVASIR_CHECK(Watch(epoll_fd_, EPOLL_CTL_MOD, listener, listening ? EPOLLIN : 0u));
  }
}

}  // namespace kvasir
