// From drawn tokens to the reader: appends them to their sequence, with what its grammar forces to
// follow, detokenises, looks for stops, and pushes the delta. Stateless; called by the engine
// thread.
#pragma once

#include <optional>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "runtime/engine/engine_observer.h"
#include "runtime/engine/sequence.h"
#include "runtime/sampling/sampler.h"

namespace kvasir {

// Appends what one step drew for the sequence (1 or more valid results) and pushes one DeltaEvent.
// Returns how the completion ended, if it did with one of these tokens: those behind it are
// dropped, and what was held back is flushed into the same delta.
//
// Tokens that the grammar forces after them are appended as well, for a draw could only give the
// same: the next step computes them in one go, with the rounding of a prompt's rows (bf16 attends
// to those in another order than to a single row). Not where each token's log-probability is asked
// for.
//
// When the grammar fails, nothing is pushed and the sequence's grammar_status says why.
std::optional<CompletionResult> AppendTokens(Sequence* sequence, absl::Span<SampleResult> drawn,
                                             absl::Time now, EngineObserver* observer);

}  // namespace kvasir
