// Runs a step plan through the model and draws the next tokens.
//
// ForwardPass is the seam to the model: the decoder in production, a dummy in policy tests.
// ModelRunner is owned and called by the engine thread; it borrows the forward pass.
#pragma once

#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "runtime/engine/mask_worker.h"
#include "runtime/engine/step_plan.h"
#include "runtime/model/decoder.h"
#include "runtime/sampling/sampler.h"

namespace kvasir {

class ForwardPass {
 public:
  virtual ~ForwardPass() = default;
  // As Decoder::Forward: logits [sum of num_logits, vocab_size] in batch order, valid until the
  // next call.
  virtual absl::Span<const float> Forward(absl::Span<const BatchSequence> batch) = 0;
  // As Decoder::FillKeyColumns: completes blocks that were read back from disk. From any thread,
  // beside Forward, which does not touch these blocks; in a SerialScope.
  virtual void FillKeyColumns(absl::Span<const BlockId> full_blocks) = 0;
  // As Decoder::weight_bytes_read.
  virtual int64_t weight_bytes_read() const = 0;
};

// What a step drew for one completion.
struct DrawnToken {
  Sequence* sequence =
      nullptr;  // the scheduled one; a fork's parent while the fork does not exist yet
  int32_t completion_index = 0;
  SampleResult result;
  // Behind it, one for each token of the draft that was drawn, in order: as long as a drawn token
  // is the drafted one, the next was drawn too. The last of result and these is always the model's
  // own.
  std::vector<SampleResult> more = {};
  int32_t num_drafted = 0;
};

class ModelRunner {
 public:
  ModelRunner(ForwardPass* forward, int32_t vocab_size);

  // One forward pass over the plan; beside it, the masks of sequences with a grammar that Draw
  // will need. The returned logits are valid until the next Run.
  absl::Span<const float> Run(const StepPlan& plan);

  // Of the last Run: the bytes of the pool that each item's sparse tokens read. [plan.scheduled]
  absl::Span<const int64_t> sparse_bytes_read() const { return sparse_bytes_read_; }
  // Of all runs so far.
  int64_t weight_bytes_read() const { return forward_->weight_bytes_read(); }

  // The next token of every completion whose newest token is computed now, in plan order; a
  // prompt's end yields one per completion of its request. Where the grammar failed
  // (Sequence::grammar_status), the result is not valid. Rows are drawn in parallel; each draw
  // depends only on its seed, completion and position. The caller may take the results out; valid
  // until the next Draw.
  std::vector<DrawnToken>* Draw(const StepPlan& plan, absl::Span<const float> logits);

  const MaskWorker& masks() const { return masks_; }

  // Log-probabilities of the prompt tokens that this step's logits give for item `scheduled_index`;
  // empty when its request did not ask, or they were reported before.
  std::vector<TokenLogprob> PromptLogprobs(const StepPlan& plan, size_t scheduled_index,
                                           absl::Span<const float> logits) const;

 private:
  struct Row {
    const float* logits = nullptr;  // [1 + draft, vocab]
    const ScheduledSequence* item = nullptr;
  };
  void DrawRun(const Row& row, Sampler* sampler, DrawnToken* drawn) const;
  size_t FirstRow(const StepPlan& plan, size_t scheduled_index) const;

  ForwardPass* const forward_;
  const int32_t vocab_size_;
  MaskWorker masks_;
  std::vector<std::unique_ptr<Sampler>> samplers_;  // one per compute thread
  std::vector<TokenId> drafted_rows_;  // of all items with a draft: newest token, draft
  std::vector<BatchSequence> batch_;
  std::vector<int64_t> sparse_bytes_read_;  // beside batch_
  std::vector<DrawnToken> drawn_;
  std::vector<Row> rows_;  // beside drawn_
};

}  // namespace kvasir
