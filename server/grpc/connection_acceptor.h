// The listening sockets of the gRPC port: accepts connections, at most so many at once, and
// hands them over.
//
// The daemon listens itself because gRPC 1.51 has no limit of connections and does not survive its
// absence: the first accept that fails for want of a descriptor ends its listener for good. Here
// connections over the limit are closed at once, and accepting pauses while the machine has no
// descriptors left. Connections whose floods fill the heap are ended (flood_guard.h).
//
// Each open connection costs two descriptors: the one handed over, and a duplicate by which the
// acceptor notices that both directions are shut down. Owns its thread and sockets; the handed
// descriptors belong to whoever took them. Thread safe after Start.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <unordered_set>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/config/server_config.h"
#include "server/frontend/call_observer.h"
#include "server/frontend/listening_sockets.h"
#include "server/grpc/flood_guard.h"

namespace kvasir {

class ConnectionAcceptor {
 public:
  // Takes a connected, non-blocking socket and closes it in the end. Called by the acceptor's
  // thread.
  using HandOver = std::function<void(int descriptor)>;

  // Listens (listening_sockets.h). Connections wait in the kernel until Start. Raises the process's
  // soft limit of descriptors as far as `max_connections` needs and the hard one allows, and takes
  // fewer connections, with a warning in the log, where that is not enough.
  // `max_heap_growth_bytes`: how much malloc may hold more than now before the flooding connection
  // goes. Unavailable when no address can be used. The observer must outlive this.
  static absl::StatusOr<std::unique_ptr<ConnectionAcceptor>> Listen(
      const HostPort& address, int max_connections, CallObserver* observer,
      int64_t max_heap_growth_bytes = FloodGuard::kNoLimit);

  // At most once.
  void Start(HandOver hand_over);

  // Closes the sockets; connections handed over live on, unwatched. Waits for a call of `hand_over`
  // under way.
  void Stop();

  // As Stop.
  ~ConnectionAcceptor();
  ConnectionAcceptor(const ConnectionAcceptor&) = delete;
  ConnectionAcceptor& operator=(const ConnectionAcceptor&) = delete;

  // With the port that was taken.
  const HostPort& address() const { return sockets_.address(); }

 private:
  ConnectionAcceptor(int max_connections, CallObserver* observer, int64_t max_heap_growth_bytes);

  void Run();
  // Takes what waits on one listening socket. False when the machine has no descriptors or memory
  // left for it.
  bool Accept(int listener);
  void Refuse(int connection);
  void Forget(int duplicate);
  void EndFlood();
  void SetListening(bool listening);

  const int max_connections_;
  CallObserver* const observer_;
  HandOver hand_over_;  // constant after Start
  int epoll_fd_ = -1;
  int stop_fd_ = -1;  // an eventfd; readable = stop
  ListeningSockets sockets_;
  std::unordered_set<int> open_;  // duplicates; the thread's
  FloodGuard flood_guard_;        // the thread's
  absl::Time next_refusal_log_ = absl::InfinitePast();
  std::thread thread_;
};

}  // namespace kvasir
