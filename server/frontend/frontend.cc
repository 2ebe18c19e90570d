#include "server/frontend/frontend.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "base/check.h"
#include "base/quoted.h"
#include "base/status_macros.h"
#include "runtime/engine/refusal.h"
#include "server/frontend/model_description.h"
#include "server/frontend/request_errors.h"
#include "server/frontend/request_id.h"
#include "server/frontend/validation/request_validation.h"

namespace kvasir {
namespace {

ModelLimits LimitsOf(const ServedModel& served, const Caller& caller) {
  const EngineConfig& config = served.engine->config();
  return {.spec = &served.model->spec(),
          .max_context_tokens = config.max_context_tokens,
          .max_running = config.max_running,
          .default_max_tokens = served.default_max_tokens,
          .attention = caller.config() == nullptr
                           ? served.attention
                           : ForTenant(served.attention, caller.config()->attention),
          .speculation = served.speculation,
          .chat_template = served.chat_template.get(),
          .template_time = served.template_time,
          .response_format = served.response_format.get(),
          .response_markers = served.response_markers};
}

absl::StatusOr<std::unique_ptr<TokenMatcher>> CompileConstraint(Constraint constraint,
                                                                absl::Time deadline,
                                                                GrammarCompiler* grammars) {
  const char* const field = constraint.kind == Constraint::Kind::kToolCalls ? "messages.tool_choice"
                                                                            : "sampling.constraint";
  absl::StatusOr<std::unique_ptr<TokenMatcher>> matcher =
      grammars->Compile(std::move(constraint), deadline);
  if (absl::IsInvalidArgument(matcher.status())) {
    return BadFieldError(field, matcher.status().message());
  }
  if (absl::IsResourceExhausted(matcher.status())) {
    return RefusalError({.reason = RefusalReason::kQueueFull,
                         .limit = "grammar.max_waiting",
                         .retry_after = absl::Seconds(1)},
                        absl::StrCat(field, ": ", matcher.status().message()));
  }
  return matcher;
}

}  // namespace

std::unique_ptr<GenerationCall> Frontend::Begin(absl::string_view wanted_request_id,
                                                absl::Time deadline) const {
  return std::make_unique<GenerationCall>(environment_.observer, RequestIdOrNew(wanted_request_id),
                                          deadline);
}

absl::StatusOr<Caller> Frontend::Enter(const CredentialSource& credentials,
                                       GenerationCall* call) const {
  KVASIR_ASSIGN_OR_RETURN(Caller caller, environment_.authenticator->Identify(credentials));
  call->tenant = caller.tenant();
  if (environment_.draining->load()) {
    return DrainingError();
  }
  return caller;
}

void Frontend::Judge(const CredentialSource& credentials, size_t bytes, GenerationCall* call,
                     StartCall start, Begun begun) const {
  absl::StatusOr<Caller> entered = Enter(credentials, call);
  if (!entered.ok()) return begun(Refuse(entered.status(), call));
  const std::shared_ptr<TextJob> job =
      environment_.text_workers->NewJob(call->tenant, bytes, call->deadline, call->request_id);
  call->SetJob(job);
  environment_.text_workers->Post(job, [call, caller = *std::move(entered),
                                        start = std::move(start), begun = std::move(begun)](
                                           const absl::Status& turn, const TextJob& its_job) {
    absl::StatusOr<std::shared_ptr<TokenStream>> stream = turn.ok() ? start(caller, its_job) : turn;
    if (!stream.ok()) stream = Refuse(stream.status(), call);
    begun(std::move(stream));
  });
}

absl::StatusOr<std::shared_ptr<TokenStream>> Frontend::Start(v1::GenerateRequest message,
                                                             const Caller& caller,
                                                             absl::string_view wanted_request_id,
                                                             const TextJob& job,
                                                             GenerationCall* call) const {
  KVASIR_ASSIGN_OR_RETURN(const ServedModelRef served,
                          environment_.models->Find(message.model(), caller));
  auto stream = StartOn(*served, std::move(message), caller, wanted_request_id, job, call);
  // Its engine knows of nothing but draining.
  const std::optional<Refusal> refusal = RefusalOf(stream.status());
  if (refusal && refusal->reason == RefusalReason::kDraining && served->unloading.load()) {
    return UnloadingError(served->name);
  }
  return stream;
}

absl::StatusOr<std::shared_ptr<TokenStream>> Frontend::StartOn(
    const ServedModel& model, v1::GenerateRequest message, const Caller& caller,
    absl::string_view wanted_request_id, const TextJob& job, GenerationCall* call) const {
  const ServedModel* const served = &model;
  call->model = served->name;
  call->tokenizer = served->tokenizer;
  call->response_format = served->response_format;

  const ModelLimits limits = LimitsOf(*served, caller);
  KVASIR_ASSIGN_OR_RETURN(CheckedRequest checked,
                          CheckGenerateRequest(std::move(message), limits, wanted_request_id));
  call->request_id = checked.request.id;
  KVASIR_ASSIGN_OR_RETURN(Engine::Ticket ticket,
                          served->engine->Admit({.tenant = call->tenant,
                                                 .prompt_tokens = checked.prompt_tokens_estimate,
                                                 .max_tokens = checked.request.stopping.max_tokens,
                                                 .n = checked.request.n}));
  checked.request.deadline = call->deadline;
  std::optional<Constraint> constraint = std::move(checked.constraint);
  absl::StatusOr<GenerationRequest> encoded =
      EncodePrompt(std::move(checked), *served->tokenizer, limits, &call->reader,
                   [&job] { return job.cancelled(); });
  if (job.cancelled()) return job.reason();
  KVASIR_ASSIGN_OR_RETURN(GenerationRequest request, std::move(encoded));
  if (constraint.has_value()) {
    // Calls come after the reasoning that the prompt has opened.
    if (constraint->kind == Constraint::Kind::kToolCalls && call->reader != nullptr) {
      constraint->after = std::string(call->reader->reasoning_end());
    }
    KVASIR_ASSIGN_OR_RETURN(
        request.grammar,
        CompileConstraint(*std::move(constraint), call->deadline, served->grammars.get()));
  }
  request.tenant = call->tenant;
  request.arrival = call->arrival;
  if (job.cancelled()) return job.reason();
  KVASIR_ASSIGN_OR_RETURN(std::shared_ptr<TokenStream> stream,
                          served->engine->Submit(std::move(ticket), std::move(request)));
  // An Abort() that came before this cancelled the job alone; one that comes later finds the
  // request in the engine.
  if (job.cancelled()) {
    stream->Cancel();
    return job.reason();
  }
  call->SetStream(stream);
  return stream;
}

absl::Status Frontend::Refuse(absl::Status status, GenerationCall* call) {
  KVASIR_CHECK(!status.ok());
  if (!absl::IsCancelled(status) && !absl::IsDeadlineExceeded(status)) call->ReportRefusal(status);
  call->SetOutcome(status);
  return status;
}

void Frontend::Finish(const absl::Status& status, GenerationCall* call) {
  if (RefusalOf(status)) call->ReportRefusal(status);
  call->SetOutcome(status);
}

absl::StatusOr<v1::RenderChatResponse> Frontend::RenderChat(const v1::RenderChatRequest& wanted,
                                                            const Caller& caller,
                                                            const TextJob& job) const {
  KVASIR_ASSIGN_OR_RETURN(const ServedModelRef served,
                          environment_.models->Find(wanted.model(), caller));
  KVASIR_ASSIGN_OR_RETURN(const std::string conversation, ConversationJson(wanted.messages()));
  KVASIR_ASSIGN_OR_RETURN(ChatTemplate::Prompt prompt,
                          RenderConversation(conversation, LimitsOf(*served, caller)));
  const absl::StatusOr<std::vector<TokenId>> ids =
      served->tokenizer->Encode(prompt.text, {.add_special_tokens = false,
                                              .parse_special_tokens = true,
                                              .plain = std::move(prompt.plain),
                                              .cancelled = [&job] { return job.cancelled(); }});
  if (absl::IsCancelled(ids.status())) return job.reason();
  if (absl::IsInvalidArgument(ids.status())) {
    return BadFieldError("messages", ids.status().message());
  }
  KVASIR_RETURN_IF_ERROR(ids.status());
  v1::RenderChatResponse answer;
  answer.mutable_token_ids()->Add(ids->begin(), ids->end());
  answer.set_text(std::move(prompt.text));
  return answer;
}

absl::StatusOr<v1::TokenizeResponse> Frontend::Tokenize(const v1::TokenizeRequest& wanted,
                                                        const Caller& caller,
                                                        const TextJob& job) const {
  KVASIR_ASSIGN_OR_RETURN(const ServedModelRef served,
                          environment_.models->Find(wanted.model(), caller));
  Tokenizer::EncodeOptions options;
  if (wanted.has_add_special_tokens()) options.add_special_tokens = wanted.add_special_tokens();
  options.parse_special_tokens = wanted.parse_special_tokens();
  options.cancelled = [&job] { return job.cancelled(); };
  const absl::StatusOr<std::vector<TokenId>> ids =
      served->tokenizer->Encode(wanted.text(), options);
  if (absl::IsCancelled(ids.status())) return job.reason();
  if (absl::IsInvalidArgument(ids.status())) return BadFieldError("text", ids.status().message());
  KVASIR_RETURN_IF_ERROR(ids.status());
  v1::TokenizeResponse answer;
  answer.mutable_token_ids()->Add(ids->begin(), ids->end());
  return answer;
}

absl::StatusOr<v1::DetokenizeResponse> Frontend::Detokenize(const v1::DetokenizeRequest& wanted,
                                                            const Caller& caller) const {
  KVASIR_ASSIGN_OR_RETURN(const ServedModelRef served,
                          environment_.models->Find(wanted.model(), caller));
  absl::StatusOr<std::string> text = served->tokenizer->Decode(
      absl::MakeConstSpan(wanted.token_ids().data(), wanted.token_ids_size()),
      wanted.skip_special_tokens());
  if (absl::IsInvalidArgument(text.status())) {
    return BadFieldError("token_ids", text.status().message());
  }
  KVASIR_RETURN_IF_ERROR(text.status());
  v1::DetokenizeResponse answer;
  answer.set_text(*std::move(text));
  return answer;
}

v1::ListModelsResponse Frontend::ListModels(const Caller& caller) const {
  v1::ListModelsResponse answer;
  for (const ModelEntry& entry : environment_.models->Entries(caller)) {
    *answer.add_models() = DescribeEntry(entry);
  }
  return answer;
}

absl::StatusOr<v1::Model> Frontend::GetModel(const v1::GetModelRequest& wanted,
                                             const Caller& caller) const {
  KVASIR_ASSIGN_OR_RETURN(const ModelEntry entry,
                          environment_.models->Describe(wanted.name(), caller));
  return DescribeEntry(entry);
}

absl::StatusOr<v1::AbortResponse> Frontend::Abort(const v1::AbortRequest& wanted,
                                                  const Caller& caller) const {
  if (!IsRequestId(wanted.request_id())) {
    return BadFieldError("request_id", absl::StrCat(Quoted(wanted.request_id()),
                                                    " is not a request id; send that of Accepted"));
  }
  // What is being read may get into an engine all the same: those are asked after it.
  bool found = environment_.text_workers->Cancel(caller.tenant(), wanted.request_id(),
                                                 absl::CancelledError("aborted by request"));
  // The id does not tell the model: ask them all.
  for (const ServedModelRef& served : environment_.models->All()) {
    const absl::Status status = served->engine->Abort(caller.tenant(), wanted.request_id());
    if (!status.ok() && !absl::IsNotFound(status)) return status;
    found = found || status.ok();
    if (status.ok()) break;
  }
  if (found) return v1::AbortResponse();
  return absl::NotFoundError(absl::StrCat("no request ",
                                          Quoted(wanted.request_id(), kMaxRequestIdBytes),
                                          " is waiting or running; it may have ended"));
}

}  // namespace kvasir
