// One Generate call's way out: the sink of its generation's events, each a message to the client.
// How events are gathered, slow readers and cancellation: generation_pump.h.
//
// Owns itself: gRPC's OnDone releases it, and the pump once it has ended. Thread safe between the
// pump and gRPC.
#pragma once

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "kvasir/v1/generation.pb.h"
#include "runtime/engine/token_stream.h"
#include "server/frontend/generation_call.h"
#include "server/frontend/generation_pump.h"
#include "server/frontend/worker_thread.h"

namespace kvasir {

class GenerateReactor final : public grpc::ServerWriteReactor<grpc::ByteBuffer>, public EventSink {
 public:
  // Belongs to itself until OnDone; hand it to gRPC, and call Begin once, from any thread, before
  // or after that. `context` lives until OnDone.
  static std::shared_ptr<GenerateReactor> Make(grpc::CallbackServerContext* context,
                                               std::unique_ptr<GenerationCall> call);

  // Sends initial metadata at once and then the stream's events; or ends the call with the status,
  // whose refusal is reported already. `stream_writer` outlives the call.
  void Begin(absl::StatusOr<std::shared_ptr<TokenStream>> stream, WorkerThread* stream_writer);

  GenerationCall* call() const { return call_.get(); }

  // Called by gRPC.
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  // Called by the pump, never twice at once.
  bool Write(OutputEvent event) override;
  void End(const absl::Status& status, OutputFinished finished) override;

 private:
  GenerateReactor(grpc::CallbackServerContext* context, std::unique_ptr<GenerationCall> call);

  void AddUsageTrailers(const RequestUsage& usage) const;

  grpc::CallbackServerContext* const context_;
  const std::unique_ptr<GenerationCall> call_;
  std::shared_ptr<GenerationPump> pump_;   // set by Begin; null without a stream
  std::shared_ptr<GenerateReactor> self_;  // what keeps it alive until OnDone

  // The pump's side.
  v1::GenerateResponse response_;  // kept for its memory
  grpc::ByteBuffer out_;           // gRPC reads it while a write is in flight
};

}  // namespace kvasir
