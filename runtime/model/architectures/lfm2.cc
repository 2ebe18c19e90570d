// LFM2: short gated convolutions with attention layers between them.
#include <algorithm>
#include <string>
#include <vector>

#include "base/status_macros.h"
#include "runtime/model/architectures/parts/decoder_config.h"
#include "runtime/model/architectures/parts/kv_sharing.h"
#include "runtime/model/architectures/parts/layer_types.h"
#include "runtime/model/architectures/parts/llama_names.h"
#include "runtime/model/architectures/parts/rope_config.h"
#include "runtime/model/architectures/registry.h"
#include "runtime/model/loading/tensor_forms.h"
#include "runtime/ops/layers/recurrent_state.h"

namespace kvasir {
namespace {

// Two thirds of the stated width, times a factor, rounded up to whole blocks.
absl::Status ReadWidth(const JsonFields& config, ModelSpec* spec) {
  KVASIR_ASSIGN_OR_RETURN(const char* const key,
                          OneKey(config, {"block_ff_dim", "intermediate_size"}));
  KVASIR_ASSIGN_OR_RETURN(int64_t width, config.IntOr(key, 12288, 1, kMaxIntermediate));
  KVASIR_ASSIGN_OR_RETURN(const bool adjusted, config.BoolOr("block_auto_adjust_ff_dim", true));
  if (adjusted) {
    KVASIR_ASSIGN_OR_RETURN(const double factor,
                            config.NumberOr("block_ffn_dim_multiplier", 1.0, 1e-3, 100.0));
    KVASIR_ASSIGN_OR_RETURN(const int64_t block,
                            config.IntOr("block_multiple_of", 256, 1, kMaxIntermediate));
    width = static_cast<int64_t>(factor * static_cast<double>(2 * width / 3));
    width = std::max<int64_t>(1, (width + block - 1) / block) * block;
  }
  for (LayerSpec& layer : spec->layers) layer.feed_forward.dense.width = static_cast<int>(width);
  return absl::OkStatus();
}

absl::Status Read(const JsonFields& config, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(ReadDecoder(
      config,
      {.norm = {NormKind::kRms, 1e-5f}, .reads_activation = false, .tied = true, .width = 1},
      spec));
  KVASIR_ASSIGN_OR_RETURN(spec->head.tied, config.BoolOr("tie_embedding", spec->head.tied));
  KVASIR_RETURN_IF_ERROR(ReadWidth(config, spec));
  const NormSpec norm = spec->layers[0].norm;
  ForEachAttention(spec, [&](int, AttentionSpec* attention) {
    attention->qk_norm = {QkNormSpec::Span::kHead, norm};
  });
  KVASIR_ASSIGN_OR_RETURN(const RopeSpec rope,
                          ReadRope(config, spec->head_dim(), spec->max_positions,
                                   {.theta = 1e6, .partial_allowed = false}));
  spec->ropes = {rope};
  KVASIR_RETURN_IF_ERROR(ParseKvSharing(config, spec));
  std::vector<int> full;
  const bool listed = config.Has("full_attn_idxs");
  if (listed) {
    KVASIR_ASSIGN_OR_RETURN(
        full, config.IntList("full_attn_idxs", kMaxLayers, 0, spec->num_layers() - 1));
  }
  KVASIR_ASSIGN_OR_RETURN(
      const std::vector<LayerType> types,
      ReadLayerTypes(
          config, spec->num_layers(), {LayerType::kFull, LayerType::kConv}, [&](int layer) {
            const bool conv = listed && std::find(full.begin(), full.end(), layer) == full.end();
            return conv ? LayerType::kConv : LayerType::kFull;
          }));
  ShortConvSpec conv;
  KVASIR_ASSIGN_OR_RETURN(conv.kernel, config.IntOr("conv_L_cache", 3, 1, kMaxConvolutionInputs));
  KVASIR_ASSIGN_OR_RETURN(conv.bias, config.BoolOr("conv_bias", false));
  for (int layer = 0; layer < spec->num_layers(); ++layer) {
    if (types[layer] == LayerType::kConv) spec->layers[layer].mixer = conv;
  }
  return absl::OkStatus();
}

TensorNames Names(const ModelSpec&) {
  using enum WeightRole;
  TensorNames names = LlamaNames();
  names.Set(kMixerNorm, "layers.{}.operator_norm")
      .Set(kMlpNorm, "layers.{}.ffn_norm")
      .Set(kOutput, "layers.{}.self_attn.out_proj")
      .Set(kQueryNorm, "layers.{}.self_attn.q_layernorm")
      .Set(kKeyNorm, "layers.{}.self_attn.k_layernorm")
      .Set(kConvIn, "layers.{}.conv.in_proj")
      .Set(kConv, "layers.{}.conv.conv", ConvolutionForm())
      .Set(kConvOut, "layers.{}.conv.out_proj")
      .Set(kGate, "layers.{}.feed_forward.w1")
      .Set(kUp, "layers.{}.feed_forward.w3")
      .Set(kDown, "layers.{}.feed_forward.w2")
      .Set(kFinalNorm, "embedding_norm");
  return names;
}

absl::Status CompleteLfm2(const GgufReader& reader, nlohmann::json* config) {
  KVASIR_RETURN_IF_ERROR(reader.CopyInteger("shortconv.l_cache", "conv_L_cache", config));
  (*config)["block_auto_adjust_ff_dim"] = false;
  const auto layers = (*config)["num_hidden_layers"].get<int64_t>();
  KVASIR_ASSIGN_OR_RETURN(const std::vector<int64_t> kv_heads, reader.KvHeads(layers, 1 << 20));
  SetLayerTypes(
      "conv", [&](int layer) { return kv_heads[layer] > 0; }, config);
  return absl::OkStatus();
}

void DescribeLfm2(const ModelSpec& spec, GgufKeys* keys) {
  for (const LayerSpec& layer : spec.layers) {
    if (layer.short_conv() == nullptr) continue;
    keys->Integer("shortconv.l_cache", layer.short_conv()->kernel);
    return;
  }
}

}  // namespace

std::vector<Architecture> Lfm2Architectures() {
  return {{"Lfm2ForCausalLM",
           "lfm2",
           Read,
           Names,
           false,
           {.name = "lfm2",
            .complete = CompleteLfm2,
            .describe = DescribeLfm2,
            .final_norm = "token_embd_norm"}}};
}

}  // namespace kvasir
