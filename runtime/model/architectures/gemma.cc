// Gemma 1, 2 and 3: norms of 1 + weight, embeddings times sqrt(hidden_size); from the second on
// norms on both sides of each sub-layer and windows, in the third a norm on each head of q and k
// and a rope of its own for the windowed layers.
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "runtime/model/architectures/parts/decoder_config.h"
#include "runtime/model/architectures/parts/gemma_config.h"
#include "runtime/model/architectures/parts/kv_sharing.h"
#include "runtime/model/architectures/parts/layer_types.h"
#include "runtime/model/architectures/parts/llama_names.h"
#include "runtime/model/architectures/parts/rope_config.h"
#include "runtime/model/architectures/registry.h"
#include "runtime/model/loading/tensor_forms.h"

namespace kvasir {
namespace {

absl::Status ReadGemma(const JsonFields& config, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(ReadGemmaBase(
      config, {.query_heads = 16, .head_dim = 256, .positions = 8192, .vocab_size = 256000}, spec));
  KVASIR_ASSIGN_OR_RETURN(
      const RopeSpec rope,
      ReadRope(config, spec->head_dim(), spec->max_positions, {.partial_allowed = false}));
  spec->ropes = {rope};
  return ParseKvSharing(config, spec);
}

// Scale, soft caps and norms on both sides.
absl::Status ReadLater(const JsonFields& config, int default_kv_heads, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(ReadGemmaBase(
      config, {.query_heads = 8, .head_dim = 256, .positions = 131072, .vocab_size = 262208},
      spec));
  KVASIR_RETURN_IF_ERROR(ParseKvSharing(config, spec));
  KVASIR_ASSIGN_OR_RETURN(const double scalar,
                          config.NumberOr("query_pre_attn_scalar", 256, 1e-3, 1e6));
  KVASIR_ASSIGN_OR_RETURN(const double cap, config.NumberOr("attn_logit_softcapping", 0, 0, 1e6));
  ForEachAttention(spec, [&](int, AttentionSpec* attention) {
    if (!config.Has("num_key_value_heads")) attention->kv_heads = default_kv_heads;
    attention->scale = static_cast<float>(1 / std::sqrt(scalar));
    attention->softcap = static_cast<float>(cap);
  });
  for (LayerSpec& layer : spec->layers) layer.placement = NormPlacement::kBoth;
  return ReadFinalSoftcap(config, spec);
}

absl::Status ReadGemma2(const JsonFields& config, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(ReadLater(config, 4, spec));
  KVASIR_ASSIGN_OR_RETURN(
      const RopeSpec rope,
      ReadRope(config, spec->head_dim(), spec->max_positions, {.partial_allowed = false}));
  spec->ropes = {rope};
  KVASIR_ASSIGN_OR_RETURN(
      const std::vector<LayerType> types,
      ReadLayerTypes(
          config, spec->num_layers(), {LayerType::kFull, LayerType::kSliding},
          [](int layer) { return layer % 2 == 0 ? LayerType::kSliding : LayerType::kFull; }));
  return ReadWindowsByType(config, types, spec);
}

absl::Status ReadGemma3(const JsonFields& config, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(ReadLater(config, 4, spec));
  const NormSpec norm = spec->layers[0].norm;
  ForEachAttention(spec, [&](int, AttentionSpec* attention) {
    attention->qk_norm = {QkNormSpec::Span::kHead, norm};
  });
  return ReadGemmaLayers(config, /*pattern=*/6, {.theta = 1e6, .partial_allowed = false}, spec);
}

TensorNames WithOnes(TensorNames names) {
  using enum WeightRole;
  for (const WeightRole role :
       {kMixerNorm, kMixerPostNorm, kMlpNorm, kMlpPostNorm, kQueryNorm, kKeyNorm, kFinalNorm}) {
    if (names.Has(role)) names.Change(role, AddOne);
  }
  return names;
}

TensorNames GemmaTensors(const ModelSpec&) { return WithOnes(LlamaNames()); }
TensorNames LaterTensors(const ModelSpec&) { return WithOnes(GemmaNames()); }

absl::Status CompleteGemma(const GgufReader&, nlohmann::json* config) {
  (*config)["hidden_activation"] = "gelu_pytorch_tanh";
  return absl::OkStatus();
}

// What the later ones share. The largest model's scores are scaled by hidden_size / heads, and only
// its number of layers tells.
absl::Status CompleteLater(const GgufReader& reader, int largest_layers, nlohmann::json* config) {
  if (!config->contains("head_dim") || (*config)["num_attention_heads"].get<int64_t>() < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("GGUF key ", reader.Key("attention.key_length"), " is missing"));
  }
  (*config)["hidden_activation"] = "gelu_pytorch_tanh";
  const bool largest = (*config)["num_hidden_layers"] == largest_layers;
  (*config)["query_pre_attn_scalar"] = largest ? (*config)["hidden_size"].get<double>() /
                                                     (*config)["num_attention_heads"].get<double>()
                                               : (*config)["head_dim"].get<double>();
  return reader.CopyNumber("final_logit_softcapping", "final_logit_softcapping", config);
}

absl::Status CompleteGemma2(const GgufReader& reader, nlohmann::json* config) {
  (*config)["final_logit_softcapping"] = 30.0;
  KVASIR_RETURN_IF_ERROR(CompleteLater(reader, 46, config));
  (*config)["attn_logit_softcapping"] = 50.0;
  KVASIR_RETURN_IF_ERROR(
      reader.CopyNumber("attn_logit_softcapping", "attn_logit_softcapping", config));
  return reader.CopyWindows(2, config, /*usual_window=*/4096);
}

void DescribeGemma2(const ModelSpec& spec, GgufKeys* keys) {
  const float cap = spec.attention(0).softcap;
  if (cap > 0) keys->Number("attn_logit_softcapping", cap);
  if (spec.head.softcap > 0) keys->Number("final_logit_softcapping", spec.head.softcap);
  keys->Windows(spec, 2);
}

absl::Status CompleteGemma3(const GgufReader& reader, nlohmann::json* config) {
  KVASIR_RETURN_IF_ERROR(CompleteLater(reader, 62, config));
  (*config)["rope_local_base_freq"] = 10000.0;
  KVASIR_RETURN_IF_ERROR(reader.CopyNumber("rope.freq_base_swa", "rope_local_base_freq", config));
  return reader.CopyWindows(6, config);
}

void DescribeGemma3(const ModelSpec& spec, GgufKeys* keys) {
  if (spec.head.softcap > 0) keys->Number("final_logit_softcapping", spec.head.softcap);
  const float local = spec.ropes.back().theta;
  if (local != 10000.0f) keys->Number("rope.freq_base_swa", local);
  keys->Windows(spec, 6);
}

}  // namespace

std::vector<Architecture> GemmaArchitectures() {
  return {{"GemmaForCausalLM",
           "gemma",
           ReadGemma,
           GemmaTensors,
           false,
           {.name = "gemma", .complete = CompleteGemma}},
          {"Gemma2ForCausalLM",
           "gemma2",
           ReadGemma2,
           LaterTensors,
           false,
           {.name = "gemma2", .complete = CompleteGemma2, .describe = DescribeGemma2}},
          {"Gemma3ForCausalLM",
           "gemma3_text",
           ReadGemma3,
           LaterTensors,
           false,
           {.name = "gemma3", .complete = CompleteGemma3, .describe = DescribeGemma3}},
          {"Gemma3ForConditionalGeneration", "gemma3", ReadGemma3, LaterTensors, true}};
}

}  // namespace kvasir
