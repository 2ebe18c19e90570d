#include "runtime/model/architectures/parts/layer_types.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "runtime/model/architectures/parts/decoder_config.h"

namespace kvasir {
namespace {

struct Word {
  const char* word;
  LayerType type;
};
constexpr Word kWords[] = {{"full_attention", LayerType::kFull},
                           {"attention", LayerType::kFull},
                           {"sliding_attention", LayerType::kSliding},
                           {"linear_attention", LayerType::kLinear},
                           {"conv", LayerType::kConv}};

}  // namespace

absl::StatusOr<std::vector<LayerType>> ReadLayerTypes(const JsonFields& config, int num_layers,
                                                      std::vector<LayerType> allowed,
                                                      const std::function<LayerType(int)>& rule) {
  std::vector<LayerType> types;
  if (!config.Has("layer_types")) {
    for (int layer = 0; layer < num_layers; ++layer) types.push_back(rule(layer));
    return types;
  }
  const nlohmann::json& list = config.At("layer_types");
  if (!list.is_array() || list.size() != static_cast<size_t>(num_layers)) {
    return config.Wrong("layer_types", absl::StrCat("must be a list with one word for each of the ",
                                                    num_layers, " layers"));
  }
  std::string words;
  for (const Word& word : kWords) {
    if (std::find(allowed.begin(), allowed.end(), word.type) == allowed.end()) continue;
    absl::StrAppend(&words, words.empty() ? "" : ", ", word.word);
  }
  for (const nlohmann::json& entry : list) {
    const Word* const found =
        std::find_if(std::begin(kWords), std::end(kWords), [&](const Word& w) {
          return entry == w.word &&
                 std::find(allowed.begin(), allowed.end(), w.type) != allowed.end();
        });
    if (found == std::end(kWords)) {
      return RefuseKey(config, "layer_types", absl::StrCat(words, " in a list are"));
    }
    types.push_back(found->type);
  }
  return types;
}

absl::StatusOr<int> ReadWindow(const JsonFields& config, int max_positions) {
  if (!config.Has("sliding_window")) return 0;
  KVASIR_ASSIGN_OR_RETURN(const int64_t window, config.Int("sliding_window", 0, INT32_MAX));
  return window >= max_positions ? 0 : static_cast<int>(window);
}

absl::Status ReadWindowOfAllLayers(const JsonFields& config, ModelSpec* spec) {
  KVASIR_ASSIGN_OR_RETURN(const int window, ReadWindow(config, spec->max_positions));
  ForEachAttention(spec, [&](int, AttentionSpec* attention) { attention->window = window; });
  return absl::OkStatus();
}

absl::Status ReadWindowsByType(const JsonFields& config, const std::vector<LayerType>& types,
                               ModelSpec* spec) {
  const bool any = std::find(types.begin(), types.end(), LayerType::kSliding) != types.end();
  if (!any) return absl::OkStatus();
  if (!config.Has("sliding_window")) {
    return absl::InvalidArgumentError(absl::StrCat(
        config.file(), ": sliding_window is missing, but layer_types has sliding_attention"));
  }
  KVASIR_ASSIGN_OR_RETURN(const int window, ReadWindow(config, spec->max_positions));
  ForEachAttention(spec, [&](int layer, AttentionSpec* attention) {
    attention->window = types[layer] == LayerType::kSliding ? window : 0;
  });
  return absl::OkStatus();
}

absl::Status ReadSwitchedWindows(const JsonFields& config, ModelSpec* spec) {
  KVASIR_ASSIGN_OR_RETURN(const bool used, config.BoolOr("use_sliding_window", false));
  KVASIR_ASSIGN_OR_RETURN(const int64_t first, config.IntOr("max_window_layers", 28, 0, INT32_MAX));
  KVASIR_ASSIGN_OR_RETURN(const int window, ReadWindow(config, spec->max_positions));
  const bool windowed = used && window > 0;
  KVASIR_ASSIGN_OR_RETURN(const std::vector<LayerType> types,
                          ReadLayerTypes(config, spec->num_layers(),
                                         {LayerType::kFull, LayerType::kSliding}, [&](int layer) {
                                           return windowed && layer >= first ? LayerType::kSliding
                                                                             : LayerType::kFull;
                                         }));
  // The class drops the window altogether unless the switch is on.
  if (!windowed) return absl::OkStatus();
  return ReadWindowsByType(config, types, spec);
}

}  // namespace kvasir
