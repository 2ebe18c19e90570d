// How the tokens of a mixed batch become rows of the step's matrices: sequence after sequence,
// position after position. Rebuilt for each step into the same memory; not thread safe.
//
//   batch:  A: 4 new tokens, 1 logit wanted     B: 1 new, 1 wanted     C: 3 new, 0 wanted
//   all:    A0 A1 A2 A3 B0 C0 C1 C2             rows of the layers up to the last storing one
//   wanted: A3 B0                               rows of everything behind it (early exit)
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kvcache/kv_layout.h"
#include "kvcache/kv_view.h"
#include "runtime/model/decoder.h"
#include "runtime/ops/paged_attention.h"
#include "runtime/ops/sparse/attention_method.h"
#include "runtime/ops/sparse/key_columns.h"
#include "runtime/tokenizer/token_id.h"

namespace kvasir {

struct StepRows {
  // What layers of one block group attend to; block tables borrowed from the batch.
  struct Group {
    std::vector<AttentionSequence> sequences;  // those with at least one dense row
    std::vector<SparseSequence> sparse;        // the same for rows with a method that has begun
    std::vector<AttentionSequence> every;      // all rows, for layers that attend densely to all
  };
  std::vector<int32_t> positions;     // [count]
  std::vector<uint8_t> long_context;  // [count]: BatchSequence::long_context
  std::vector<Group> groups;          // [block groups]

  int64_t count() const { return static_cast<int64_t>(positions.size()); }
  const Group& GroupOf(const KvLayout& layout, int layer) const;
};

// The rows of one sequence, for layers with a state in place of K and V.
struct StateRows {
  int32_t first_row = 0;
  int32_t num_rows = 0;
  BlockId slot = kNoBlock;
  bool fresh = false;  // the sequence begins here: the slot's contents are no state
};

struct BatchRows {
  StepRows all;
  StepRows wanted;
  std::vector<TokenId> tokens;       // [all.count()]
  std::vector<int32_t> wanted_rows;  // [wanted.count()]: index in `all`, ascending
  // Where owner layers of one block group write.
  struct Written {
    std::vector<BlockId> slot_blocks;  // [all.count()]: the block that holds the row's position
    std::vector<FilledBlocks> filled;  // blocks whose last position is computed in this step
  };
  std::vector<Written> written;   // [block groups]
  std::vector<StateRows> states;  // by sequence, where the model has states

  // Preconditions are BatchSequence's; the batch's spans must live as long as the plan is used.
  void Build(absl::Span<const BatchSequence> batch, const KvLayout& layout);

  const Written& WrittenOf(const KvLayout& layout, int layer) const;
};

}  // namespace kvasir
