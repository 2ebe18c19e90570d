#include "tests/bench/grpc_door.h"

#include <chrono>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"
#include "tests/bench/engine_under_test.h"

namespace kvasir::bench {

GrpcDoor::GrpcDoor(const ModelRegistry* models) {
  service_ = std::make_unique<GenerationService>(frontend_.EnvironmentOf(models));
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(service_.get());
  server_ = builder.BuildAndStart();
  if (server_ == nullptr) Die("no gRPC server on 127.0.0.1");
  GenerationClient::Options options;
  options.target = absl::StrCat("127.0.0.1:", port);
  client_ = std::make_unique<GenerationClient>(options);
}

GrpcDoor::~GrpcDoor() { server_->Shutdown(std::chrono::system_clock::now()); }

void GrpcDoor::Run(const std::vector<v1::GenerateRequest>& requests) {
  std::vector<std::thread> readers;
  for (const v1::GenerateRequest& request : requests) {
    readers.emplace_back([this, &request] {
      const auto result = client_->Generate(request);
      if (!result.ok()) Die(std::string(result.status().message()));
    });
  }
  for (std::thread& reader : readers) reader.join();
}

}  // namespace kvasir::bench
