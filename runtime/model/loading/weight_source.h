// Where the builder of weights takes values from: a checkpoint on disk, or a generator of random
// ones. One thread at a time.
#pragma once

#include "absl/status/statusor.h"
#include "runtime/model/loading/stored_part.h"
#include "runtime/model/weight_roles.h"

namespace kvasir {

class WeightSource {
 public:
  virtual ~WeightSource() = default;

  // The values of one part of weight `id`: [part.rows, part.cols]. A view without memory of its own
  // is valid until Release. NotFound, InvalidArgument (shape) or Unimplemented (element type),
  // naming the tensor.
  virtual absl::StatusOr<PartValues> Get(const WeightId& id, const StoredPart& part) = 0;

  // The part's bytes have been used and may leave memory.
  virtual void Release(const StoredPart& part) = 0;
};

}  // namespace kvasir
