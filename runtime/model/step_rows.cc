#include "runtime/model/step_rows.h"

#include <algorithm>

#include "base/check.h"

namespace kvasir {
namespace {

void Clear(size_t num_groups, StepRows* rows) {
  rows->positions.clear();
  rows->long_context.clear();
  rows->groups.resize(num_groups);
  for (StepRows::Group& group : rows->groups) {
    group.sequences.clear();
    group.sparse.clear();
    group.every.clear();
  }
}

// Appends the positions [first, end) of one sequence.
void Append(const BatchSequence& sequence, int32_t first, int32_t end, StepRows* rows) {
  if (first == end) return;
  const int32_t sparse =
      sequence.method == nullptr ? end : std::clamp(sequence.method->first_position(), first, end);
  const int32_t row = static_cast<int32_t>(rows->count());
  for (size_t g = 0; g < rows->groups.size(); ++g) {
    const absl::Span<const BlockId> blocks = sequence.blocks[g];
    StepRows::Group& group = rows->groups[g];
    group.every.push_back(AttentionSequence{row, end - first, first, blocks});
    if (first < sparse)
      group.sequences.push_back(AttentionSequence{row, sparse - first, first, blocks});
    if (sparse < end) {
      group.sparse.push_back({{row + sparse - first, end - sparse, sparse, blocks},
                              sequence.method,
                              sequence.sparse_bytes_read});
    }
  }
  for (int32_t position = first; position < end; ++position) {
    rows->positions.push_back(position);
    rows->long_context.push_back(sequence.long_context);
  }
}

}  // namespace

const StepRows::Group& StepRows::GroupOf(const KvLayout& layout, int layer) const {
  return groups[layout.group_of(layer)];
}

const BatchRows::Written& BatchRows::WrittenOf(const KvLayout& layout, int layer) const {
  return written[layout.group_of(layer)];
}

void BatchRows::Build(absl::Span<const BatchSequence> batch, const KvLayout& layout) {
  const int block_tokens = layout.block_tokens();
  const size_t num_groups = layout.num_block_groups();
  Clear(num_groups, &all);
  Clear(num_groups, &wanted);
  tokens.clear();
  wanted_rows.clear();
  states.clear();
  written.resize(num_groups);
  for (Written& group : written) {
    group.slot_blocks.clear();
    group.filled.clear();
  }
  for (const BatchSequence& sequence : batch) {
    const int32_t num_new = static_cast<int32_t>(sequence.tokens.size());
    const int32_t first = sequence.first_position;
    const int32_t end = first + num_new;
    KVASIR_CHECK(num_new >= 1 && first >= 0);
    KVASIR_CHECK(sequence.num_logits >= 0 && sequence.num_logits <= num_new);
    KVASIR_CHECK(sequence.blocks.size() == num_groups);

    const int32_t end_row = static_cast<int32_t>(all.count()) + num_new;
    if (layout.has_state()) {
      KVASIR_CHECK(sequence.state_slot != kNoBlock);
      states.push_back({end_row - num_new, num_new, sequence.state_slot, first == 0});
    }
    for (int32_t i = sequence.num_logits; i > 0; --i) wanted_rows.push_back(end_row - i);
    Append(sequence, first, end, &all);
    Append(sequence, end - sequence.num_logits, end, &wanted);
    tokens.insert(tokens.end(), sequence.tokens.begin(), sequence.tokens.end());
    for (size_t g = 0; g < num_groups; ++g) {
      const std::vector<BlockId>& blocks = sequence.blocks[g];
      KVASIR_CHECK(static_cast<int64_t>(blocks.size()) * block_tokens >= end);
      if (const int32_t full = end / block_tokens - first / block_tokens; full > 0)
        written[g].filled.push_back({blocks, first / block_tokens, full});
      for (int32_t position = first; position < end; ++position)
        written[g].slot_blocks.push_back(blocks[position / block_tokens]);
    }
  }
}

}  // namespace kvasir
