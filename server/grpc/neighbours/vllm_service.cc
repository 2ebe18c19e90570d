#include "server/grpc/neighbours/vllm_service.h"

#include <algorithm>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "server/frontend/request_errors.h"
#include "server/frontend/request_id.h"
#include "server/grpc/neighbours/neighbour_call.h"
#include "server/grpc/unary_call.h"

namespace kvasir {
namespace {

// What vLLM makes of max_new_tokens = 0.
constexpr uint32_t kDefaultMaxTokens = 20;
// Of kvasir.v1's priority.
constexpr int32_t kMaxPriority = 100;

absl::Status FillSampling(const ::vllm::GenerateRequest& wanted, v1::Sampling* sampling) {
  if (wanted.has_temperature()) sampling->set_temperature(wanted.temperature());
  if (wanted.has_sampling()) {
    const ::vllm::SamplingParams& from = wanted.sampling();
    if (from.num_sequences() > 64) {
      return BadFieldError("sampling.num_sequences", "is more than the 64 that one call may have");
    }
    if (from.num_sequences() > 0) sampling->set_n(static_cast<int32_t>(from.num_sequences()));
    sampling->set_top_k(static_cast<int32_t>(std::min<uint32_t>(from.top_k(), INT32_MAX)));
    sampling->set_top_p(from.top_p() == 0 ? 1 : from.top_p());
    sampling->set_min_p(from.min_p());
    if (from.has_seed()) sampling->set_seed(from.seed());
  }
  if (!wanted.has_decoding()) return absl::OkStatus();
  const ::vllm::DecodingParams& from = wanted.decoding();
  if (!from.allowed_token_ids().empty()) return NotSupported("decoding.allowed_token_ids");
  if (from.structured_output_case() != ::vllm::DecodingParams::STRUCTURED_OUTPUT_NOT_SET) {
    return NotSupported("decoding.structured_output");
  }
  sampling->set_presence_penalty(from.presence_penalty());
  sampling->set_frequency_penalty(from.frequency_penalty());
  if (from.repetition_penalty() != 0) sampling->set_repetition_penalty(from.repetition_penalty());
  for (const auto& [id, bias] : from.logit_bias()) {
    if (id > INT32_MAX)
      return BadFieldError("decoding.logit_bias", "has a key that is no token id");
    (*sampling->mutable_logit_bias())[static_cast<int32_t>(id)] = bias;
  }
  return absl::OkStatus();
}

absl::Status FillStopping(const ::vllm::StoppingParams& from, v1::Stopping* stopping) {
  const uint32_t most = from.max_new_tokens() == 0 ? kDefaultMaxTokens : from.max_new_tokens();
  stopping->set_max_tokens(static_cast<int32_t>(std::min<uint32_t>(most, INT32_MAX)));
  stopping->set_min_tokens(
      static_cast<int32_t>(std::min<uint32_t>(from.min_new_tokens(), INT32_MAX)));
  *stopping->mutable_stop() = from.stop_strings();
  for (const uint32_t id : from.stop_token_ids()) {
    if (id > INT32_MAX) return BadFieldError("stopping.stop_token_ids", "has one that is no id");
    stopping->add_stop_token_ids(static_cast<int32_t>(id));
  }
  stopping->set_ignore_eos(from.ignore_eos());
  return absl::OkStatus();
}

// What is refused because leaving it out would change the answer.
absl::Status CheckSupported(const ::vllm::GenerateRequest& wanted) {
  const ::vllm::ResponseOptions& response = wanted.response();
  const ::vllm::KvOptions& kv = wanted.kv();
  const std::pair<bool, const char*> unsupported[] = {
      {!response.prompt_candidates().empty(), "response.prompt_candidates"},
      {!response.output_candidates().empty(), "response.output_candidates"},
      {kv.bypass_prefix_cache(), "kv.bypass_prefix_cache"},
      {!kv.kv_transfer_params().empty(), "kv.kv_transfer_params"},
      {!kv.ec_transfer_params().empty(), "kv.ec_transfer_params"},
      {wanted.truncate_prompt_tokens() != 0, "truncate_prompt_tokens"},
      {wanted.media_size() > 0, "media"},
      {!wanted.lora_name().empty(), "lora_name"},
  };
  for (const auto& [is_set, field] : unsupported) {
    if (is_set) return NotSupported(field);
  }
  return absl::OkStatus();
}

struct Wanted {
  ::vllm::ResponseOptions response;
  bool include_stop_strings = false;
  std::vector<int32_t> prompt_ids;  // only if asked for
  uint32_t eos_token_id = 0;
};

class Answer final : public NeighbourAnswer {
 public:
  // `streams`: messages as tokens come; else all of it in one.
  Answer(Wanted wanted, bool streams) : wanted_(std::move(wanted)), streams_(streams) {}

  std::vector<grpc::ByteBuffer> OnEvent(OutputEvent event) override {
    if (auto* accepted = std::get_if<AcceptedEvent>(&event)) {
      info_.set_num_prompt_tokens(static_cast<uint32_t>(accepted->prompt_tokens));
      for (const int32_t id : wanted_.prompt_ids) info_.add_token_ids(static_cast<uint32_t>(id));
      return {};
    }
    if (auto* logprobs = std::get_if<PromptLogprobsEvent>(&event)) {
      for (const TokenLogprob& token : logprobs->tokens) info_.add_logprobs(token.logprob);
      return {};
    }
    auto* delta = std::get_if<OutputDelta>(&event);
    if (delta == nullptr) return {};
    ::vllm::GenerateResponse message;
    FillDelta(std::move(*delta), OutputOf(delta->index, &message));
    if (!streams_) return {};
    AddInfo(&message);
    return {SerializeWire(message)};
  }

  std::vector<grpc::ByteBuffer> OnFinished(FinishedEvent finished) override {
    ::vllm::GenerateResponse message;
    for (const CompletionResult& result : finished.completions) {
      FillEnd(result, OutputOf(result.index, &message));
    }
    if (!streams_) message = std::move(whole_);
    AddInfo(&message);
    return {SerializeWire(message)};
  }

 private:
  // Where a completion's next piece goes: into this message, or into the one of all.
  ::vllm::Output* OutputOf(int32_t index, ::vllm::GenerateResponse* message) {
    ::vllm::GenerateResponse* const into = streams_ ? message : &whole_;
    for (::vllm::Output& output : *into->mutable_outputs()) {
      if (output.index() == static_cast<uint32_t>(index)) return &output;
    }
    ::vllm::Output* const output = into->add_outputs();
    output->set_index(static_cast<uint32_t>(index));
    return output;
  }

  void AddInfo(::vllm::GenerateResponse* message) {
    if (std::exchange(info_sent_, true)) return;
    *message->mutable_prompt_info() = std::move(info_);
  }

  void FillDelta(DeltaEvent delta, ::vllm::Output* output) const {
    const bool text = !wanted_.response.has_output_text() || wanted_.response.output_text();
    if (text) output->mutable_text()->append(delta.text);
    output->set_num_tokens(output->num_tokens() + static_cast<uint32_t>(delta.tokens.size()));
    if (wanted_.response.output_token_ids()) {
      for (const TokenId id : delta.tokens) output->add_token_ids(static_cast<uint32_t>(id));
    }
    for (const TokenLogprob& token : delta.logprobs) output->add_logprobs(token.logprob);
  }

  void FillEnd(const CompletionResult& result, ::vllm::Output* output) const {
    ::vllm::FinishInfo* const info = output->mutable_finish_info();
    info->set_num_output_tokens(static_cast<uint32_t>(result.completion_tokens));
    switch (result.reason) {
      case FinishReason::kEos:
        info->set_finish_reason(::vllm::FinishInfo::STOP);
        info->set_eos_token_id(wanted_.eos_token_id);
        break;
      case FinishReason::kStop:
        info->set_finish_reason(::vllm::FinishInfo::STOP);
        if (result.stop_token) {
          info->set_stop_token_id(static_cast<uint32_t>(*result.stop_token));
        } else {
          info->set_stop_string(result.stop_string);
          if (wanted_.include_stop_strings) output->mutable_text()->append(result.stop_string);
        }
        break;
      case FinishReason::kGrammar:
      case FinishReason::kToolCalls:
        info->set_finish_reason(::vllm::FinishInfo::STOP);
        break;
      case FinishReason::kLength:
      case FinishReason::kContextFull:
        info->set_finish_reason(::vllm::FinishInfo::LENGTH);
        break;
      case FinishReason::kCancelled:
        info->set_finish_reason(::vllm::FinishInfo::ABORTED);
        break;
    }
  }

  const Wanted wanted_;
  const bool streams_;
  ::vllm::PromptInfo info_;
  bool info_sent_ = false;
  ::vllm::GenerateResponse whole_;  // not streams_
};

absl::StatusOr<NeighbourRequest> Read(const Frontend& frontend, const grpc::ByteBuffer& wire,
                                      const Caller& caller, const TextJob& job, bool streams) {
  ::vllm::GenerateRequest wanted;
  KVASIR_RETURN_IF_ERROR(ParseKnown(wire, &wanted));
  KVASIR_RETURN_IF_ERROR(CheckSupported(wanted));
  KVASIR_ASSIGN_OR_RETURN(const ServedModelRef served,
                          frontend.environment().models->Find(wanted.model(), caller));
  NeighbourRequest request;
  v1::GenerateRequest& message = request.message;
  message.set_model(wanted.model());
  message.set_request_id(wanted.request_id());
  if (wanted.has_session_id()) message.set_session_id(wanted.session_id());
  message.set_cache_salt(wanted.kv().cache_salt());
  message.set_priority(-std::clamp(wanted.priority(), -kMaxPriority, kMaxPriority));
  KVASIR_RETURN_IF_ERROR(FillSampling(wanted, message.mutable_sampling()));
  KVASIR_RETURN_IF_ERROR(FillStopping(wanted.stopping(), message.mutable_stopping()));
  const ::vllm::ResponseOptions& response = wanted.response();
  if (response.output_logprobs()) message.mutable_output()->set_logprobs(0);
  if (response.prompt_logprobs()) message.mutable_output()->set_prompt_logprobs(0);
  if (response.has_skip_special_tokens()) {
    message.mutable_output()->set_skip_special_tokens(response.skip_special_tokens());
  }
  Wanted options;
  if (wanted.has_token_ids()) {
    KVASIR_RETURN_IF_ERROR(FillTokenIds("token_ids", wanted.token_ids().ids(), &message));
    if (response.prompt_token_ids()) {
      options.prompt_ids.assign(message.token_ids().ids().begin(), message.token_ids().ids().end());
    }
  } else {
    if (response.prompt_token_ids()) {
      v1::TokenizeRequest tokenize;
      tokenize.set_model(wanted.model());
      tokenize.set_text(wanted.text());
      KVASIR_ASSIGN_OR_RETURN(const v1::TokenizeResponse tokens,
                              frontend.Tokenize(tokenize, caller, job));
      options.prompt_ids.assign(tokens.token_ids().begin(), tokens.token_ids().end());
    }
    message.set_text(std::move(*wanted.mutable_text()));
  }
  const std::vector<int>& eos = served->model->spec().eos_token_ids;
  if (!eos.empty()) options.eos_token_id = static_cast<uint32_t>(eos.front());
  options.include_stop_strings = wanted.stopping().include_stop_strings();
  options.response = std::move(*wanted.mutable_response());
  request.answer = std::make_unique<Answer>(std::move(options), streams);
  return request;
}

// The model that a call without a name means.
absl::StatusOr<ServedModelRef> OnlyModel(const Frontend& frontend, const Caller& caller) {
  return frontend.environment().models->Find("", caller);
}

}  // namespace

grpc::ServerUnaryReactor* VllmInferenceService::Generate(grpc::CallbackServerContext* context,
                                                         const grpc::ByteBuffer* request,
                                                         grpc::ByteBuffer* reply) {
  return AnswerNeighbour(
      frontend_, context, *request, ::vllm::GenerateRequest::kRequestIdFieldNumber, reply,
      [this](const grpc::ByteBuffer& wire, const Caller& caller, const TextJob& job) {
        return Read(frontend_, wire, caller, job, /*streams=*/false);
      });
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* VllmInferenceService::GenerateStream(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  return StreamNeighbour(
      frontend_, context, *request, ::vllm::GenerateRequest::kRequestIdFieldNumber,
      [this](const grpc::ByteBuffer& wire, const Caller& caller, const TextJob& job) {
        return Read(frontend_, wire, caller, job, /*streams=*/true);
      });
}

VllmControlService::VllmControlService(const ServiceEnvironment& environment, std::string version)
    : frontend_(environment), version_(std::move(version)), instance_id_(RequestIdOrNew("")) {}

grpc::ServerUnaryReactor* VllmControlService::GetServerInfo(grpc::CallbackServerContext* context,
                                                            const grpc::ByteBuffer* request,
                                                            grpc::ByteBuffer* reply) {
  return AnswerNow<::vllm::GetServerInfoRequest>(
      frontend_.environment(), context, request, reply,
      [this](const ::vllm::GetServerInfoRequest&,
             const Caller& caller) -> absl::StatusOr<::vllm::GetServerInfoResponse> {
        KVASIR_ASSIGN_OR_RETURN(const ServedModelRef served, OnlyModel(frontend_, caller));
        const EngineConfig& config = served->engine->config();
        const EngineStats stats = served->engine->stats();
        ::vllm::GetServerInfoResponse info;
        info.set_engine_version(absl::StrCat("kvasir ", version_));
        info.set_api_version("1");
        info.set_instance_id(instance_id_);
        info.set_max_model_len(static_cast<uint32_t>(config.max_context_tokens));
        info.set_kv_block_size(static_cast<uint32_t>(served->engine->kv_layout().block_tokens()));
        info.set_total_kv_blocks(static_cast<uint64_t>(stats.kv_capacity_bytes /
                                                       std::max<int64_t>(1, stats.kv_block_bytes)));
        info.set_max_running_requests(static_cast<uint32_t>(config.max_running));
        info.set_max_batched_tokens(static_cast<uint32_t>(config.max_step_tokens));
        return info;
      });
}

grpc::ServerUnaryReactor* VllmControlService::GetModelInfo(grpc::CallbackServerContext* context,
                                                           const grpc::ByteBuffer* request,
                                                           grpc::ByteBuffer* reply) {
  return AnswerNow<::vllm::GetModelInfoRequest>(
      frontend_.environment(), context, request, reply,
      [this](const ::vllm::GetModelInfoRequest&,
             const Caller& caller) -> absl::StatusOr<::vllm::GetModelInfoResponse> {
        KVASIR_ASSIGN_OR_RETURN(const ServedModelRef served, OnlyModel(frontend_, caller));
        ::vllm::GetModelInfoResponse info;
        info.set_model_id(served->name);
        info.set_served_model_name(served->name);
        info.set_supports_text_input(true);
        info.set_supports_token_ids_input(true);
        return info;
      });
}

grpc::ServerUnaryReactor* VllmControlService::Abort(grpc::CallbackServerContext* context,
                                                    const grpc::ByteBuffer* request,
                                                    grpc::ByteBuffer* reply) {
  return AnswerOn<::vllm::AbortRequest>(
      frontend_.environment(), context, request, reply,
      [this](const ::vllm::AbortRequest& wanted,
             const Caller& caller) -> absl::StatusOr<::vllm::AbortResponse> {
        for (const std::string& id : wanted.request_ids()) {
          v1::AbortRequest abort;
          abort.set_request_id(id);
          // Those that have ended are not there any more, as is wanted.
          const auto aborted = frontend_.Abort(abort, caller);
          if (!aborted.ok() && !absl::IsNotFound(aborted.status())) return aborted.status();
        }
        return ::vllm::AbortResponse();
      });
}

}  // namespace kvasir
