// StableLM: LayerNorm, a quarter of each head rotated, attention and MLP one after the other or
// beside each other, optionally a LayerNorm with weights of its own on each head of q and k.
#include <vector>

#include "base/status_macros.h"
#include "runtime/model/architectures/parts/decoder_config.h"
#include "runtime/model/architectures/parts/kv_sharing.h"
#include "runtime/model/architectures/parts/llama_names.h"
#include "runtime/model/architectures/parts/rope_config.h"
#include "runtime/model/architectures/registry.h"
#include "runtime/model/loading/tensor_forms.h"

namespace kvasir {
namespace {

absl::Status Read(const JsonFields& config, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(
      ReadDecoder(config, {.norm = {NormKind::kLayer, 1e-5f, true, /*has_bias=*/true}}, spec));
  KVASIR_ASSIGN_OR_RETURN(const bool bias, config.BoolOr("use_qkv_bias", false));
  SetAttentionBias(bias, /*output=*/false, spec);
  KVASIR_ASSIGN_OR_RETURN(const bool parallel, config.BoolOr("use_parallel_residual", false));
  KVASIR_ASSIGN_OR_RETURN(const bool qk_norm, config.BoolOr("qk_layernorm", false));
  NormSpec norm = spec->layers[0].norm;
  norm.has_bias = false;
  for (LayerSpec& layer : spec->layers) {
    if (parallel) layer.placement = NormPlacement::kParallelOne;
    if (qk_norm) layer.attention()->qk_norm = {QkNormSpec::Span::kHeads, norm};
  }
  KVASIR_ASSIGN_OR_RETURN(const RopeSpec rope, ReadRope(config, spec->head_dim(),
                                                        spec->max_positions, {.partial = 0.25}));
  spec->ropes = {rope};
  return ParseKvSharing(config, spec);
}

TensorNames Names(const ModelSpec&) {
  TensorNames names = LlamaNames();
  names.Set(WeightRole::kQueryNorm, "layers.{}.self_attn.q_layernorm.norms.{h}", NormPerHeadForm())
      .Set(WeightRole::kKeyNorm, "layers.{}.self_attn.k_layernorm.norms.{h}", NormPerHeadForm());
  return names;
}

absl::Status CompleteStablelm(const GgufReader& reader, nlohmann::json* config) {
  (*config)["use_qkv_bias"] = reader.HasEither("blk.0.attn_q.bias", "blk.0.attn_qkv.bias");
  (*config)["qk_layernorm"] = reader.file().Find("blk.0.attn_q_norm.weight") != nullptr;
  KVASIR_ASSIGN_OR_RETURN(const auto parallel,
                          reader.metadata().Bool(reader.Key("use_parallel_residual")));
  (*config)["use_parallel_residual"] =
      parallel.value_or(reader.file().Find("blk.0.ffn_norm.weight") == nullptr);
  return absl::OkStatus();
}

void DescribeStablelm(const ModelSpec& spec, GgufKeys* keys) {
  keys->Bool("use_parallel_residual", spec.layers[0].placement == NormPlacement::kParallelOne);
}

void RenameStablelm(const ModelSpec&, TensorNames* names) {
  names->Set(WeightRole::kQueryNorm, "blk.{}.attn_q_norm", NormOfHeadsForm())
      .Set(WeightRole::kKeyNorm, "blk.{}.attn_k_norm", NormOfHeadsForm());
}

}  // namespace

std::vector<Architecture> StablelmArchitectures() {
  return {{"StableLmForCausalLM",
           "stablelm",
           Read,
           Names,
           false,
           {.name = "stablelm",
            .complete = CompleteStablelm,
            .describe = DescribeStablelm,
            .rename = RenameStablelm}}};
}

}  // namespace kvasir
