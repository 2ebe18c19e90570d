// A request and an answer of vllm.grpc.engine.VllmEngine, translated.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kvasir/v1/generation.pb.h"
#include "neighbours/vllm/engine.pb.h"
#include "server/grpc/neighbours/neighbour_call.h"

namespace kvasir {

// InvalidArgument names what is wrong, or not supported.
absl::StatusOr<NeighbourRequest> ReadEngineRequest(::vllm::grpc::engine::GenerateRequest wanted);

}  // namespace kvasir
