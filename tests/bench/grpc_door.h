// The daemon's own generation service over a real gRPC server on loopback, around an engine that
// lives here, and the product's client: what stands between kvasir-bench and the engine when a run
// goes through gRPC.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "client/generation_client.h"
#include "grpcpp/server.h"
#include "server/grpc/generation_service.h"
#include "tests/bench/local_frontend.h"

namespace kvasir::bench {

class GrpcDoor {
 public:
  // `models` outlives this.
  explicit GrpcDoor(const ModelRegistry* models);
  ~GrpcDoor();

  // Sends all requests at once, each from a thread of its own, and reads them to their ends.
  void Run(const std::vector<v1::GenerateRequest>& requests);

 private:
  LocalFrontend frontend_;
  std::unique_ptr<GenerationService> service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<GenerationClient> client_;
};

}  // namespace kvasir::bench
