#include "runtime/model/step_rows.h"

#include <algorithm>

#include "base/check.h"

namespace kvasir {
namespace {

void Clear(StepRows* rows) {
  rows->positions.clear();
  rows->sequences.clear();
  rows->sparse.clear();
}

// Appends the positions [first, end) of one sequence.
void Append(const BatchSequence& sequence, int32_t first, int32_t end, StepRows* rows) {
  const int32_t sparse =
      sequence.sparq == nullptr ? end : std::clamp(sequence.sparse_from, first, end);
  const int32_t row = static_cast<int32_t>(rows->count());
  if (first < sparse) {
    rows->sequences.push_back(AttentionSequence{row, sparse - first, first, sequence.blocks});
  }
  if (sparse < end) {
    rows->sparse.push_back({{row + sparse - first, end - sparse, sparse, sequence.blocks},
                            *sequence.sparq,
                            sequence.sparse_bytes_read});
  }
  for (int32_t position = first; position < end; ++position) rows->positions.push_back(position);
}

}  // namespace

void BatchRows::Build(absl::Span<const BatchSequence> batch, int block_tokens) {
  Clear(&all);
  Clear(&wanted);
  tokens.clear();
  slot_blocks.clear();
  wanted_rows.clear();
  filled.clear();
  for (const BatchSequence& sequence : batch) {
    const int32_t num_new = static_cast<int32_t>(sequence.tokens.size());
    const int32_t first = sequence.first_position;
    const int32_t end = first + num_new;
    KVASIR_CHECK(num_new >= 1 && first >= 0);
    KVASIR_CHECK(sequence.num_logits >= 0 && sequence.num_logits <= num_new);
    KVASIR_CHECK(static_cast<int64_t>(sequence.blocks.size()) * block_tokens >= end);

    const int32_t end_row = static_cast<int32_t>(all.count()) + num_new;
    for (int32_t i = sequence.num_logits; i > 0; --i) wanted_rows.push_back(end_row - i);
    Append(sequence, first, end, &all);
    Append(sequence, end - sequence.num_logits, end, &wanted);
    if (const int32_t full = end / block_tokens - first / block_tokens; full > 0) {
      filled.push_back({sequence.blocks, first / block_tokens, full});
    }
    tokens.insert(tokens.end(), sequence.tokens.begin(), sequence.tokens.end());
    for (int32_t position = first; position < end; ++position) {
      slot_blocks.push_back(sequence.blocks[position / block_tokens]);
    }
  }
}

}  // namespace kvasir
