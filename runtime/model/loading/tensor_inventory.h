// How a checkpoint's own list of tensors compares with what a model of a given spec needs. Pure
// functions, thread safe.
#pragma once

#include "absl/status/status.h"
#include "runtime/model/loading/stored_tensors.h"
#include "runtime/model/loading/tensor_map.h"
#include "runtime/model/model_spec.h"

namespace kvasir {

// Sets the bias flags that config.json left open but the checkpoint's tensors answer. `map` is of
// `spec` as it is.
void AdoptBiases(const StoredTensors& checkpoint, const TensorMap& map, ModelSpec* spec);

// Holds the checkpoint against the map before anything is packed. InvalidArgument: a layer owns
// K/V in only one of both (the message names the config's claim and the tensors found), a shape
// differs, or a tensor has no place in the model (it would change the results if it were left out).
// NotFound: a tensor is missing. Unimplemented: its element type is not supported.
absl::Status CheckTensors(const StoredTensors& checkpoint, const TensorMap& map,
                          const ModelSpec& spec);

}  // namespace kvasir
