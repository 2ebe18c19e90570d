// What kind of layer each one is, from a config's layer_types or a class's own rule, and how far a
// windowed one sees. Pure functions, thread safe.
#pragma once

#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/model/json_fields.h"
#include "runtime/model/model_spec.h"

namespace kvasir {

enum class LayerType { kFull, kSliding, kLinear, kConv };

// layer_types, or `rule` of each layer where the config has none. InvalidArgument: not one word for
// each layer. Unimplemented: a word that the class has no layer for.
absl::StatusOr<std::vector<LayerType>> ReadLayerTypes(const JsonFields& config, int num_layers,
                                                      std::vector<LayerType> allowed,
                                                      const std::function<LayerType(int)>& rule);

// sliding_window; 0 = none, because the config has none, says 0, or a window that holds the whole
// context. A window of -1 is refused like any other nonsense.
absl::StatusOr<int> ReadWindow(const JsonFields& config, int max_positions);

// The window in every layer.
absl::Status ReadWindowOfAllLayers(const JsonFields& config, ModelSpec* spec);

// The window in the layers of type kSliding. `types`: [num_layers].
absl::Status ReadWindowsByType(const JsonFields& config, const std::vector<LayerType>& types,
                               ModelSpec* spec);

// Qwen 2 and 3, SmolLM3: only with use_sliding_window, from layer max_window_layers on, unless
// layer_types says which.
absl::Status ReadSwitchedWindows(const JsonFields& config, ModelSpec* spec);

}  // namespace kvasir
