#include "server/grpc/neighbours/engine_answer.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

#include "base/status_macros.h"
#include "server/frontend/request_errors.h"

namespace kvasir {
namespace {

namespace pb = ::vllm::grpc::engine;

int32_t Clamped(uint32_t value) {
  return static_cast<int32_t>(std::min<uint32_t>(value, INT32_MAX));
}

absl::Status FillSampling(const pb::SamplingParams& from, v1::GenerateRequest* message) {
  if (from.constraint_case() != pb::SamplingParams::CONSTRAINT_NOT_SET ||
      from.grammar_from_first_token()) {
    return NotSupported("sampling_params.constraint");
  }
  if (from.has_truncate_prompt_tokens()) {
    return NotSupported("sampling_params.truncate_prompt_tokens");
  }
  v1::Sampling* const sampling = message->mutable_sampling();
  if (from.has_temperature()) sampling->set_temperature(from.temperature());
  sampling->set_top_p(from.top_p() == 0 ? 1 : from.top_p());
  sampling->set_top_k(Clamped(from.top_k()));
  sampling->set_min_p(from.min_p());
  sampling->set_frequency_penalty(from.frequency_penalty());
  sampling->set_presence_penalty(from.presence_penalty());
  sampling->set_repetition_penalty(from.repetition_penalty() == 0 ? 1 : from.repetition_penalty());
  if (from.n() > 0) sampling->set_n(Clamped(from.n()));
  if (from.has_seed()) sampling->set_seed(static_cast<uint64_t>(from.seed()));
  for (const auto& [id, bias] : from.logit_bias()) (*sampling->mutable_logit_bias())[id] = bias;

  v1::Stopping* const stopping = message->mutable_stopping();
  // The engine ends at the context, whatever is asked.
  stopping->set_max_tokens(from.has_max_tokens() ? Clamped(from.max_tokens()) : INT32_MAX);
  stopping->set_min_tokens(Clamped(from.min_tokens()));
  *stopping->mutable_stop() = from.stop();
  for (const uint32_t id : from.stop_token_ids()) stopping->add_stop_token_ids(Clamped(id));
  stopping->set_ignore_eos(from.ignore_eos());

  v1::Output* const output = message->mutable_output();
  if (from.logprobs() < 0 || from.prompt_logprobs() < 0) {
    return BadFieldError("sampling_params.logprobs", "of all tokens are not given; ask for fewer");
  }
  if (from.has_logprobs()) output->set_logprobs(from.logprobs());
  if (from.has_prompt_logprobs()) output->set_prompt_logprobs(from.prompt_logprobs());
  return absl::OkStatus();
}

template <typename Logprobs>
void AddTop(const TokenLogprob& token, Logprobs* to) {
  to->add_token_ids(static_cast<uint32_t>(token.token));
  pb::TopLogProbs* const top = to->add_top_logprobs();
  for (const auto& [id, logprob] : token.alternatives) {
    top->add_token_ids(static_cast<uint32_t>(id));
    top->add_values(logprob);
  }
}

class Answer final : public NeighbourAnswer {
 public:
  // `first_prompt_id`: the token before those that have log-probabilities, if the prompt was ids.
  Answer(bool streams, std::optional<uint32_t> first_prompt_id)
      : streams_(streams), first_prompt_id_(first_prompt_id) {}

  std::vector<grpc::ByteBuffer> OnEvent(OutputEvent event) override {
    if (auto* accepted = std::get_if<AcceptedEvent>(&event)) {
      prompt_tokens_ = static_cast<uint32_t>(accepted->prompt_tokens);
      cached_tokens_ = static_cast<uint32_t>(accepted->cached_tokens);
      return {};
    }
    if (auto* logprobs = std::get_if<PromptLogprobsEvent>(&event)) {
      if (input_logprobs_.token_ids().empty() && first_prompt_id_) {
        input_logprobs_.add_token_logprobs();
        input_logprobs_.add_token_ids(*first_prompt_id_);
        input_logprobs_.add_top_logprobs();
      }
      for (const TokenLogprob& token : logprobs->tokens) {
        input_logprobs_.add_token_logprobs()->set_value(token.logprob);
        AddTop(token, &input_logprobs_);
      }
      return {};
    }
    auto* delta = std::get_if<OutputDelta>(&event);
    if (delta == nullptr || delta->tokens.empty()) return {};
    Completion& completion = At(delta->index);
    for (const TokenId id : delta->tokens) completion.ids.push_back(static_cast<uint32_t>(id));
    for (const TokenLogprob& token : delta->logprobs) {
      completion.logprobs.add_token_logprobs(token.logprob);
      AddTop(token, &completion.logprobs);
    }
    if (!streams_) return {};
    pb::GenerateResponse message;
    pb::GenerateStreamChunk* const chunk = message.mutable_chunk();
    for (const TokenId id : delta->tokens) chunk->add_token_ids(static_cast<uint32_t>(id));
    chunk->set_prompt_tokens(prompt_tokens_);
    chunk->set_completion_tokens(static_cast<uint32_t>(completion.ids.size()));
    chunk->set_cached_tokens(cached_tokens_);
    chunk->set_index(static_cast<uint32_t>(delta->index));
    for (const TokenLogprob& token : delta->logprobs) {
      chunk->mutable_output_logprobs()->add_token_logprobs(token.logprob);
      AddTop(token, chunk->mutable_output_logprobs());
    }
    if (!std::exchange(input_logprobs_sent_, true) && !input_logprobs_.token_ids().empty()) {
      *chunk->mutable_input_logprobs() = input_logprobs_;
    }
    return {SerializeWire(message)};
  }

  std::vector<grpc::ByteBuffer> OnFinished(FinishedEvent finished) override {
    std::vector<grpc::ByteBuffer> messages;
    for (const CompletionResult& result : finished.completions) {
      Completion& completion = At(result.index);
      pb::GenerateResponse message;
      pb::GenerateComplete* const complete = message.mutable_complete();
      complete->mutable_output_ids()->Add(completion.ids.begin(), completion.ids.end());
      complete->set_prompt_tokens(prompt_tokens_);
      complete->set_completion_tokens(static_cast<uint32_t>(result.completion_tokens));
      complete->set_cached_tokens(cached_tokens_);
      complete->set_index(static_cast<uint32_t>(result.index));
      if (!completion.logprobs.token_ids().empty()) {
        *complete->mutable_output_logprobs() = std::move(completion.logprobs);
      }
      if (!input_logprobs_.token_ids().empty())
        *complete->mutable_input_logprobs() = input_logprobs_;
      FillReason(result, complete);
      messages.push_back(SerializeWire(message));
    }
    return messages;
  }

 private:
  struct Completion {
    std::vector<uint32_t> ids;
    pb::OutputLogProbs logprobs;
  };

  Completion& At(int32_t index) {
    if (completions_.size() <= static_cast<size_t>(index)) {
      completions_.resize(static_cast<size_t>(index) + 1);
    }
    return completions_[static_cast<size_t>(index)];
  }

  static void FillReason(const CompletionResult& result, pb::GenerateComplete* complete) {
    switch (result.reason) {
      case FinishReason::kStop:
        if (result.stop_token) {
          complete->set_matched_token_id(static_cast<uint32_t>(*result.stop_token));
        } else {
          complete->set_matched_stop_str(result.stop_string);
        }
        [[fallthrough]];
      case FinishReason::kEos:
      case FinishReason::kGrammar:
      case FinishReason::kToolCalls:
        complete->set_finish_reason("stop");
        break;
      case FinishReason::kLength:
      case FinishReason::kContextFull:
        complete->set_finish_reason("length");
        break;
      case FinishReason::kCancelled:
        complete->set_finish_reason("abort");
        break;
    }
  }

  const bool streams_;
  const std::optional<uint32_t> first_prompt_id_;
  uint32_t prompt_tokens_ = 0;
  uint32_t cached_tokens_ = 0;
  std::vector<Completion> completions_;
  pb::InputLogProbs input_logprobs_;
  bool input_logprobs_sent_ = false;
};

}  // namespace

absl::StatusOr<NeighbourRequest> ReadEngineRequest(pb::GenerateRequest wanted) {
  const std::pair<bool, const char*> unsupported[] = {
      {!wanted.kv_transfer_params().empty() || !wanted.kv_transfer_params_json().empty(),
       "kv_transfer_params"},
      {!wanted.mm_inputs().empty() || wanted.extra_mm_inputs_size() > 0, "mm_inputs"},
      {!wanted.media_refs().empty(), "media_refs"},
      {wanted.data_parallel_rank() != 0, "data_parallel_rank"},
  };
  for (const auto& [is_set, field] : unsupported) {
    if (is_set) return NotSupported(field);
  }
  NeighbourRequest request;
  request.message.set_request_id(wanted.request_id());
  std::optional<uint32_t> first_prompt_id;
  if (wanted.has_text()) {
    request.message.set_text(std::move(*wanted.mutable_text()));
  } else {
    const auto& ids = wanted.tokenized().input_ids();
    if (!ids.empty()) first_prompt_id = ids[0];
    KVASIR_RETURN_IF_ERROR(FillTokenIds("tokenized.input_ids", ids, &request.message));
  }
  KVASIR_RETURN_IF_ERROR(FillSampling(wanted.sampling_params(), &request.message));
  request.answer = std::make_unique<Answer>(wanted.stream(), first_prompt_id);
  return request;
}

}  // namespace kvasir
