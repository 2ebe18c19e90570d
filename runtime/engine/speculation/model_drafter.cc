#include "runtime/engine/speculation/model_drafter.h"

#include <algorithm>
#include <utility>

#include "base/parallel.h"
#include "runtime/engine/sequence.h"

namespace kvasir {
namespace {

// Nobody looks for blocks in a pool without a prefix cache.
constexpr uint64_t kScope = 0;

SamplingParams WithoutPenalties(SamplingParams params) {
  params.repetition_penalty = 1;
  params.presence_penalty = 0;
  params.frequency_penalty = 0;
  return params;
}

}  // namespace

struct ModelDrafter::State : DraftState {
  SamplingParams sampling;  // the request's, without penalties
  int32_t completion_index = 0;
  int32_t prompt_tokens = 0;
  bool long_context = false;  // BatchSequence's
  BlockTable table;
  std::vector<TokenId> computed;  // the tokens that `table` holds
  bool has_come_through = false;  // its beginning is computed

  explicit State(BlockTable blocks) : table(std::move(blocks)) {}
};

ModelDrafter::ModelDrafter(const DraftModel& model) : model_(model) {
  for (int i = 0; i < ComputeThreads(); ++i) {
    samplers_.push_back(
        std::make_unique<Sampler>(std::min(model_.vocab_size, model_.target_vocab_size)));
  }
}

std::unique_ptr<DraftState> ModelDrafter::NewState(const Sequence& sequence) {
  auto state = std::make_unique<State>(model_.kv->NewTable());
  const RequestState& request = *sequence.request;
  state->sampling = WithoutPenalties(request.request.sampling);
  state->completion_index = sequence.index;
  state->prompt_tokens = sequence.prompt_tokens;
  state->long_context =
      sequence.prompt_tokens + request.max_tokens - 1 > model_.short_context_tokens;
  return state;
}

void ModelDrafter::Begin(DraftAsk* ask, std::vector<Run>* runs) const {
  State* const state = static_cast<State*>(ask->state);
  state->reads_on = false;
  const absl::Span<const TokenId> history = ask->history;
  // The last guess is not computed.
  const int32_t max_tokens = std::min(
      ask->max_tokens, model_.max_context_tokens - static_cast<int32_t>(history.size()) + 1);
  if (max_tokens <= 0) return;

  // The newest token is computed in any case, for its logits.
  const auto [differs, unused] = std::mismatch(history.begin(), history.end() - 1,
                                               state->computed.begin(), state->computed.end());
  const auto is_unknown = [&](TokenId id) { return id >= model_.vocab_size; };
  if (std::any_of(differs, history.end(), is_unknown)) return;
  const auto common = static_cast<int32_t>(differs - history.begin());
  if (common < state->table.num_tokens()) model_.kv->Truncate(&state->table, common);
  state->computed.resize(common);
  ask->draft.reserve(max_tokens);  // `missing` will point to its newest
  runs->push_back({ask, state, max_tokens, history.subspan(common)});
}

void ModelDrafter::Pass(int32_t max_tokens, std::vector<Run>* runs) {
  std::vector<Run> computed;
  batch_.clear();
  for (const Run& run : *runs) {
    BlockTable* const table = &run.state->table;
    const int32_t first = table->num_tokens();
    const int32_t count = std::min(static_cast<int32_t>(run.missing.size()), max_tokens);
    if (count == 0) {  // the others took the pass
      run.state->reads_on = run.ask->draft.empty();
      continue;
    }
    if (!model_.kv->Reserve(table, first + count)) {
      table->Clear();
      run.state->computed.clear();
      run.state->has_come_through = run.state->reads_on = false;
      continue;
    }
    max_tokens -= count;
    BatchSequence& sequence = batch_.emplace_back();
    sequence.tokens = run.missing.first(count);
    sequence.first_position = first;
    sequence.long_context = run.state->long_context;
    sequence.blocks = table->lists();
    sequence.num_logits = sequence.tokens.size() == run.missing.size() ? 1 : 0;
    computed.push_back(run);
  }
  runs->clear();
  if (computed.empty()) return;

  std::vector<const float*> logits;  // [computed] null: more is missing
  const float* row = model_.forward->Forward(batch_).data();
  for (size_t i = 0; i < computed.size(); ++i) {
    State* const state = computed[i].state;
    const absl::Span<const TokenId> tokens = batch_[i].tokens;
    state->computed.insert(state->computed.end(), tokens.begin(), tokens.end());
    model_.kv->Commit(kScope, state->computed, &state->table);
    logits.push_back(batch_[i].num_logits == 1 ? row : nullptr);
    row += static_cast<ptrdiff_t>(batch_[i].num_logits) * model_.vocab_size;
  }
  ParallelFor(computed.size(), [&](size_t i, int thread) {
    if (logits[i] != nullptr) Guess(&computed[i], logits[i], samplers_[thread].get());
  });
  for (size_t i = 0; i < computed.size(); ++i) {
    Run& run = computed[i];
    run.state->reads_on = logits[i] == nullptr;
    if (run.state->reads_on) continue;
    run.state->has_come_through = true;
    if (!run.guess.valid) continue;
    std::vector<TokenId>* const draft = &run.ask->draft;
    draft->push_back(run.guess.token);
    if (static_cast<int32_t>(draft->size()) == run.max_tokens) continue;
    run.missing = absl::MakeConstSpan(&draft->back(), 1);
    runs->push_back(std::move(run));
  }
}

void ModelDrafter::Guess(Run* run, const float* logits, Sampler* sampler) const {
  const State& state = *run->state;
  SampleRequest ask;
  ask.params = &state.sampling;
  ask.completion_index = state.completion_index;
  ask.output_position = static_cast<int32_t>(state.computed.size()) - state.prompt_tokens;
  const int32_t vocab_size = std::min(model_.vocab_size, model_.target_vocab_size);
  run->guess = sampler->Sample(absl::MakeConstSpan(logits, vocab_size), ask);
}

bool ModelDrafter::Propose(absl::Span<DraftAsk> asks) {
  std::vector<Run> runs;
  for (DraftAsk& ask : asks) Begin(&ask, &runs);
  const bool no_beginnings = std::all_of(
      runs.begin(), runs.end(), [](const Run& run) { return run.state->has_come_through; });
  std::stable_sort(runs.begin(), runs.end(),
                   [](const Run& a, const Run& b) { return a.missing.size() < b.missing.size(); });
  while (!runs.empty()) Pass(model_.max_step_tokens, &runs);
  return no_beginnings;
}

}  // namespace kvasir
