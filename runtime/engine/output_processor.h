// From a drawn token to the reader: appends it to its sequence, detokenises, looks for stops, and
// pushes the delta. Stateless; called by the engine thread.
#pragma once

#include <optional>

#include "absl/time/time.h"
#include "runtime/engine/engine_observer.h"
#include "runtime/engine/sequence.h"
#include "runtime/sampling/sampler.h"

namespace kvasir {

// Appends `drawn` to the sequence and pushes one DeltaEvent. Returns how the completion ended, if
// it did with this token; what was held back is then flushed into the same delta.
std::optional<CompletionResult> AppendToken(Sequence* sequence, SampleResult drawn, absl::Time now,
                                            EngineObserver* observer);

}  // namespace kvasir
