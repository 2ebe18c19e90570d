#include "server/grpc/event_messages.h"

#include <utility>
#include <vector>

namespace kvasir {
namespace {

v1::FinishReason ToProto(FinishReason reason) {
  switch (reason) {
    case FinishReason::kEos:
      return v1::FINISH_REASON_EOS;
    case FinishReason::kStop:
      return v1::FINISH_REASON_STOP;
    case FinishReason::kLength:
      return v1::FINISH_REASON_LENGTH;
    case FinishReason::kContextFull:
      return v1::FINISH_REASON_CONTEXT_FULL;
    case FinishReason::kCancelled:
      return v1::FINISH_REASON_CANCELLED;
    case FinishReason::kGrammar:
      return v1::FINISH_REASON_GRAMMAR;
    case FinishReason::kToolCalls:
      return v1::FINISH_REASON_TOOL_CALLS;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

void FillLogprobs(const std::vector<TokenLogprob>& from, const Tokenizer* tokenizer,
                  google::protobuf::RepeatedPtrField<v1::TokenLogprob>* to) {
  const auto text = [tokenizer](TokenId id) {
    return std::string(tokenizer == nullptr ? "" : tokenizer->TokenBytes(id));
  };
  to->Reserve(static_cast<int>(from.size()));
  for (const TokenLogprob& token : from) {
    v1::TokenLogprob* out = to->Add();
    out->set_token_id(token.token);
    out->set_logprob(token.logprob);
    out->set_text(text(token.token));
    for (const auto& [id, logprob] : token.alternatives) {
      v1::Alternative* alternative = out->add_alternatives();
      alternative->set_token_id(id);
      alternative->set_logprob(logprob);
      alternative->set_text(text(id));
    }
  }
}

void FillUsage(const RequestUsage& from, v1::Usage* to) {
  to->set_prompt_tokens(from.prompt_tokens);
  to->set_cached_tokens(from.cached_tokens);
  to->set_completion_tokens(from.completion_tokens);
  to->set_kv_bytes_peak(from.kv_bytes_peak);
  to->set_state_bytes_peak(from.state_bytes_peak);
  to->set_state_bytes_read(from.state_bytes_read);
  to->set_kv_byte_seconds(from.kv_byte_seconds);
  to->set_queue_seconds(absl::ToDoubleSeconds(from.queue_time));
  to->set_time_to_first_token_seconds(absl::ToDoubleSeconds(from.time_to_first_token));
  to->set_total_seconds(absl::ToDoubleSeconds(from.total_time));
  to->set_preemptions(from.preemptions);
  to->set_kv_bytes_read(from.kv_bytes_read);
  to->set_kv_bytes_read_if_dense(from.kv_bytes_read_if_dense);
  to->set_sparse_tokens(from.sparse_tokens);
  to->set_drafted_tokens(from.drafted_tokens);
  to->set_accepted_tokens(from.accepted_tokens);
}

}  // namespace

void FillAccepted(const AcceptedEvent& event, const std::string& request_id,
                  const std::string& model, v1::GenerateResponse* response) {
  v1::Accepted* accepted = response->mutable_accepted();
  accepted->set_request_id(request_id);
  accepted->set_model(model);
  accepted->set_prompt_tokens(event.prompt_tokens);
  accepted->set_cached_tokens(event.cached_tokens);
}

void FillPromptLogprobs(const PromptLogprobsEvent& event, const Tokenizer* tokenizer,
                        v1::GenerateResponse* response) {
  v1::PromptLogprobs* logprobs = response->mutable_prompt_logprobs();
  logprobs->set_first_position(event.first_position);
  FillLogprobs(event.tokens, tokenizer, logprobs->mutable_tokens());
}

void FillDelta(OutputDelta event, const Tokenizer* tokenizer, v1::GenerateResponse* response) {
  v1::Delta* delta = response->mutable_delta();
  delta->set_index(event.index);
  delta->set_text(std::move(event.text));
  delta->set_reasoning(std::move(event.reasoning));
  for (ToolCallDelta& call : event.tool_calls) {
    v1::ToolCallDelta* const out = delta->add_tool_calls();
    out->set_index(call.index);
    out->set_id(std::move(call.id));
    out->set_name(std::move(call.name));
    out->set_arguments(std::move(call.arguments));
  }
  delta->mutable_token_ids()->Add(event.tokens.begin(), event.tokens.end());
  FillLogprobs(event.logprobs, tokenizer, delta->mutable_logprobs());
}

void FillFinal(const OutputFinished& event, v1::GenerateResponse* response) {
  v1::Final* final = response->mutable_final();
  for (const CompletionResult& result : event.completions) {
    v1::Completion* completion = final->add_completions();
    completion->set_index(result.index);
    completion->set_finish_reason(ToProto(result.reason));
    if (result.reason == FinishReason::kStop) {
      if (result.stop_token) {
        completion->set_stop_token_id(*result.stop_token);
      } else {
        completion->set_stop_string(result.stop_string);
      }
    }
    completion->set_completion_tokens(result.completion_tokens);
    if (result.grammar_satisfied) completion->set_constraint_satisfied(*result.grammar_satisfied);
  }
  FillUsage(event.usage, final->mutable_usage());
  final->mutable_usage()->set_reasoning_tokens(event.reasoning_tokens);
}

}  // namespace kvasir
