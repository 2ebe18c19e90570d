#include "runtime/engine/speculation/speculator.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace kvasir {
namespace {

// A probe asks whether the text repeats again; two tokens say so.
constexpr int32_t kProbeTokens = 2;
// Weight of the newest time of a draft model's token, and the most that one may count of it: other
// processes take the cores at times.
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

Drafter* Speculator::DrafterOf(const Sequence& sequence) {
  const bool by_model = sequence.request->request.speculation.mode == SpeculationMode::kDraft;
  return by_model ? draft_model_ : &ngrams_;
}

std::vector<Speculator::Candidate> Speculator::Candidates(StepPlan* plan, int32_t room) {
  std::vector<Candidate> candidates;
  for (ScheduledSequence& item : plan->scheduled) {
    Sequence* const sequence = item.sequence;
    Candidate candidate;
    candidate.item = &item;
    candidate.max_tokens = std::min(room, MostTokens(item));
    if (candidate.max_tokens <= 0) continue;
    candidate.drafter = DrafterOf(*sequence);
    if (sequence->draft_state == nullptr) {
      sequence->draft_state = candidate.drafter->NewState(*sequence);
      sequence->acceptance = AcceptanceRate(overall_.rate());
    }
    if (candidate.drafter->is_free()) {
      DraftAsk ask{sequence->draft_state.get(), sequence->tokens, candidate.max_tokens};
      candidate.drafter->Propose(absl::MakeSpan(&ask, 1));
      candidate.draft = std::move(ask.draft);
      candidate.max_tokens = static_cast<int32_t>(candidate.draft.size());
      if (candidate.draft.empty()) continue;
    }
    candidates.push_back(std::move(candidate));
  }
  return candidates;
}

void Speculator::AddDrafts(Scheduler* scheduler, StepPlan* plan) {
  if (!possible_ || plan->decode_tokens == 0) return;
  const int32_t room = scheduler->DraftRoom(*plan);
  if (room <= 0 || cost_.WantsPlainStep(plan->decode_tokens)) return;
  std::vector<Candidate> candidates = Candidates(plan, room);
  if (candidates.empty()) return;

  std::vector<DraftCandidate> chances;
  bool all_free = true;
  for (const Candidate& candidate : candidates) {
    chances.push_back({candidate.item->sequence->acceptance.rate(), candidate.max_tokens});
    all_free = all_free && candidate.drafter->is_free();
  }
  std::vector<int32_t> lengths =
      ChooseDraftLengths(chances, plan->decode_tokens, room, cost_, all_free ? 0 : draft_seconds_);
  int32_t left = room;
  for (const int32_t length : lengths) left -= length;
  for (size_t i = 0; i < candidates.size(); ++i) {
    Sequence* const sequence = candidates[i].item->sequence;
    if (lengths[i] > 0) continue;
    if (sequence->draft_state->reads_on || sequence->acceptance.ProbeDue()) {
      lengths[i] = std::min({kProbeTokens, candidates[i].max_tokens, left});
      left -= lengths[i];
    }
  }
  AskDraftModel(lengths, absl::MakeSpan(candidates));
  for (size_t i = 0; i < candidates.size(); ++i) {
    std::vector<TokenId> draft = std::move(candidates[i].draft);
    if (static_cast<int32_t>(draft.size()) > lengths[i]) draft.resize(lengths[i]);
    if (!draft.empty()) scheduler->AddDraft(std::move(draft), candidates[i].item, plan);
  }
}

void Speculator::AskDraftModel(absl::Span<const int32_t> lengths,
                               absl::Span<Candidate> candidates) {
  std::vector<DraftAsk> asks;
  std::vector<Candidate*> asked;
  for (size_t i = 0; i < candidates.size(); ++i) {
    if (lengths[i] == 0 || candidates[i].drafter->is_free()) continue;
    const Sequence& sequence = *candidates[i].item->sequence;
    asks.push_back({sequence.draft_state.get(), sequence.tokens, lengths[i]});
    asked.push_back(&candidates[i]);
  }
  if (asks.empty()) return;
  const absl::Time begin = clock_->Now();
  const bool is_price = draft_model_->Propose(absl::MakeSpan(asks));
  double seconds = absl::ToDoubleSeconds(clock_->Now() - begin);
  size_t tokens = 0;
  for (size_t i = 0; i < asks.size(); ++i) {
    tokens += asks[i].draft.size();
    asked[i]->draft = std::move(asks[i].draft);
  }
  if (!is_price || tokens == 0) return;
  seconds /= static_cast<double>(tokens);
  if (draft_seconds_ > 0) seconds = std::min(seconds, kMaxSurprise * draft_seconds_);
  draft_seconds_ += (draft_seconds_ > 0 ? kNewestDraftTime : 1) * (seconds - draft_seconds_);
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
