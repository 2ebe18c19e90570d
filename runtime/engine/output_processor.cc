#include "runtime/engine/output_processor.h"

#include <utility>

namespace kvasir {
namespace {

// One token into the sequence and the delta. The completion's end, if this is it.
std::optional<CompletionResult> Append(Sequence* sequence, TokenId token, DeltaEvent* delta) {
  RequestState* const request = sequence->request;
  sequence->tokens.push_back(token);
  if (TokenCounts::Needed(request->request.sampling)) sequence->counts.Add(token);
  ++request->usage.completion_tokens;

  StopChecker::Verdict verdict = sequence->stop.Append(token, sequence->detokenizer.Append(token));
  delta->text += verdict.text;
  delta->tokens.push_back(token);
  if (!verdict.finished) return std::nullopt;

  // A stop string cuts the text where it begins; every other end lets out what was held back for
  // one.
  if (verdict.stop_string.empty())
    delta->text += sequence->stop.Flush() + sequence->detokenizer.Flush();
  CompletionResult ended;
  ended.index = sequence->index;
  ended.reason = verdict.reason;
  if (verdict.reason == FinishReason::kLength &&
      request->max_tokens < request->request.stopping.max_tokens) {
    ended.reason = FinishReason::kContextFull;
  }
  ended.stop_string = std::move(verdict.stop_string);
  ended.stop_token = verdict.stop_token;
  ended.completion_tokens = sequence->num_generated();
  return ended;
}

}  // namespace

std::optional<CompletionResult> AppendTokens(Sequence* sequence, absl::Span<SampleResult> drawn,
                                             absl::Time now, EngineObserver* observer) {
  RequestState* const request = sequence->request;
  DeltaEvent delta;
  delta.index = sequence->index;
  std::optional<CompletionResult> ended;
  for (SampleResult& result : drawn) {
    ended = Append(sequence, result.token, &delta);
    if (result.logprob.has_value()) delta.logprobs.push_back(*std::move(result.logprob));
    if (ended.has_value()) break;
  }

  if (request->first_token == absl::InfinitePast()) {
    request->first_token = now;
    request->usage.time_to_first_token = now - request->request.arrival;
    observer->OnFirstToken(request->request, request->usage.time_to_first_token);
  }
  const bool first_of_sequence = sequence->last_token_time == absl::InfinitePast();
  observer->OnTokens(request->request, static_cast<int32_t>(delta.tokens.size()),
                     first_of_sequence ? absl::ZeroDuration() : now - sequence->last_token_time);
  sequence->last_token_time = now;
  request->stream->Push(std::move(delta));
  return ended;
}

}  // namespace kvasir
