// kvasir.v1.Constraint to what the grammar compiler takes.
#pragma once

#include <cstddef>
#include <optional>

#include "kvasir/v1/generation.pb.h"
#include "runtime/grammar/constraint.h"
#include "server/frontend/validation/field_violations.h"

namespace kvasir {

// Limits of the API; generation.proto names the same numbers. How large a text may be is the
// compiler's to say.
inline constexpr int kMaxChoices = 1024;
inline constexpr int kMaxTags = 128;

// Absent when `sampling` has none, or a violation was noted.
std::optional<Constraint> CheckConstraint(const v1::Sampling& sampling,
                                          const v1::Stopping& stopping, Violations* violations);

}  // namespace kvasir
