// Random tensors of any model shape, for measuring speed without a checkpoint and for tests. Scaled
// so that activations stay near one through any number of layers. A value depends on the seed, the
// stored tensor's name and its place in it alone: two specs that differ only in their sharing rule
// get the same values where they have the same tensors, and a checkpoint written from these values
// loads as the same model.
//
// Holds nothing. One thread at a time.
#pragma once

#include <cstdint>

#include "runtime/model/loading/weight_source.h"

namespace kvasir {

class RandomWeights : public WeightSource {
 public:
  // num_layers scales what is added to the residual stream.
  RandomWeights(int num_layers, uint64_t seed) : num_layers_(num_layers), seed_(seed) {}

  absl::StatusOr<PartValues> Get(const WeightId& id, const StoredPart& part) override;
  void Release(const StoredPart&) override {}

 private:
  int num_layers_;
  uint64_t seed_;
};

}  // namespace kvasir
