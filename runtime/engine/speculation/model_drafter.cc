#include "runtime/engine/speculation/model_drafter.h"

#include <algorithm>

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

ModelDrafter::ModelDrafter(const DraftModel* model, const SamplingParams* sampling,
                           int32_t completion_index, int32_t prompt_tokens, bool long_context)
    : model_(model),
      completion_index_(completion_index),
      prompt_tokens_(prompt_tokens),
      long_context_(long_context),
      sampling_(WithoutPenalties(*sampling)),
      sampler_(std::min(model->vocab_size, model->target_vocab_size)),
      table_(model->kv->NewTable()) {}

absl::Span<const float> ModelDrafter::LogitsBehind(absl::Span<const TokenId> tokens) {
  absl::Span<const float> logits;
  while (table_.num_tokens() < static_cast<int32_t>(tokens.size())) {
    const int32_t first = table_.num_tokens();
    const int32_t count =
        std::min(static_cast<int32_t>(tokens.size()) - first, model_->max_step_tokens);
    if (!model_->kv->Reserve(&table_, first + count)) {
      table_.Clear();
      computed_.clear();
      return {};
    }
    BatchSequence sequence;
    sequence.tokens = tokens.subspan(first, count);
    sequence.first_position = first;
    sequence.long_context = long_context_;
    sequence.blocks = table_.lists();
    sequence.num_logits = first + count == static_cast<int32_t>(tokens.size()) ? 1 : 0;
    logits = model_->forward->Forward(absl::MakeConstSpan(&sequence, 1));
    model_->kv->Commit(kScope, tokens.subspan(0, first + count), &table_);
  }
  computed_.assign(tokens.begin(), tokens.end());
  return logits;
}

std::vector<TokenId> ModelDrafter::Propose(absl::Span<const TokenId> history, int32_t max_tokens) {
  const auto known = static_cast<int32_t>(history.size());
  const int32_t vocab_size = std::min(model_->vocab_size, model_->target_vocab_size);
  // The last guess is not computed.
  max_tokens = std::min(max_tokens, model_->max_context_tokens - known + 1);
  std::vector<TokenId> draft;
  if (max_tokens <= 0) return draft;

  // The newest token is computed in any case, for its logits.
  const auto last_known = history.end() - 1;
  const auto [differs, unused] =
      std::mismatch(history.begin(), last_known, computed_.begin(), computed_.end());
  const auto common = static_cast<int32_t>(differs - history.begin());
  if (std::any_of(differs, history.end(), [&](TokenId id) { return id >= model_->vocab_size; }))
    return draft;
  if (common < table_.num_tokens()) model_->kv->Truncate(&table_, common);

  std::vector<TokenId> tokens(history.begin(), history.end());
  while (true) {
    const absl::Span<const float> logits = LogitsBehind(tokens);
    if (logits.empty()) return draft;
    SampleRequest ask;
    ask.params = &sampling_;
    ask.completion_index = completion_index_;
    ask.output_position = static_cast<int32_t>(tokens.size()) - prompt_tokens_;
    const SampleResult guess = sampler_.Sample(logits.first(vocab_size), ask);
    if (!guess.valid) return draft;
    draft.push_back(guess.token);
    if (static_cast<int32_t>(draft.size()) == max_tokens) return draft;
    tokens.push_back(guess.token);
  }
}

}  // namespace kvasir
