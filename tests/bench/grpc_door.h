// The daemon's own generation service over a real gRPC server on loopback, around an engine that
// lives here, and the product's client: what stands between kvasir-bench and the engine when a run
// goes through gRPC.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "client/generation_client.h"
#include "grpcpp/server.h"
#include "server/frontend/call_observer.h"
#include "server/frontend/text_workers.h"
#include "server/frontend/worker_thread.h"
#include "server/grpc/generation_service.h"
#include "server/identity/authenticator.h"
#include "server/identity/tenant_directory.h"

namespace kvasir::bench {

class GrpcDoor {
 public:
  // `models` outlives this.
  explicit GrpcDoor(const ModelRegistry* models);
  ~GrpcDoor();

  // Sends all requests at once, each from a thread of its own, and reads them to their ends.
  void Run(const std::vector<v1::GenerateRequest>& requests);

 private:
  struct NoObserver : CallObserver {
    void OnGenerateDone(const std::string&, const std::string&, absl::StatusCode) override {}
    void OnRefused(const RefusedCall&) override {}
  };

  // Anonymous calls are served, as by a daemon without tenants.
  const Authenticator authenticator_{AuthenticationConfig(), *TenantDirectory::Load({})};
  NoObserver observer_;
  std::atomic<bool> draining_{false};
  WorkerThread stream_writer_;
  WorkerThread query_worker_;
  TextWorkers text_workers_{TextLimits()};
  std::unique_ptr<GenerationService> service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<GenerationClient> client_;
};

}  // namespace kvasir::bench
