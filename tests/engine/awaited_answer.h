// A whole answer of an engine, for tests: waits for its stream's end.
#pragma once

#include <utility>
#include <variant>
#include <vector>

#include "tests/engine/wait_pop.h"

namespace kvasir {

struct Answer {
  std::vector<std::vector<TokenId>> tokens;  // by completion
  std::vector<std::vector<float>> logprobs;  // beside tokens, where the request asked for them
  int cached_tokens = 0;
  FinishedEvent finished;
};

inline Answer WaitFor(TokenStream* stream) {
  Answer answer;
  while (true) {
    StreamEvent event = WaitPop(stream);
    if (const auto* accepted = std::get_if<AcceptedEvent>(&event)) {
      answer.cached_tokens = accepted->cached_tokens;
    } else if (const auto* delta = std::get_if<DeltaEvent>(&event)) {
      if (static_cast<int>(answer.tokens.size()) <= delta->index) {
        answer.tokens.resize(delta->index + 1);
        answer.logprobs.resize(delta->index + 1);
      }
      auto& tokens = answer.tokens[delta->index];
      tokens.insert(tokens.end(), delta->tokens.begin(), delta->tokens.end());
      for (const TokenLogprob& logprob : delta->logprobs)
        answer.logprobs[delta->index].push_back(logprob.logprob);
    } else if (auto* finished = std::get_if<FinishedEvent>(&event)) {
      answer.finished = std::move(*finished);
      return answer;
    }
  }
}

}  // namespace kvasir
