// The tensors of a checkpoint of whatever form, by name: what loading asks of a Hugging Face folder
// and of a GGUF file alike. Thread safe (const); Get and Release are const in effect.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "runtime/model/loading/weight_source.h"

namespace kvasir {

class StoredTensors : public WeightSource {
 public:
  virtual bool Has(const std::string& name) const = 0;
  virtual std::vector<std::string> Names() const = 0;
  // Whether Get would succeed for a part of a tensor of this name and shape, without touching the
  // data. NotFound, InvalidArgument (shape), Unimplemented (element type), naming the tensor.
  virtual absl::Status Check(const std::string& name, absl::Span<const int64_t> shape) const = 0;
};

}  // namespace kvasir
