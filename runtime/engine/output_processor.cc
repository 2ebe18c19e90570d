#include "runtime/engine/output_processor.h"

#include <utility>

namespace kvasir {

std::optional<CompletionResult> AppendToken(Sequence* sequence, SampleResult drawn, absl::Time now,
                                            EngineObserver* observer) {
  RequestState* const request = sequence->request;
  const TokenId token = drawn.token;
  sequence->tokens.push_back(token);
  if (TokenCounts::Needed(request->request.sampling)) sequence->counts.Add(token);
  ++request->usage.completion_tokens;

  if (request->first_token == absl::InfinitePast()) {
    request->first_token = now;
    request->usage.time_to_first_token = now - request->request.arrival;
    observer->OnFirstToken(request->request, request->usage.time_to_first_token);
  }
  const bool first_of_sequence = sequence->last_token_time == absl::InfinitePast();
  observer->OnTokens(request->request, 1,
                     first_of_sequence ? absl::ZeroDuration() : now - sequence->last_token_time);
  sequence->last_token_time = now;

  StopChecker::Verdict verdict = sequence->stop.Append(token, sequence->detokenizer.Append(token));

  DeltaEvent delta;
  delta.index = sequence->index;
  delta.text = std::move(verdict.text);
  delta.tokens.push_back(token);
  if (drawn.logprob.has_value()) delta.logprobs.push_back(*std::move(drawn.logprob));

  std::optional<CompletionResult> ended;
  if (verdict.finished) {
    // A stop string cuts the text where it begins; every other end lets out what was held back for
    // one.
    if (verdict.stop_string.empty())
      delta.text += sequence->stop.Flush() + sequence->detokenizer.Flush();
    ended.emplace();
    ended->index = sequence->index;
    ended->reason = verdict.reason;
    if (verdict.reason == FinishReason::kLength &&
        request->max_tokens < request->request.stopping.max_tokens) {
      ended->reason = FinishReason::kContextFull;
    }
    ended->stop_string = std::move(verdict.stop_string);
    ended->stop_token = verdict.stop_token;
    ended->completion_tokens = sequence->num_generated();
  }
  request->stream->Push(std::move(delta));
  return ended;
}

}  // namespace kvasir
