// The C++ client of kvasird: one channel and the calls of its services, blocking, with streaming
// through a callback.
//
// Owns its channel, which connects on first use and reconnects by itself. Thread safe: any number
// of calls may run at once. Never retries: a status that allows a retry says so (RetryDelay in
// call_error.h), the caller decides.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/client_context.h"
#include "kvasir/v1/admin.grpc.pb.h"
#include "kvasir/v1/generation.grpc.pb.h"
#include "kvasir/v1/session.grpc.pb.h"

namespace kvasir {

// Ends calls from another thread. One canceller may serve many calls, one after the other or at
// once; after Cancel, every call that carries it ends with Cancelled, also those that start later.
// Thread safe; outlives its calls.
class Canceller {
 public:
  void Cancel() ABSL_LOCKS_EXCLUDED(mutex_);
  bool cancelled() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  friend class GenerationClient;
  void Attach(grpc::ClientContext* context) ABSL_LOCKS_EXCLUDED(mutex_);
  void Detach(grpc::ClientContext* context) ABSL_LOCKS_EXCLUDED(mutex_);

  mutable absl::Mutex mutex_;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<grpc::ClientContext*> contexts_ ABSL_GUARDED_BY(mutex_);
};

struct CallOptions {
  // From now to the end of the call; the server obeys it in the queue and while decoding.
  absl::Duration timeout = absl::InfiniteDuration();
  // Sent as x-request-id; empty = the server makes one.
  std::string request_id;
  Canceller* canceller = nullptr;
};

// Everything that a Generate stream delivered, put together.
struct GenerateResult {
  struct Output {
    std::string text;
    std::string reasoning;
    std::vector<v1::ToolCallDelta> tool_calls;  // each whole
    std::vector<int32_t> token_ids;
    std::vector<v1::TokenLogprob> logprobs;  // empty, or one per token id
    v1::Completion end;                      // finish reason and what matched
  };

  v1::Accepted accepted;
  std::vector<v1::TokenLogprob>
      prompt_logprobs;          // of prompt positions 1, 2, ...; empty unless asked for
  std::vector<Output> outputs;  // by index; at least one
  v1::Usage usage;
};

class GenerationClient {
 public:
  struct Options {
    std::string target = "127.0.0.1:50051";
    // Who may call: sent as "authorization: Bearer KEY" with every call; empty = not sent.
    std::string api_key;
    // PEM texts. With ca_certificates the channel is TLS and the server must show a certificate
    // that one of them signed for the target's name; certificate and private_key are the client's
    // own.
    std::string ca_certificates;
    std::string certificate;
    std::string private_key;
    // Pings of an idle connection; the server accepts one every 20 s.
    absl::Duration keepalive_interval = absl::Seconds(30);
    // Largest reply taken. Prompt log-probabilities of a long prompt come in pieces, so the usual
    // limit is enough.
    int max_receive_bytes = 16 << 20;
  };

  // Called for each delta, in the calling thread of Generate; return false to stop, which ends the
  // call with Cancelled.
  using OnDelta = std::function<bool(const v1::Delta&)>;

  // Does not connect.
  explicit GenerationClient(const Options& options);

  // Blocks until the server answers that `service` ("" = the process) is serving. DeadlineExceeded
  // after `timeout`, with the last answer in the message.
  absl::Status WaitUntilServing(const std::string& service, absl::Duration timeout);
  // One question: OK = serving; Unavailable = not serving or not reachable; NotFound = no such
  // service.
  absl::Status CheckHealth(const std::string& service, absl::Duration timeout);

  // Blocks until the stream ended; `on_delta` may be empty. An error is the stream's status, or
  // Cancelled. A stream that ended well but without its Final message is Internal.
  absl::StatusOr<GenerateResult> Generate(const v1::GenerateRequest& request,
                                          const CallOptions& options = {},
                                          const OnDelta& on_delta = nullptr);
  absl::Status Abort(const std::string& request_id, const CallOptions& options = {});

  absl::StatusOr<v1::RenderChatResponse> RenderChat(const v1::RenderChatRequest& request,
                                                    const CallOptions& options = {});
  absl::StatusOr<std::vector<int32_t>> Tokenize(const v1::TokenizeRequest& request,
                                                const CallOptions& options = {});
  absl::StatusOr<std::string> Detokenize(const v1::DetokenizeRequest& request,
                                         const CallOptions& options = {});

  absl::StatusOr<std::vector<v1::Model>> ListModels(const CallOptions& options = {});
  // An empty name is the only model of a daemon that serves one.
  absl::StatusOr<v1::Model> GetModel(const std::string& name, const CallOptions& options = {});

  absl::StatusOr<v1::Session> GetSession(const v1::GetSessionRequest& request,
                                         const CallOptions& options = {});
  absl::StatusOr<v1::ListSessionsResponse> ListSessions(const v1::ListSessionsRequest& request,
                                                        const CallOptions& options = {});
  absl::StatusOr<v1::Session> ForkSession(const v1::ForkSessionRequest& request,
                                          const CallOptions& options = {});
  absl::Status DeleteSession(const v1::DeleteSessionRequest& request,
                             const CallOptions& options = {});

  absl::StatusOr<v1::GetStatsResponse> GetStats(const CallOptions& options = {});
  absl::StatusOr<v1::ListRequestsResponse> ListRequests(const v1::ListRequestsRequest& request,
                                                        const CallOptions& options = {});
  // Both may take long: with `wait`, and to the end of the requests that run.
  absl::StatusOr<v1::LoadModelResponse> LoadModel(const v1::LoadModelRequest& request,
                                                  const CallOptions& options = {});
  absl::StatusOr<v1::UnloadModelResponse> UnloadModel(const v1::UnloadModelRequest& request,
                                                      const CallOptions& options = {});
  absl::Status Drain(const CallOptions& options = {});

 private:
  // Runs one unary method of a stub and maps its status.
  template <typename Stub, typename Request, typename Response>
  absl::StatusOr<Response> Call(Stub* stub,
                                grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                             Response*),
                                const Request& request, const CallOptions& options);

  const std::unique_ptr<v1::GenerationService::Stub> generation_;
  const std::unique_ptr<v1::SessionService::Stub> sessions_;
  const std::unique_ptr<v1::AdminService::Stub> admin_;
  const std::unique_ptr<grpc::health::v1::Health::Stub> health_;

  // Deadline, ids and credential of a call that is about to start.
  void Prepare(const CallOptions& options, grpc::ClientContext* context) const;

  const std::string authorization_;  // value of the metadata; empty = none

  GenerationClient(std::shared_ptr<grpc::Channel> channel, const std::string& api_key);
};

}  // namespace kvasir
