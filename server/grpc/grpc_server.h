// The gRPC side of the daemon: one listening port, health, reflection, limits and keepalive around
// services that others implement. Thread safe after Start.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "server/config/server_config.h"
#include "server/frontend/call_observer.h"
#include "server/grpc/connection_acceptor.h"
#include "server/grpc/reflection_service.h"
#include "server/grpc/tls_mirror.h"

namespace kvasir {

struct NamedService {
  grpc::Service* service;
  std::string name;  // "kvasir.v1.GenerationService"
};

class GrpcServer {
 public:
  // Listens and serves at once; health says SERVING for every service and for "". The services and
  // the observer of connections are borrowed and must outlive this. Unavailable when the address
  // cannot be used, FailedPrecondition when the TLS files cannot (tls_credentials.h). At most one
  // GrpcServer with reflection per process is supported: gRPC registers that of v1alpha globally.
  // `headroom_bytes`: memory beside weights and pools, of which connections may fill half.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(
      const DaemonConfig& config, const std::vector<NamedService>& services, int64_t headroom_bytes,
      CallObserver* observer);

  // As Shutdown(now).
  ~GrpcServer();

  // Where it listens, with the port that was taken when 0 was asked for.
  const HostPort& address() const { return address_; }

  // What health answers for every service, for "" and for models that serve. Watchers are told.
  void SetServing(bool serving);
  // The same for "models/NAME". gRPC's health service forgets no name: one that is gone is
  // NOT_SERVING.
  void SetModelServing(const std::string& model, bool serving);

  // Refuses new connections and calls at once, waits for those under way until `deadline`, cancels
  // the rest, and returns when all have ended. Health watches and reflection streams are calls too,
  // and their clients rarely end them: wait for the streams that matter first, then give a near
  // deadline.
  void Shutdown(absl::Time deadline);

 private:
  GrpcServer(HostPort address, const std::vector<NamedService>& services);

  const HostPort address_;
  std::vector<std::string> names_;  // constant after construction
  absl::Mutex health_mutex_;
  bool serving_ ABSL_GUARDED_BY(health_mutex_) = false;
  std::set<std::string> models_ ABSL_GUARDED_BY(health_mutex_);  // those that serve
  ReflectionService reflection_;
  std::unique_ptr<TlsMirror> tls_mirror_;  // absent without TLS
  // Stopped before the server, which takes its connections through `door_`.
  std::unique_ptr<ConnectionAcceptor> acceptor_;
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> door_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace kvasir
