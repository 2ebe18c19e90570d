// Exaone 4: norms behind each sub-layer, a norm on each head of q and k, and in the large model
// windowed layers, which alone are rotated.
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/status_macros.h"
#include "runtime/model/architectures/parts/decoder_config.h"
#include "runtime/model/architectures/parts/kv_sharing.h"
#include "runtime/model/architectures/parts/layer_types.h"
#include "runtime/model/architectures/parts/llama_names.h"
#include "runtime/model/architectures/parts/rope_config.h"
#include "runtime/model/architectures/registry.h"

namespace kvasir {
namespace {

// "LLLG" or a number: the last layer of each so many is global; 0 = all are.
absl::StatusOr<int64_t> ReadPattern(const JsonFields& config) {
  if (config.Has("sliding_window_pattern") && config.At("sliding_window_pattern").is_string()) {
    const std::string pattern = config.At("sliding_window_pattern").get<std::string>();
    const bool usual = !pattern.empty() && pattern.size() <= kMaxLayers && pattern.back() == 'G' &&
                       pattern.find_first_not_of('L') == pattern.size() - 1;
    if (!usual) {
      return config.Wrong("sliding_window_pattern", "must be some L and then one G, or a number");
    }
    return static_cast<int64_t>(pattern.size());
  }
  return config.IntOr("sliding_window_pattern", 4, 0, INT32_MAX);
}

absl::Status Read(const JsonFields& config, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(ReadDecoder(config, {.norm = {NormKind::kRms, 1e-5f}}, spec));
  const NormSpec norm = spec->layers[0].norm;
  ForEachAttention(spec, [&](int, AttentionSpec* attention) {
    attention->qk_norm = {QkNormSpec::Span::kHead, norm};
  });
  for (LayerSpec& layer : spec->layers) layer.placement = NormPlacement::kPost;
  KVASIR_ASSIGN_OR_RETURN(
      const RopeSpec rope,
      ReadRope(config, spec->head_dim(), spec->max_positions, {.partial_allowed = false}));
  spec->ropes = {rope};
  KVASIR_RETURN_IF_ERROR(ParseKvSharing(config, spec));
  const bool windowed = config.Has("sliding_window") && config.At("sliding_window") != 0;
  KVASIR_ASSIGN_OR_RETURN(const int64_t every, ReadPattern(config));
  KVASIR_ASSIGN_OR_RETURN(const std::vector<LayerType> types,
                          ReadLayerTypes(config, spec->num_layers(),
                                         {LayerType::kFull, LayerType::kSliding}, [&](int layer) {
                                           return windowed && every > 0 && (layer + 1) % every != 0
                                                      ? LayerType::kSliding
                                                      : LayerType::kFull;
                                         }));
  if (!windowed) return absl::OkStatus();
  ForEachAttention(spec, [&](int layer, AttentionSpec* attention) {
    if (types[layer] == LayerType::kFull) attention->rope = -1;
  });
  return ReadWindowsByType(config, types, spec);
}

TensorNames Names(const ModelSpec&) {
  using enum WeightRole;
  TensorNames names = LlamaNames();
  names.Set(kMixerPostNorm, "layers.{}.post_attention_layernorm")
      .Set(kMlpPostNorm, "layers.{}.post_feedforward_layernorm");
  return names;
}

absl::Status CompleteExaone4(const GgufReader& reader, nlohmann::json* config) {
  return reader.CopyWindows(4, config);
}

void DescribeExaone4(const ModelSpec& spec, GgufKeys* keys) { keys->Windows(spec, 4); }

}  // namespace

std::vector<Architecture> Exaone4Architectures() {
  return {{"Exaone4ForCausalLM",
           "exaone4",
           Read,
           Names,
           false,
           {.name = "exaone4", .complete = CompleteExaone4, .describe = DescribeExaone4}}};
}

}  // namespace kvasir
