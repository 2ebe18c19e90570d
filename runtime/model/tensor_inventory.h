// Which tensors a model of a given spec consists of, under the names of the Hugging Face Llama
// family, and how a checkpoint's own list compares with it. Loading, counting parameters and random
// weights all go by this one list. Pure functions, thread safe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "runtime/model/checkpoint.h"
#include "runtime/model/model_spec.h"

namespace kvasir {

struct TensorShape {
  std::string name;
  int64_t rows = 0;
  int64_t cols = 1;  // 1: a vector
};

// "model.layers.<layer>.<part>".
std::string LayerTensorName(int layer, absl::string_view part);

// Every tensor of the model, each once. Borrower layers have no k_proj and v_proj.
std::vector<TensorShape> ExpectedTensors(const ModelSpec& spec);

// Sets the bias flags that config.json left open but the checkpoint's tensors answer.
void AdoptBiases(const Checkpoint& checkpoint, ModelSpec* spec);

// Holds the checkpoint against the spec before anything is packed. InvalidArgument: a layer owns
// K/V in only one of both (the message names the config's claim and the tensors found), a shape
// differs, or a tensor has no place in the model (it would change the results if it were left out).
// NotFound: a tensor is missing. Unimplemented: its element type is not supported.
absl::Status CheckTensors(const Checkpoint& checkpoint, const ModelSpec& spec);

}  // namespace kvasir
