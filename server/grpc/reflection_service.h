// gRPC's reflection, version 1: tells clients which services there are and what their messages look
// like. gRPC 1.51 brings v1alpha only, which newer clients no longer ask for first.
//
// Answers from the descriptors that are linked in. Thread safe after SetServices.
#pragma once

#include <string>
#include <vector>

#include "grpc/reflection/v1/reflection.grpc.pb.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/server_callback.h"

namespace kvasir {

class ReflectionService final : public grpc::reflection::v1::ServerReflection::CallbackService {
 public:
  // What list_services names. Before the server starts.
  void SetServices(std::vector<std::string> names) { names_ = std::move(names); }

  // One answer, as the protocol has it: what is unknown is an error inside of it.
  grpc::reflection::v1::ServerReflectionResponse Answer(
      const grpc::reflection::v1::ServerReflectionRequest& question) const;

  grpc::ServerBidiReactor<grpc::reflection::v1::ServerReflectionRequest,
                          grpc::reflection::v1::ServerReflectionResponse>*
  ServerReflectionInfo(grpc::CallbackServerContext* context) override;

 private:
  std::vector<std::string> names_;
};

}  // namespace kvasir
