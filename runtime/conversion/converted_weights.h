// The weights of a conversion's result: the source's, but for K/V projections that the recipe
// changes. Values are made when they are asked for, a few MiB at a time; of merged projections one
// tensor is in memory. Borrows all it is made from; one thread at a time.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "runtime/conversion/source_model.h"
#include "runtime/conversion/target_model.h"

namespace kvasir {

class ConvertedWeights {
 public:
  ConvertedWeights(const SourceModel* source, const TargetModel* target,
                   const SharingRecipe& recipe)
      : source_(*source), target_(*target), recipe_(recipe) {}

  const SourceModel& source() const { return source_; }
  const TargetModel& target() const { return target_; }

  // Whether a weight of the target is computed from the source's; else it is the source's own.
  bool IsMerged(const WeightId& id) const;

  // A weight of the target from its first row to its last: `take` gets whole rows, [n, cols] of its
  // role. Errors of reading, and those of `take`, which end it.
  absl::Status Stream(const WeightId& id,
                      absl::FunctionRef<absl::Status(absl::Span<const float>)> take) const;

 private:
  absl::StatusOr<std::vector<float>> Merge(const WeightId& id) const;
  absl::StatusOr<std::vector<float>> Draw(const WeightId& id) const;

  const SourceModel& source_;
  const TargetModel& target_;
  const SharingRecipe recipe_;
};

// A weight's values [rows, cols] in the order in which they lie in its tensor, from the part's
// offset on: the part covers a piece of it without gaps.
std::vector<float> InStoredOrder(const StoredPart& part, absl::Span<const float> values);

}  // namespace kvasir
