// A tensor of a checkpoint as readers of quantised weights see it: type, shape, bytes. Bytes may be
// unaligned. Borrowed; thread safe.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/bf16.h"

namespace kvasir {

struct TensorBytes {
  std::string name;
  std::string dtype;  // "I32"
  std::vector<int64_t> shape;
  const uint8_t* data = nullptr;

  uint32_t Word(int64_t index) const {
    uint32_t word;
    std::memcpy(&word, data + 4 * index, sizeof(word));
    return word;
  }
};

// InvalidArgument, naming the tensor, its type and shape, unless they are these.
absl::Status CheckTensor(const TensorBytes& tensor, absl::string_view dtype,
                         absl::Span<const int64_t> shape);

// The tensor's numbers as floats: F32, BF16, F16 or exponents (F8_E8M0), all finite.
// InvalidArgument or Unimplemented.
absl::StatusOr<std::vector<float>> ReadScales(const TensorBytes& tensor);

}  // namespace kvasir
