// The way of every request into an engine, whatever door it came by: who calls, may it come in, is
// it in order, is there room, and then tokens, engine and a stream of events. Front ends (gRPC,
// HTTP) turn their wire into these calls and pump the stream into their own sink
// (generation_pump.h).
//
// A generation passes, on the thread that brought it: Begin -> Enter (credentials, draining); then
// on a text worker: the front end parses -> Start (model -> fields and sizes -> admission ->
// tokenising -> Engine::Submit). Judge takes it all this way. Whatever refuses it goes through
// Refuse. Only after Start does it own anything.
//
// Thread safe. Borrows the environment.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "kvasir/v1/generation.pb.h"
#include "runtime/engine/token_stream.h"
#include "server/frontend/generation_call.h"
#include "server/frontend/service_environment.h"
#include "server/frontend/text_workers.h"
#include "server/identity/credentials.h"

namespace kvasir {

class Frontend {
 public:
  explicit Frontend(const ServiceEnvironment& environment) : environment_(environment) {}

  // A new call. `wanted_request_id`: what the client sent, checked later; from Judge on Abort()
  // finds the call by it.
  std::unique_ptr<GenerationCall> Begin(absl::string_view wanted_request_id,
                                        absl::Time deadline) const;

  // Who calls; fills in the call's tenant. Unauthenticated, or Unavailable while draining.
  absl::StatusOr<Caller> Enter(const CredentialSource& credentials, GenerationCall* call) const;

  // From a call that has begun to its stream. Enters it, and has `start`, which ends with Start(),
  // called on a text worker; `bytes`: of all that is to be read. Then `begun` gets the stream or
  // what the client is told instead, reported and set as the outcome: exactly once, from any
  // thread, maybe before this returns. The call lives until then; its Cancel() ends all of it.
  using StartCall = std::function<absl::StatusOr<std::shared_ptr<TokenStream>>(const Caller& caller,
                                                                               const TextJob& job)>;
  using Begun = std::function<void(absl::StatusOr<std::shared_ptr<TokenStream>>)>;
  void Judge(const CredentialSource& credentials, size_t bytes, GenerationCall* call,
             StartCall start, Begun begun) const;

  // All of a request up to its stream, which the call has then; fills in the call's model and
  // request id. Takes time in proportion to the prompt: for a text worker, whose `job` may end it.
  // `wanted_request_id` counts where the message has none.
  absl::StatusOr<std::shared_ptr<TokenStream>> Start(v1::GenerateRequest message,
                                                     const Caller& caller,
                                                     absl::string_view wanted_request_id,
                                                     const TextJob& job,
                                                     GenerationCall* call) const;

  // The refusal of Enter, of the front end's own parser or of Start: counted with its reason (but
  // not when the client left or its time was over), set as the call's outcome, and returned.
  static absl::Status Refuse(absl::Status status, GenerationCall* call);

  // What the pump's sink was told at its end becomes the call's outcome.
  static void Finish(const absl::Status& status, GenerationCall* call);

  // --- calls without a stream; the errors are those of the API ---

  // These three take time in proportion to the text: for a text worker.
  absl::StatusOr<v1::RenderChatResponse> RenderChat(const v1::RenderChatRequest& wanted,
                                                    const Caller& caller, const TextJob& job) const;
  absl::StatusOr<v1::TokenizeResponse> Tokenize(const v1::TokenizeRequest& wanted,
                                                const Caller& caller, const TextJob& job) const;
  absl::StatusOr<v1::DetokenizeResponse> Detokenize(const v1::DetokenizeRequest& wanted,
                                                    const Caller& caller) const;
  // Models of every state, in order of name.
  v1::ListModelsResponse ListModels(const Caller& caller) const;
  absl::StatusOr<v1::Model> GetModel(const v1::GetModelRequest& wanted, const Caller& caller) const;
  // Waits for an engine thread, at most a step: for the query worker.
  absl::StatusOr<v1::AbortResponse> Abort(const v1::AbortRequest& wanted,
                                          const Caller& caller) const;

  const ServiceEnvironment& environment() const { return environment_; }

 private:
  absl::StatusOr<std::shared_ptr<TokenStream>> StartOn(
      const ServedModel& model, v1::GenerateRequest message, const Caller& caller,
      absl::string_view wanted_request_id, const TextJob& job, GenerationCall* call) const;

  const ServiceEnvironment environment_;
};

}  // namespace kvasir
