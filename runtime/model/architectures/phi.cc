// Phi 1 and 2: LayerNorm, attention and MLP beside each other, biases everywhere, partial rope.
// Phi 3 and 4: Llama with fused products and longrope.
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

namespace kvasir {
namespace {

absl::Status ReadPhi(const JsonFields& config, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(ReadDecoder(config,
                                     {.norm = {NormKind::kLayer, 1e-5f, true, /*has_bias=*/true},
                                      .gated = false,
                                      .activation = Activation::kGeluTanh},
                                     spec));
  KVASIR_ASSIGN_OR_RETURN(const bool qk_norm, config.BoolOr("qk_layernorm", false));
  SetAttentionBias(true, true, spec);
  const NormSpec norm = spec->layers[0].norm;
  ForEachAttention(spec, [&](int, AttentionSpec* attention) {
    if (qk_norm) attention->qk_norm = {QkNormSpec::Span::kHead, norm};
  });
  for (LayerSpec& layer : spec->layers) {
    layer.placement = NormPlacement::kParallelOne;
    layer.feed_forward.dense.bias = true;
  }
  spec->head.bias = true;
  KVASIR_ASSIGN_OR_RETURN(const RopeSpec rope, ReadRope(config, spec->head_dim(),
                                                        spec->max_positions, {.partial = 0.5}));
  spec->ropes = {rope};
  return ParseKvSharing(config, spec);
}

TensorNames PhiNames(const ModelSpec&) {
  using enum WeightRole;
  TensorNames names = LlamaNames();
  names.Set(kOutput, "layers.{}.self_attn.dense")
      .Set(kUp, "layers.{}.mlp.fc1")
      .Set(kDown, "layers.{}.mlp.fc2")
      .Set(kQueryNorm, "layers.{}.self_attn.q_layernorm")
      .Set(kKeyNorm, "layers.{}.self_attn.k_layernorm")
      .Set(kFinalNorm, "final_layernorm");
  return names;
}

absl::Status ReadPhi3(const JsonFields& config, ModelSpec* spec) {
  KVASIR_RETURN_IF_ERROR(ReadDecoder(config, {.norm = {NormKind::kRms, 1e-5f}}, spec));
  // Older files say "su" or "yarn" and mean longrope.
  KVASIR_ASSIGN_OR_RETURN(
      const RopeSpec rope,
      ReadRope(config, spec->head_dim(), spec->max_positions, {.yarn_is_longrope = true}));
  spec->ropes = {rope};
  KVASIR_RETURN_IF_ERROR(ParseKvSharing(config, spec));
  return ReadWindowOfAllLayers(config, spec);
}

TensorNames Phi3Names(const ModelSpec&) {
  using enum WeightRole;
  TensorNames names = LlamaNames();
  for (const WeightRole role : {kQuery, kKey, kValue}) {
    names.Set(role, "layers.{}.self_attn.qkv_proj", FusedQkvForm(QkvOrder::kStacked));
  }
  for (const WeightRole role : {kGate, kUp}) {
    names.Set(role, "layers.{}.mlp.gate_up_proj", FusedGateUpForm());
  }
  return names;
}

absl::Status CompletePhi2(const GgufReader& reader, nlohmann::json* config) {
  (*config)["qk_layernorm"] = reader.file().Find("blk.0.attn_q_norm.weight") != nullptr;
  return absl::OkStatus();
}

absl::Status CompletePhi3(const GgufReader& reader, nlohmann::json* config) {
  return reader.CopyInteger("attention.sliding_window", "sliding_window", config);
}

// 0: none. Readers may take the key's absence for the first models of the family.
void DescribePhi3(const ModelSpec& spec, GgufKeys* keys) {
  keys->Integer("attention.sliding_window", spec.attention(0).window);
}

}  // namespace

std::vector<Architecture> PhiArchitectures() {
  return {{"PhiForCausalLM",
           "phi",
           ReadPhi,
           PhiNames,
           false,
           {.name = "phi2", .complete = CompletePhi2}},
          {"Phi3ForCausalLM",
           "phi3",
           ReadPhi3,
           Phi3Names,
           false,
           {.name = "phi3",
            .complete = CompletePhi3,
            .describe = DescribePhi3,
            .writes_qkv_as_one = true,
            .up_holds_gate_too = true}}};
}

}  // namespace kvasir
