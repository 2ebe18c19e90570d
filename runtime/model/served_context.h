// How many positions of a model's context the engine serves. Pure function, thread safe.
#pragma once

#include "runtime/model/model_spec.h"

namespace kvasir {

// spec.max_positions, but with longrope no more than its short divisors are for
// (RopeSpec::original_max_positions): which set of divisors a sequence takes is not chosen by the
// engine yet (BatchSequence::long_context), and answers beyond would be wrong without a word.
int ServedPositions(const ModelSpec& spec);

}  // namespace kvasir
