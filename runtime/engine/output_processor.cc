#include "runtime/engine/output_processor.h"

#include <algorithm>
#include <utility>

namespace kvasir {
namespace {

// Tokens of one forced run: more gain little, and a step has to hold them beside its decodes.
constexpr size_t kMaxForcedRun = 32;

// One token into the sequence and the delta. The completion's end, if this is it.
std::optional<CompletionResult> Append(Sequence* sequence, TokenId token, DeltaEvent* delta) {
  RequestState* const request = sequence->request;
  TokenMatcher* const matcher = sequence->matcher.get();
  sequence->tokens.push_back(token);
  if (TokenCounts::Needed(request->request.sampling)) sequence->counts.Add(token);
  ++request->usage.completion_tokens;

  StopChecker::Verdict verdict = sequence->stop.Append(token, sequence->detokenizer.Append(token));
  delta->text += verdict.text;
  delta->tokens.push_back(token);

  std::optional<bool> satisfied;
  if (matcher != nullptr) {
    const bool is_end = verdict.finished && verdict.reason == FinishReason::kEos;
    if (verdict.stop_token.has_value()) {
      satisfied = matcher->IsAccepting();  // that token's text is not part of the output
    } else if (is_end || !verdict.stop_string.empty()) {
      satisfied = is_end;  // drawn only where the output may end; cut inside what matched
    } else if (absl::Status status = matcher->Commit(token); !status.ok()) {
      sequence->grammar_status = std::move(status);
      return std::nullopt;
    } else if (matcher->IsComplete()) {
      verdict.finished = true;
      verdict.reason = FinishReason::kGrammar;
      satisfied = true;
    } else if (verdict.finished) {
      satisfied = matcher->IsAccepting();
    }
  }
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
  ended.grammar_satisfied = satisfied;
  return ended;
}

// What the grammar forces next; nothing where a pass is needed all the same.
std::vector<TokenId> ForcedTokens(const Sequence& sequence) {
  if (sequence.matcher == nullptr || sequence.request->request.logprobs.has_value()) return {};
  std::vector<TokenId> forced = sequence.matcher->Forced();
  // A banned token cannot be drawn: that is for the sampler to say.
  const absl::Span<const TokenId> banned = sequence.stop.banned_tokens();
  const auto stop = std::find_first_of(forced.begin(), forced.end(), banned.begin(), banned.end());
  forced.erase(stop, forced.end());
  return forced;
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
    if (ended.has_value() || !sequence->grammar_status.ok()) break;
  }
  while (!ended.has_value() && sequence->grammar_status.ok() &&
         delta.tokens.size() <= kMaxForcedRun) {
    const std::vector<TokenId> forced = ForcedTokens(*sequence);
    if (forced.empty()) break;
    for (size_t i = 0; i < forced.size() && !ended.has_value(); ++i) {
      if (delta.tokens.size() > kMaxForcedRun) break;
      ended = Append(sequence, forced[i], &delta);
      if (!sequence->grammar_status.ok()) break;
    }
  }
  if (!sequence->grammar_status.ok()) return std::nullopt;

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
