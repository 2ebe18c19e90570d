// Random tensors of any model shape, for measuring speed without a checkpoint and for tests. Scaled
// so that activations stay near one through any number of layers. A tensor depends on the seed, its
// name and its shape alone: two specs that differ only in their sharing rule get the same values
// where they have the same tensors.
//
// Holds one tensor at a time per unreleased name. One thread at a time.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "base/aligned_buffer.h"
#include "base/bf16.h"
#include "runtime/model/weight_source.h"

namespace kvasir {

class RandomWeights : public WeightSource {
 public:
  // num_layers scales what is added to the residual stream.
  RandomWeights(int num_layers, uint64_t seed) : num_layers_(num_layers), seed_(seed) {}

  absl::StatusOr<StoredMatrix> Get(const std::string& name, int64_t rows, int64_t cols) override;
  void Release(const std::string& name) override { tensors_.erase(name); }

 private:
  int num_layers_;
  uint64_t seed_;
  std::map<std::string, AlignedBuffer<bf16>> tensors_;
};

}  // namespace kvasir
