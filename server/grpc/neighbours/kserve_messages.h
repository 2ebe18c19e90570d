// Requests and answers of KServe's protocol, translated. Stateless functions, safe from any thread.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "kvasir/v1/generation.pb.h"
#include "neighbours/inference/grpc_service.pb.h"
#include "runtime/engine/request.h"

namespace kvasir {

struct KserveRequest {
  v1::GenerateRequest message;
  std::string model;  // as asked for
  std::string id;     // of the client, echoed
  std::string echo;   // what stands before the answer: the prompt, if asked for
  bool raw = false;   // tensors come as raw bytes, and so do those of the answer
  bool stream = false;
};

// InvalidArgument names the input or parameter that is wrong, missing or not supported.
absl::StatusOr<KserveRequest> ReadKserveRequest(const ::inference::ModelInferRequest& wanted);

// An answer that holds text. `is_last` goes along as Triton says it.
::inference::ModelInferResponse KserveAnswer(const KserveRequest& request, const std::string& text,
                                             bool is_last);

}  // namespace kvasir
