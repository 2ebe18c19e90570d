#include "runtime/engine/speculation/speculator.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "runtime/engine/speculation/ngram_drafter.h"

namespace kvasir {
namespace {

// A probe asks whether the text repeats again; two tokens say so.
constexpr int32_t kProbeTokens = 2;
// Weight of the newest time of a draft model's token, and the most that one may count of it: a
// drafter whose blocks were taken computes its sequence anew.
constexpr double kNewestDraftTime = 0.2;
constexpr double kMaxSurprise = 2;

}  // namespace

int32_t Speculator::MostTokens(const ScheduledSequence& item) const {
  const Sequence& sequence = *item.sequence;
  const RequestState& request = *sequence.request;
  const SpeculationParams& params = request.request.speculation;
  if (params.mode == SpeculationMode::kOff || item.num_tokens != 1 || !sequence.in_decode())
    return 0;
  // A mask is there for the next token only, and what a grammar forces needs no guess.
  if (sequence.matcher != nullptr) return 0;
  if (params.mode == SpeculationMode::kDraft && draft_model_ == nullptr) return 0;
  // The last token needs no guess: what is drawn behind it would be one too many.
  return std::min(params.max_draft_tokens, request.max_tokens - sequence.num_generated() - 1);
}

std::unique_ptr<Drafter> Speculator::MakeDrafter(const Sequence& sequence) const {
  if (sequence.request->request.speculation.mode == SpeculationMode::kDraft)
    return draft_model_(sequence);
  return std::make_unique<NgramDrafter>();
}

void Speculator::AddDrafts(Scheduler* scheduler, StepPlan* plan) {
  if (!possible_ || plan->decode_tokens == 0) return;
  const int32_t room = scheduler->DraftRoom(*plan);
  if (room <= 0 || cost_.WantsPlainStep(plan->decode_tokens)) return;

  std::vector<Ask> asks;
  std::vector<DraftCandidate> candidates;
  bool all_free = true;
  for (size_t i = 0; i < plan->scheduled.size(); ++i) {
    Sequence* const sequence = plan->scheduled[i].sequence;
    int32_t most = std::min(room, MostTokens(plan->scheduled[i]));
    if (most <= 0) continue;
    const bool is_first = sequence->drafter == nullptr;
    if (is_first) {
      sequence->drafter = MakeDrafter(*sequence);
      sequence->acceptance = AcceptanceRate(overall_.rate());
    }
    Ask ask{.scheduled_index = i, .is_first = is_first};
    if (sequence->drafter->is_free()) {
      ask.draft = sequence->drafter->Propose(sequence->tokens, most);
      most = static_cast<int32_t>(ask.draft.size());
      if (most == 0) continue;
    } else {
      all_free = false;
    }
    candidates.push_back({sequence->acceptance.rate(), most});
    asks.push_back(std::move(ask));
  }
  if (asks.empty()) return;

  std::vector<int32_t> lengths = ChooseDraftLengths(candidates, plan->decode_tokens, room, cost_,
                                                    all_free ? 0 : draft_seconds_);
  int32_t left = room;
  for (const int32_t length : lengths) left -= length;
  for (size_t i = 0; i < asks.size(); ++i) {
    ScheduledSequence* const item = &plan->scheduled[asks[i].scheduled_index];
    Sequence* const sequence = item->sequence;
    if (lengths[i] == 0 && sequence->acceptance.ProbeDue()) {
      lengths[i] = std::min({kProbeTokens, candidates[i].most, left});
      left -= lengths[i];
    }
    if (lengths[i] == 0) continue;
    std::vector<TokenId> draft = std::move(asks[i].draft);
    if (sequence->drafter->is_free()) {
      draft.resize(lengths[i]);
    } else {
      draft = Draft(sequence, lengths[i], asks[i].is_first);
      if (draft.empty()) continue;
    }
    scheduler->AddDraft(std::move(draft), item, plan);
  }
}

std::vector<TokenId> Speculator::Draft(Sequence* sequence, int32_t max_tokens, bool is_first) {
  const absl::Time begin = clock_->Now();
  std::vector<TokenId> draft = sequence->drafter->Propose(sequence->tokens, max_tokens);
  // The first call computes the prompt, which is no price of a token.
  if (draft.empty() || is_first) return draft;
  double seconds = absl::ToDoubleSeconds(clock_->Now() - begin) / static_cast<double>(draft.size());
  if (draft_seconds_ > 0) seconds = std::min(seconds, kMaxSurprise * draft_seconds_);
  draft_seconds_ += (draft_seconds_ > 0 ? kNewestDraftTime : 1) * (seconds - draft_seconds_);
  return draft;
}

void Speculator::NoteStep(const StepPlan& plan, absl::Duration model_time) {
  if (plan.prefill_tokens > 0 || plan.decode_tokens == 0) return;
  cost_.Observe(plan.decode_tokens, plan.draft_tokens, absl::ToDoubleSeconds(model_time));
}

void Speculator::NoteVerified(Sequence* sequence, int32_t drafted, int32_t accepted) {
  sequence->acceptance.Note(drafted, accepted);
  overall_.Note(drafted, accepted);
}

}  // namespace kvasir
