// From drawn tokens to the reader: appends them to their sequence, detokenises, looks for stops,
// and pushes the delta. Stateless; called by the engine thread.
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
std::optional<CompletionResult> AppendTokens(Sequence* sequence, absl::Span<SampleResult> drawn,
                                             absl::Time now, EngineObserver* observer);

}  // namespace kvasir
