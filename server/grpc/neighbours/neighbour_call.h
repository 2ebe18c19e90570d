// What the protocols of neighbours share: a generation that another engine's client asked for, from
// its bytes to its answer in that protocol. Everything behind the translation is the front end's:
// the same checks, tenants, quotas, sessions and accounts as for kvasir.v1.
//
//   bytes --NeighbourAnswer's maker--> v1::GenerateRequest --Frontend::Start--> TokenStream
//   OutputEvent --NeighbourAnswer--> the neighbour's messages
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/status_macros.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "kvasir/v1/generation.pb.h"
#include "server/frontend/frontend.h"
#include "server/frontend/generation_pump.h"
#include "server/frontend/text_workers.h"
#include "server/grpc/call_context.h"
#include "server/grpc/wire_message.h"

namespace kvasir {

// Turns one generation's events into messages of a protocol. Used by one thread at a time.
class NeighbourAnswer {
 public:
  virtual ~NeighbourAnswer() = default;
  // Messages that the client gets now; may be none.
  virtual std::vector<grpc::ByteBuffer> OnEvent(OutputEvent event) = 0;
  // The last ones, of a generation that went well. A call with one answer: exactly one.
  virtual std::vector<grpc::ByteBuffer> OnFinished(FinishedEvent finished) = 0;
};

// A generation that was asked for: its request in our own words, and who answers.
struct NeighbourRequest {
  v1::GenerateRequest message;
  std::unique_ptr<NeighbourAnswer> answer;
};
// Reads a call's bytes, on a text worker for `job`. InvalidArgument names what is wrong, or not
// supported.
using ReadNeighbour = std::function<absl::StatusOr<NeighbourRequest>(
    const grpc::ByteBuffer& wire, const Caller& caller, const TextJob& job)>;

// Answers with a stream of messages. `request_id_field`: the number of the message's field with the
// client's own id of the request.
grpc::ServerWriteReactor<grpc::ByteBuffer>* StreamNeighbour(const Frontend& frontend,
                                                            grpc::CallbackServerContext* context,
                                                            const grpc::ByteBuffer& wire,
                                                            int request_id_field,
                                                            const ReadNeighbour& read);

// Answers with one message, when all is there.
grpc::ServerUnaryReactor* AnswerNeighbour(const Frontend& frontend,
                                          grpc::CallbackServerContext* context,
                                          const grpc::ByteBuffer& wire, int request_id_field,
                                          grpc::ByteBuffer* reply, const ReadNeighbour& read);

// Takes messages of one type and says InvalidArgument, by field number, of what the protocol's list
// here does not know: it could change the answer.
absl::Status ParseKnown(const grpc::ByteBuffer& wire, google::protobuf::Message* message);

// "field X is not supported; leave it out", as a bad field.
absl::Status NotSupported(absl::string_view field);

// The prompt's token ids. InvalidArgument names the field when one is no id.
template <typename Ids>
absl::Status FillTokenIds(absl::string_view field, const Ids& ids, v1::GenerateRequest* message) {
  message->mutable_token_ids();
  for (const uint32_t id : ids) {
    if (id > INT32_MAX) return NotSupported(field);
    message->mutable_token_ids()->add_ids(static_cast<int32_t>(id));
  }
  return absl::OkStatus();
}

}  // namespace kvasir
