// What one step computes: the scheduler's answer, the model runner's order. Borrowed sequences,
// valid for one step.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/engine/sequence.h"

namespace kvasir {

struct ScheduledSequence {
  Sequence* sequence = nullptr;
  int32_t first_position = 0;  // = tokens computed before this step
  int32_t num_tokens = 0;      // new tokens computed in this step, >= 1
  // Logits wanted for this many of the last new tokens: 1 when the step reaches the sequence's
  // newest token, more with prompt_logprobs or a draft, 0 inside a prompt.
  int32_t num_logits = 0;
  // Guesses at what follows the newest token, computed behind it; part of num_tokens. What is drawn
  // says which of them become the sequence's (speculation/speculator.h).
  std::vector<TokenId> draft;

  int32_t num_drafted() const { return static_cast<int32_t>(draft.size()); }
  // Positions whose tokens are known.
  int32_t end_known() const { return first_position + num_tokens - num_drafted(); }
  // The step reaches the newest known token, so the next one can be drawn.
  bool completes() const { return end_known() == sequence->num_tokens(); }
};

struct StepPlan {
  std::vector<ScheduledSequence> scheduled;
  std::vector<Sequence*> preempted;  // lost their blocks while this plan was made
  std::vector<Sequence*> suspended;  // lost their slots only
  int32_t prefill_tokens = 0;
  int32_t decode_tokens = 0;
  int32_t draft_tokens = 0;

  bool empty() const { return scheduled.empty(); }
};

}  // namespace kvasir
