// Where the builder of weights takes tensors from: a checkpoint on disk, or a generator of random
// ones. One thread at a time.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "runtime/ops/tensor.h"

namespace kvasir {

class WeightSource {
 public:
  virtual ~WeightSource() = default;

  // The tensor of exactly this shape; a vector has cols == 1. The view is valid until
  // Release(name). NotFound, InvalidArgument (shape) or Unimplemented (element type), naming the
  // tensor.
  virtual absl::StatusOr<StoredMatrix> Get(const std::string& name, int64_t rows, int64_t cols) = 0;

  // The tensor's bytes have been used and may leave memory.
  virtual void Release(const std::string& name) = 0;
};

}  // namespace kvasir
