// What a conversion makes of a source: the new config.json, the model that it describes, and which
// of the source's layers each K/V projection comes from. No weight is touched here.
//
// The new owner table is the one that the config's own reader makes of the new config, so that what
// is written and what will be loaded cannot disagree. Pure function, thread safe.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/conversion/kv_merge.h"
#include "runtime/conversion/source_model.h"
#include "runtime/model/loading/tensor_map.h"
#include "runtime/model/model_spec.h"

namespace kvasir {

// What is to be shared anew; nothing set = the K/V projections stay as they are.
struct SharingRecipe {
  std::optional<int> kv_heads;     // in every layer; divides the source's
  std::optional<int> cla_factor;   // layers per owner
  std::optional<int> mlkv_layers;  // owners
  HeadRecipe heads = HeadRecipe::kMean;
  std::optional<LayerRecipe> layers;  // default: kFirst for CLA, kMean for MLKV
  uint64_t seed = 0;                  // of HeadRecipe::kRandom

  bool empty() const { return !kv_heads && !cla_factor && !mlkv_layers; }
  LayerRecipe layer_recipe() const {
    return layers.value_or(mlkv_layers ? LayerRecipe::kMean : LayerRecipe::kFirst);
  }
};

struct TargetModel {
  nlohmann::ordered_json config;
  ModelSpec spec;
  std::optional<TensorMap> map;  // of spec with the names of a Hugging Face folder, always there
  // [num_layers]; of an owner: the source's layers that its K/V is made from, itself first. Empty
  // for borrowers.
  std::vector<std::vector<int>> merged_layers;
};

// InvalidArgument: the recipe does not fit the source (the message has both numbers), or would
// change nothing. Unimplemented: the architecture's attention or config cannot be shared so.
absl::StatusOr<TargetModel> PlanTarget(const SourceModel& source, const SharingRecipe& recipe);

}  // namespace kvasir
