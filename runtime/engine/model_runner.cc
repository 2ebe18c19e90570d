#include "runtime/engine/model_runner.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/parallel.h"

namespace kvasir {

ModelRunner::ModelRunner(ForwardPass* forward, int32_t vocab_size)
    : forward_(forward), vocab_size_(vocab_size), masks_(vocab_size) {
  for (int thread = 0; thread < ComputeThreads(); ++thread) {
    samplers_.push_back(std::make_unique<Sampler>(vocab_size));
  }
}

absl::Span<const float> ModelRunner::Run(const StepPlan& plan) {
  batch_.clear();
  sparse_bytes_read_.assign(plan.scheduled.size(), 0);
  drafted_rows_.clear();
  drafted_rows_.reserve(2 * static_cast<size_t>(plan.draft_tokens));  // spans into it stay valid
  std::vector<Sequence*> constrained;
  for (const ScheduledSequence& item : plan.scheduled) {
    if (item.completes() && item.sequence->matcher != nullptr) constrained.push_back(item.sequence);
  }
  masks_.Start(std::move(constrained));
  for (const ScheduledSequence& item : plan.scheduled) {
    BatchSequence sequence;
    if (item.draft.empty()) {
      sequence.tokens =
          absl::MakeConstSpan(item.sequence->tokens).subspan(item.first_position, item.num_tokens);
    } else {
      const size_t begin = drafted_rows_.size();
      drafted_rows_.push_back(item.sequence->tokens.back());
      drafted_rows_.insert(drafted_rows_.end(), item.draft.begin(), item.draft.end());
      sequence.tokens = absl::MakeConstSpan(drafted_rows_).subspan(begin);
    }
    sequence.first_position = item.first_position;
    sequence.blocks = item.sequence->table.lists();
    sequence.state_slot = item.sequence->table.state_slot();
    sequence.num_logits = item.num_logits;
    const RequestState& request = *item.sequence->request;
    sequence.method = request.method.get();
    sequence.long_context = request.long_context;
    sequence.sparse_bytes_read = &sparse_bytes_read_[batch_.size()];
    batch_.push_back(sequence);
  }
  return forward_->Forward(batch_);
}

std::vector<DrawnToken>* ModelRunner::Draw(const StepPlan& plan, absl::Span<const float> logits) {
  masks_.Finish();
  drawn_.clear();
  rows_.clear();
  size_t row = 0;
  for (const ScheduledSequence& item : plan.scheduled) {
    row += item.num_logits;
    if (!item.completes()) continue;
    const RequestState& request = *item.sequence->request;
    const bool forks_now = request.sequences.size() == 1 && item.sequence->num_generated() == 0;
    const int32_t draws = forks_now ? request.request.n : 1;
    for (int32_t i = 0; i < draws; ++i) {
      drawn_.push_back({item.sequence, item.sequence->index + i, {}});
      drawn_.back().num_drafted = item.num_drafted();
      rows_.push_back({logits.data() + (row - 1 - item.draft.size()) * vocab_size_, &item});
    }
  }
  KVASIR_CHECK(row * vocab_size_ == logits.size());

  ParallelFor(drawn_.size(), [this](size_t i, int thread) {
    DrawRun(rows_[i], samplers_[thread].get(), &drawn_[i]);
  });
  return &drawn_;
}

void ModelRunner::DrawRun(const Row& row, Sampler* sampler, DrawnToken* drawn) const {
  const Sequence& sequence = *row.item->sequence;
  const GenerationRequest& request = sequence.request->request;
  const std::vector<TokenId>& draft = row.item->draft;  // none with a grammar
  if (!sequence.grammar_status.ok()) {
    drawn->result.valid = false;
    return;
  }
  SampleRequest ask;
  ask.params = &request.sampling;
  ask.counts = &sequence.counts;
  ask.completion_index = drawn->completion_index;
  ask.output_position = sequence.num_generated();
  ask.num_logprobs = request.logprobs;
  ask.banned = sequence.stop.banned_tokens();
  if (sequence.matcher != nullptr) ask.allowed = sequence.allowed;
  drawn->result = sampler->Sample(absl::MakeConstSpan(row.logits, vocab_size_), ask);

  TokenCounts counts;  // with what was accepted so far
  const SampleResult* last = &drawn->result;
  drawn->more.reserve(draft.size());  // `last` stays valid
  for (size_t i = 0; i < draft.size() && last->valid && last->token == draft[i]; ++i) {
    if (TokenCounts::Needed(request.sampling)) {
      if (i == 0) counts = sequence.counts;
      counts.Add(draft[i]);
      ask.counts = &counts;
    }
    ++ask.output_position;
    ask.banned = sequence.stop.banned_tokens(static_cast<int32_t>(i) + 1);
    const float* const logits = row.logits + (i + 1) * static_cast<size_t>(vocab_size_);
    drawn->more.push_back(sampler->Sample(absl::MakeConstSpan(logits, vocab_size_), ask));
    last = &drawn->more.back();
  }
}

size_t ModelRunner::FirstRow(const StepPlan& plan, size_t scheduled_index) const {
  size_t row = 0;
  for (size_t i = 0; i < scheduled_index; ++i) row += plan.scheduled[i].num_logits;
  return row;
}

std::vector<TokenLogprob> ModelRunner::PromptLogprobs(const StepPlan& plan, size_t scheduled_index,
                                                      absl::Span<const float> logits) const {
  const ScheduledSequence& item = plan.scheduled[scheduled_index];
  const Sequence& sequence = *item.sequence;
  const RequestState& request = *sequence.request;
  std::vector<TokenLogprob> result;
  if (!request.request.prompt_logprobs.has_value() ||
      request.prompt_logprobs_done >= sequence.prompt_tokens) {
    return result;
  }
  const int32_t end = std::min(item.first_position + item.num_tokens + 1, sequence.prompt_tokens);
  const int32_t begin = request.prompt_logprobs_done;
  if (begin >= end) return result;

  // The last row is that of the last new token; token t's row is the one of position t - 1.
  const size_t rows_end = FirstRow(plan, scheduled_index) + item.num_logits;
  result.resize(end - begin);
  ParallelFor(result.size(), [&](size_t i, int) {
    const int32_t position = begin + static_cast<int32_t>(i) - 1;
    const size_t row = rows_end - (item.first_position + item.num_tokens - position);
    result[i] = LogprobOf(logits.subspan(row * vocab_size_, vocab_size_),
                          sequence.tokens[begin + i], *request.request.prompt_logprobs);
  });
  return result;
}

}  // namespace kvasir
