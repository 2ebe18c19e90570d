// The decoder written down once more, as plainly as possible: one sequence, no cache, no batch,
// every position in full, sums in double. What the real one is measured against on shapes that no
// golden covers.
#pragma once

#include <vector>

#include "absl/types/span.h"
#include "runtime/model/model_spec.h"
#include "runtime/tokenizer/token_id.h"
#include "tests/model/checkpoint_writer.h"

namespace kvasir::testing {

// Logits of every position: [tokens.size()][vocab_size].
std::vector<std::vector<double>> ReferenceLogits(const ModelSpec& spec, const FloatTensors& tensors,
                                                 absl::Span<const TokenId> tokens);

}  // namespace kvasir::testing
