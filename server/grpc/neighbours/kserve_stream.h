// One ModelStreamInfer call: requests that come while others are answered wait in the connection,
// and each is answered in turn, a failed one with an error message in the stream.
#pragma once

#include "grpcpp/server_context.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "server/frontend/frontend.h"

namespace kvasir {

// The result belongs to itself. `frontend` outlives it.
grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* ServeKserveStream(
    const Frontend& frontend, grpc::CallbackServerContext* context);

}  // namespace kvasir
