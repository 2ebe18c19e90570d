// SmolLM3: Llama with some layers that are not rotated.
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "runtime/model/architectures/parts/decoder_config.h"
#include "runtime/model/architectures/parts/kv_sharing.h"
#include "runtime/model/architectures/parts/layer_types.h"
#include "runtime/model/architectures/parts/llama_names.h"
#include "runtime/model/architectures/parts/rope_config.h"
#include "runtime/model/architectures/registry.h"

namespace kvasir {
namespace {

absl::Status Read(const JsonFields& config, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(ReadDecoder(config, {.tied = true}, spec));
  KVASIR_ASSIGN_OR_RETURN(const bool bias, config.BoolOr("attention_bias", false));
  SetAttentionBias(bias, bias, spec);
  KVASIR_ASSIGN_OR_RETURN(const bool mlp_bias, config.BoolOr("mlp_bias", false));
  for (LayerSpec& layer : spec->layers) layer.feed_forward.dense.bias = mlp_bias;
  KVASIR_ASSIGN_OR_RETURN(const RopeSpec rope,
                          ReadRope(config, spec->head_dim(), spec->max_positions,
                                   {.theta = 2e6, .partial_allowed = false}));
  spec->ropes = {rope};
  KVASIR_RETURN_IF_ERROR(ParseKvSharing(config, spec));
  // 1: rotated.
  std::vector<int> rotated;
  if (config.Has("no_rope_layers")) {
    KVASIR_ASSIGN_OR_RETURN(rotated, config.IntList("no_rope_layers", kMaxLayers, 0, 1));
    if (rotated.size() != spec->layers.size()) {
      return config.Wrong("no_rope_layers", absl::StrCat("must have a 0 or 1 for each of the ",
                                                         spec->num_layers(), " layers"));
    }
  } else {
    KVASIR_ASSIGN_OR_RETURN(const int64_t every,
                            config.IntOr("no_rope_layer_interval", 4, 1, INT32_MAX));
    for (int i = 0; i < spec->num_layers(); ++i) rotated.push_back((i + 1) % every != 0);
  }
  ForEachAttention(spec, [&](int layer, AttentionSpec* attention) {
    if (rotated[layer] == 0) attention->rope = -1;
  });
  return ReadSwitchedWindows(config, spec);
}

TensorNames Names(const ModelSpec&) { return LlamaNames(); }

absl::Status CompleteSmollm3(const GgufReader&, nlohmann::json* config) {
  nlohmann::json rotated = nlohmann::json::array();
  const int layers = (*config)["num_hidden_layers"].get<int>();
  for (int layer = 0; layer < layers; ++layer) rotated.push_back((layer + 1) % 4 == 0 ? 0 : 1);
  (*config)["no_rope_layers"] = std::move(rotated);
  return absl::OkStatus();
}

}  // namespace

std::vector<Architecture> Smollm3Architectures() {
  return {{"SmolLM3ForCausalLM",
           "smollm3",
           Read,
           Names,
           false,
           {.name = "smollm3", .complete = CompleteSmollm3, .rope_pairs_side_by_side = true}}};
}

}  // namespace kvasir
