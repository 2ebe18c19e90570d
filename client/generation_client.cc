#include "client/generation_client.h"

#include <algorithm>
#include <chrono>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "client/call_error.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"

namespace kvasir {
namespace {

// Between two health questions while waiting for a daemon that is starting.
constexpr absl::Duration kHealthPollInterval = absl::Milliseconds(100);

// A longer timeout than this is no deadline at all (and the clock cannot hold it).
constexpr absl::Duration kLongestTimeout = absl::Hours(24 * 365);

// For load balancers, which see headers only: all calls of a session go to the replica that holds
// it. What is no header value is refused by the daemon anyway.
void NameSession(const std::string& session_id, grpc::ClientContext* context) {
  const bool printable = std::all_of(session_id.begin(), session_id.end(),
                                     [](char c) { return c >= ' ' && c <= '~'; });
  if (!session_id.empty() && printable) context->AddMetadata("x-session-id", session_id);
}

void SetDeadline(absl::Duration timeout, grpc::ClientContext* context) {
  if (timeout > kLongestTimeout) return;
  context->set_deadline(std::chrono::system_clock::now() + absl::ToChronoNanoseconds(timeout));
}

// Whether only this machine can be meant: no proxy can reach it for us.
bool IsOnThisMachine(absl::string_view target) {
  for (const char* scheme : {"dns:///", "dns:", "ipv4:", "ipv6:"}) {
    if (absl::ConsumePrefix(&target, scheme)) break;
  }
  return absl::StartsWith(target, "unix:") || absl::StartsWith(target, "unix-abstract:") ||
         absl::StartsWith(target, "127.") || absl::StartsWith(target, "[::1]") ||
         target == "localhost" || absl::StartsWith(target, "localhost:");
}

std::shared_ptr<grpc::Channel> MakeChannel(const GenerationClient::Options& options) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS,
                   absl::ToInt64Milliseconds(options.keepalive_interval));
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20000);
  // A stream may be silent for long while its request waits: pings must go on then too.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetMaxReceiveMessageSize(options.max_receive_bytes);
  // Two clients of one process (tests, load generators) get two connections.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  if (IsOnThisMachine(options.target)) arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::InsecureChannelCredentials();
  if (!options.ca_certificates.empty()) {
    grpc::SslCredentialsOptions tls;
    tls.pem_root_certs = options.ca_certificates;
    tls.pem_cert_chain = options.certificate;
    tls.pem_private_key = options.private_key;
    credentials = grpc::SslCredentials(tls);
  }
  return grpc::CreateCustomChannel(options.target, credentials, arguments);
}

// The API's limit of Sampling.n: a larger index from the wire is cut to it, so that no server makes
// us allocate more.
constexpr int32_t kMaxCompletions = 64;

GenerateResult::Output& OutputAt(int32_t wire_index, std::vector<GenerateResult::Output>* outputs) {
  const size_t index = static_cast<size_t>(std::clamp(wire_index, 0, kMaxCompletions - 1));
  if (outputs->size() <= index) outputs->resize(index + 1);
  return (*outputs)[index];
}

// Adds a delta to its completion.
void Merge(const v1::Delta& delta, std::vector<GenerateResult::Output>* outputs) {
  GenerateResult::Output& output = OutputAt(delta.index(), outputs);
  output.text += delta.text();
  output.reasoning += delta.reasoning();
  for (const v1::ToolCallDelta& call : delta.tool_calls()) {
    // No server makes us allocate for an index: a new one is the next call.
    auto same =
        std::find_if(output.tool_calls.begin(), output.tool_calls.end(),
                     [&](const v1::ToolCallDelta& known) { return known.index() == call.index(); });
    if (same == output.tool_calls.end()) {
      output.tool_calls.push_back(call);
    } else {
      same->mutable_arguments()->append(call.arguments());
    }
  }
  output.token_ids.insert(output.token_ids.end(), delta.token_ids().begin(),
                          delta.token_ids().end());
  output.logprobs.insert(output.logprobs.end(), delta.logprobs().begin(), delta.logprobs().end());
}

void Merge(const v1::Final& last, GenerateResult* result) {
  result->usage = last.usage();
  for (const v1::Completion& completion : last.completions()) {
    OutputAt(completion.index(), &result->outputs).end = completion;
  }
}

}  // namespace

void Canceller::Cancel() {
  absl::MutexLock lock(&mutex_);
  cancelled_ = true;
  for (grpc::ClientContext* context : contexts_) context->TryCancel();
}

bool Canceller::cancelled() const {
  absl::MutexLock lock(&mutex_);
  return cancelled_;
}

void Canceller::Attach(grpc::ClientContext* context) {
  absl::MutexLock lock(&mutex_);
  contexts_.push_back(context);
  // TryCancel before the call starts is allowed: the call then ends at once.
  if (cancelled_) context->TryCancel();
}

void Canceller::Detach(grpc::ClientContext* context) {
  absl::MutexLock lock(&mutex_);
  contexts_.erase(std::remove(contexts_.begin(), contexts_.end(), context), contexts_.end());
}

GenerationClient::GenerationClient(const Options& options)
    : GenerationClient(MakeChannel(options), options.api_key) {}

GenerationClient::GenerationClient(std::shared_ptr<grpc::Channel> channel,
                                   const std::string& api_key)
    : generation_(v1::GenerationService::NewStub(channel)),
      sessions_(v1::SessionService::NewStub(channel)),
      admin_(v1::AdminService::NewStub(channel)),
      health_(grpc::health::v1::Health::NewStub(channel)),
      authorization_(api_key.empty() ? "" : absl::StrCat("Bearer ", api_key)) {}

void GenerationClient::Prepare(const CallOptions& options, grpc::ClientContext* context) const {
  SetDeadline(options.timeout, context);
  if (!options.request_id.empty()) context->AddMetadata("x-request-id", options.request_id);
  if (!authorization_.empty()) context->AddMetadata("authorization", authorization_);
}

template <typename Stub, typename Request, typename Response>
absl::StatusOr<Response> GenerationClient::Call(
    Stub* stub, grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
    const Request& request, const CallOptions& options) {
  grpc::ClientContext context;
  Prepare(options, &context);
  if constexpr (requires { request.session_id(); }) NameSession(request.session_id(), &context);
  if (options.canceller != nullptr) options.canceller->Attach(&context);
  Response response;
  const grpc::Status status = (stub->*method)(&context, request, &response);
  if (options.canceller != nullptr) options.canceller->Detach(&context);
  if (!status.ok()) return StatusFromCall(status);
  return response;
}

absl::Status GenerationClient::CheckHealth(const std::string& service, absl::Duration timeout) {
  grpc::health::v1::HealthCheckRequest request;
  request.set_service(service);
  CallOptions options;
  options.timeout = timeout;
  const auto response =
      Call(health_.get(), &grpc::health::v1::Health::Stub::Check, request, options);
  if (!response.ok()) return response.status();
  if (response->status() == grpc::health::v1::HealthCheckResponse::SERVING) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("the server says that ", service.empty() ? "it" : service, " is ",
                   grpc::health::v1::HealthCheckResponse::ServingStatus_Name(response->status()),
                   ": it is loading or draining"));
}

absl::Status GenerationClient::WaitUntilServing(const std::string& service,
                                                absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  absl::Status last = absl::OkStatus();
  do {
    // A question of its own limit, so that a server which accepts and never answers is asked again.
    last = CheckHealth(
        service, std::min(absl::Seconds(2), std::max(deadline - absl::Now(), kHealthPollInterval)));
    if (last.ok()) return last;
    absl::SleepFor(kHealthPollInterval);
  } while (absl::Now() < deadline);
  return absl::DeadlineExceededError(absl::StrCat(
      "not serving within ", absl::FormatDuration(timeout), "; last answer: ", last.message()));
}

absl::StatusOr<GenerateResult> GenerationClient::Generate(const v1::GenerateRequest& request,
                                                          const CallOptions& options,
                                                          const OnDelta& on_delta) {
  grpc::ClientContext context;
  Prepare(options, &context);
  NameSession(request.session_id(), &context);
  if (options.canceller != nullptr) options.canceller->Attach(&context);

  GenerateResult result;
  result.outputs.resize(1);
  bool has_final = false;
  bool stopped_by_caller = false;
  const auto reader = generation_->Generate(&context, request);
  v1::GenerateResponse response;
  while (reader->Read(&response)) {
    switch (response.event_case()) {
      case v1::GenerateResponse::kAccepted:
        result.accepted = response.accepted();
        break;
      case v1::GenerateResponse::kPromptLogprobs:
        result.prompt_logprobs.insert(result.prompt_logprobs.end(),
                                      response.prompt_logprobs().tokens().begin(),
                                      response.prompt_logprobs().tokens().end());
        break;
      case v1::GenerateResponse::kDelta:
        Merge(response.delta(), &result.outputs);
        if (!stopped_by_caller && on_delta && !on_delta(response.delta())) {
          stopped_by_caller = true;
          context.TryCancel();
        }
        break;
      case v1::GenerateResponse::kFinal:
        Merge(response.final(), &result);
        has_final = true;
        break;
      case v1::GenerateResponse::EVENT_NOT_SET:
        break;  // an event of a newer server
    }
  }
  const grpc::Status status = reader->Finish();
  if (options.canceller != nullptr) options.canceller->Detach(&context);
  // A stop that came after the last message cancels nothing any more, but the caller asked for it.
  if (stopped_by_caller) return absl::CancelledError("stopped by the caller");
  if (!status.ok()) return StatusFromCall(status);
  if (!has_final) return absl::InternalError("the stream ended without its final message");
  return result;
}

absl::Status GenerationClient::Abort(const std::string& request_id, const CallOptions& options) {
  v1::AbortRequest request;
  request.set_request_id(request_id);
  return Call(generation_.get(), &v1::GenerationService::Stub::Abort, request, options).status();
}

absl::StatusOr<v1::RenderChatResponse> GenerationClient::RenderChat(
    const v1::RenderChatRequest& request, const CallOptions& options) {
  return Call(generation_.get(), &v1::GenerationService::Stub::RenderChat, request, options);
}

absl::StatusOr<std::vector<int32_t>> GenerationClient::Tokenize(const v1::TokenizeRequest& request,
                                                                const CallOptions& options) {
  auto response = Call(generation_.get(), &v1::GenerationService::Stub::Tokenize, request, options);
  if (!response.ok()) return response.status();
  return std::vector<int32_t>(response->token_ids().begin(), response->token_ids().end());
}

absl::StatusOr<std::string> GenerationClient::Detokenize(const v1::DetokenizeRequest& request,
                                                         const CallOptions& options) {
  auto response =
      Call(generation_.get(), &v1::GenerationService::Stub::Detokenize, request, options);
  if (!response.ok()) return response.status();
  return std::move(*response->mutable_text());
}

absl::StatusOr<std::vector<v1::Model>> GenerationClient::ListModels(const CallOptions& options) {
  auto response = Call(generation_.get(), &v1::GenerationService::Stub::ListModels,
                       v1::ListModelsRequest(), options);
  if (!response.ok()) return response.status();
  return std::vector<v1::Model>(response->models().begin(), response->models().end());
}

absl::StatusOr<v1::Model> GenerationClient::GetModel(const std::string& name,
                                                     const CallOptions& options) {
  v1::GetModelRequest request;
  request.set_name(name);
  return Call(generation_.get(), &v1::GenerationService::Stub::GetModel, request, options);
}

absl::StatusOr<v1::Session> GenerationClient::GetSession(const v1::GetSessionRequest& request,
                                                         const CallOptions& options) {
  return Call(sessions_.get(), &v1::SessionService::Stub::GetSession, request, options);
}

absl::StatusOr<v1::ListSessionsResponse> GenerationClient::ListSessions(
    const v1::ListSessionsRequest& request, const CallOptions& options) {
  return Call(sessions_.get(), &v1::SessionService::Stub::ListSessions, request, options);
}

absl::StatusOr<v1::Session> GenerationClient::ForkSession(const v1::ForkSessionRequest& request,
                                                          const CallOptions& options) {
  return Call(sessions_.get(), &v1::SessionService::Stub::ForkSession, request, options);
}

absl::Status GenerationClient::DeleteSession(const v1::DeleteSessionRequest& request,
                                             const CallOptions& options) {
  return Call(sessions_.get(), &v1::SessionService::Stub::DeleteSession, request, options).status();
}

absl::StatusOr<v1::GetStatsResponse> GenerationClient::GetStats(const CallOptions& options) {
  return Call(admin_.get(), &v1::AdminService::Stub::GetStats, v1::GetStatsRequest(), options);
}

absl::StatusOr<v1::ListRequestsResponse> GenerationClient::ListRequests(
    const v1::ListRequestsRequest& request, const CallOptions& options) {
  return Call(admin_.get(), &v1::AdminService::Stub::ListRequests, request, options);
}

absl::StatusOr<v1::LoadModelResponse> GenerationClient::LoadModel(
    const v1::LoadModelRequest& request, const CallOptions& options) {
  return Call(admin_.get(), &v1::AdminService::Stub::LoadModel, request, options);
}

absl::StatusOr<v1::UnloadModelResponse> GenerationClient::UnloadModel(
    const v1::UnloadModelRequest& request, const CallOptions& options) {
  return Call(admin_.get(), &v1::AdminService::Stub::UnloadModel, request, options);
}

absl::Status GenerationClient::Drain(const CallOptions& options) {
  return Call(admin_.get(), &v1::AdminService::Stub::Drain, v1::DrainRequest(), options).status();
}

}  // namespace kvasir
