#include "server/http/http_server.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>
#include <unordered_set>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "boost/asio/executor_work_guard.hpp"
#include "boost/asio/posix/stream_descriptor.hpp"
#include "server/frontend/listening_sockets.h"
#include "server/http/http_connection.h"
#include "server/identity/tls_files.h"
#include "server/telemetry/logging.h"

namespace kvasir {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;

// Out of descriptors or memory: when to try accepting again.
constexpr auto kAcceptPause = std::chrono::milliseconds(100);

std::optional<IpAddress> AddressOf(const sockaddr_storage& peer) {
  IpAddress address{};
  if (peer.ss_family == AF_INET6) {
    std::memcpy(address.data(), &reinterpret_cast<const sockaddr_in6*>(&peer)->sin6_addr, 16);
    return address;
  }
  if (peer.ss_family != AF_INET) return std::nullopt;
  address[10] = address[11] = 0xFF;
  std::memcpy(address.data() + 12, &reinterpret_cast<const sockaddr_in*>(&peer)->sin_addr, 4);
  return address;
}

// Thousands of connections need more descriptors than the customary 1024.
void RaiseDescriptorLimit() {
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

class Server final : public HttpServer {
 public:
  Server(ListeningSockets sockets, const TlsConfig& tls, const HttpLimits& limits,
         HttpService* service, CallObserver* observer)
      : sockets_(std::move(sockets)),
        address_(sockets_.address()),
        tls_(tls),
        observer_(observer),
        shared_(std::make_shared<HttpShared>()),
        work_(shared_->io.get_executor()),
        tls_timer_(shared_->io),
        accept_timer_(shared_->io) {
    shared_->limits = limits;
    shared_->service = service;
  }
  ~Server() override { Shutdown(); }

  absl::Status LoadTls() {
    if (!tls_.enabled()) return absl::OkStatus();
    KVASIR_ASSIGN_OR_RETURN(TlsTexts texts, ReadTlsFiles(tls_));
    if (texts == tls_texts_) return absl::OkStatus();
    // It reads them again; what changed in between is another change the next time.
    KVASIR_ASSIGN_OR_RETURN(SSL_CTX* const native, MakeTlsServerContext(tls_));
    if (tls_context_ != nullptr && observer_ != nullptr) observer_->OnReload("http_tls", true);
    tls_context_ = std::make_shared<asio::ssl::context>(native);
    tls_texts_ = std::move(texts);
    return absl::OkStatus();
  }

  void Run() {
    for (const int descriptor : sockets_.descriptors()) {
      listeners_.emplace_back(shared_->io, descriptor);
    }
    for (auto& listener : listeners_) AwaitConnection(&listener);
    if (tls_.enabled()) AwaitTlsReload();
    thread_ = std::thread([this] {
      pthread_setname_np(pthread_self(), "http");
      shared_->io.run();
      // What was posted while it ended.
      shared_->stopped = true;
      shared_->io.restart();
      shared_->io.poll();
    });
  }

  const HostPort& address() const override { return address_; }
  int open_connections() const override { return open_connections_; }

  void StartDrain() override {
    shared_->Post([this] {
      shared_->draining = true;
      ForEach([](HttpConnection* connection) { connection->Drain(); });
    });
  }

  void Shutdown() override {
    if (!thread_.joinable()) return;
    shared_->Post([this] {
      for (auto& listener : listeners_) listener.release();  // sockets_ owns it
      listeners_.clear();
      sockets_.Close();
      tls_timer_.cancel();
      accept_timer_.cancel();
      ForEach([](HttpConnection* connection) { connection->Close(); });
      // What closing makes callers post comes before this.
      shared_->Post([this] {
        work_.reset();
        shared_->io.stop();
      });
    });
    thread_.join();
  }

 private:
  template <typename Call>
  void ForEach(Call call) {
    const std::vector<HttpConnection*> connections(connections_.begin(), connections_.end());
    for (HttpConnection* connection : connections) {
      if (!connections_.contains(connection)) continue;
      const std::shared_ptr<HttpConnection> alive = connection->weak_from_this().lock();
      if (alive != nullptr) call(connection);
    }
  }

  void AwaitConnection(asio::posix::stream_descriptor* listener) {
    listener->async_wait(asio::posix::stream_descriptor::wait_read,
                         [this, listener](error_code error) {
                           if (error) return;
                           if (Accept(listener->native_handle())) return AwaitConnection(listener);
                           Pause(listener);
                         });
  }

  // Listens again in a while: what waits would be reported again at once, and this thread would
  // spin. All listeners may pause together.
  void Pause(asio::posix::stream_descriptor* listener) {
    paused_.push_back(listener);
    if (paused_.size() > 1) return;
    accept_timer_.expires_after(kAcceptPause);
    accept_timer_.async_wait([this](error_code error) {
      for (asio::posix::stream_descriptor* paused : std::exchange(paused_, {})) {
        if (!error) AwaitConnection(paused);
      }
    });
  }

  // Takes what waits. False when the machine has no descriptors or memory left for it.
  bool Accept(int listener) {
    while (true) {
      sockaddr_storage peer = {};
      socklen_t size = sizeof peer;
      const int descriptor = accept4(listener, reinterpret_cast<sockaddr*>(&peer), &size,
                                     SOCK_CLOEXEC | SOCK_NONBLOCK);
      if (descriptor < 0) {
        if (errno == EINTR || errno == ECONNABORTED) continue;
        return errno == EAGAIN || errno == EWOULDBLOCK;
      }
      if (open_connections_ >= shared_->limits.max_connections) {
        close(descriptor);
        continue;
      }
      Take(descriptor, peer);
    }
  }

  void Take(int descriptor, const sockaddr_storage& peer) {
    const int on = 1;
    const bool is_tcp = peer.ss_family != AF_UNIX;
    if (is_tcp) setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    StreamSocket socket(shared_->io);
    error_code error;
    socket.assign(asio::generic::stream_protocol(peer.ss_family, is_tcp ? IPPROTO_TCP : 0),
                  descriptor, error);
    if (error) {  // the limit of what may be waited for (max_user_watches), or no memory
      close(descriptor);
      if (observer_ != nullptr) observer_->OnConnectionRefused();
      LogWarning("a connection is closed at once: the system cannot wait for it",
                 {{"address", address_.ToString()}, {"reason", error.message()}});
      return;
    }
    auto transport = tls_context_ == nullptr ? MakePlainTransport(std::move(socket))
                                             : MakeTlsTransport(std::move(socket), tls_context_);
    const auto connection = std::make_shared<HttpConnection>(
        shared_, std::move(transport), AddressOf(peer), [this](HttpConnection* closed) {
          connections_.erase(closed);
          --open_connections_;
        });
    connections_.insert(connection.get());
    ++open_connections_;
    connection->Start();
  }

  // Connections that come later get what the files hold then; broken files change nothing.
  void AwaitTlsReload() {
    tls_timer_.expires_after(absl::ToChronoMicroseconds(tls_.reload));
    tls_timer_.async_wait([this](error_code error) {
      if (error) return;
      const absl::Status status = LoadTls();
      if (!status.ok() && status.message() != tls_fault_) {
        if (observer_ != nullptr) observer_->OnReload("http_tls", false);
        LogWarning("the TLS files for HTTP cannot be used; those read before stay in use",
                   {{"reason", std::string(status.message())}});
      }
      tls_fault_ = std::string(status.message());
      AwaitTlsReload();
    });
  }

  ListeningSockets sockets_;  // the I/O thread's after Run
  const HostPort address_;
  const TlsConfig tls_;
  CallObserver* const observer_;  // may be null
  TlsTexts tls_texts_;            // of tls_context_
  std::string tls_fault_;         // why they cannot be read now; empty = they can
  const std::shared_ptr<HttpShared> shared_;
  asio::executor_work_guard<asio::io_context::executor_type> work_;
  std::thread thread_;
  std::atomic<int> open_connections_{0};

  // The I/O thread's.
  std::shared_ptr<asio::ssl::context> tls_context_;
  asio::steady_timer tls_timer_;
  asio::steady_timer accept_timer_;
  std::vector<asio::posix::stream_descriptor*> paused_;
  std::deque<asio::posix::stream_descriptor> listeners_;
  std::unordered_set<HttpConnection*> connections_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(
    const HostPort& address, const TlsConfig& tls, const HttpLimits& limits,
    const std::string& setting, HttpService* service, CallObserver* observer) {
  RaiseDescriptorLimit();
  KVASIR_ASSIGN_OR_RETURN(
      ListeningSockets sockets,
      ListeningSockets::Open(address, absl::StrCat("choose another ", setting, ", or 'off'")));
  try {
    auto server = std::make_unique<Server>(std::move(sockets), tls, limits, service, observer);
    KVASIR_RETURN_IF_ERROR(server->LoadTls());
    server->Run();
    return server;
  } catch (const boost::system::system_error& error) {
    return absl::UnavailableError(absl::StrCat(
        setting, ": the system gives no descriptor, or no memory, to wait for connections: ",
        error.what(), "; raise the limit of open files (ulimit -n, LimitNOFILE)"));
  }
}

}  // namespace kvasir
