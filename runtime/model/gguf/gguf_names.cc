#include "runtime/model/gguf/gguf_names.h"

#include <string>
#include <utility>
#include <vector>

#include "runtime/model/loading/tensor_forms.h"

namespace kvasir {
namespace {

using enum WeightRole;

// [channels, kernel]; the role has [kernel, channels].
TensorForm SqueezedConvolutionForm() {
  return [](const ModelSpec&, const WeightShape& weight, const std::string& name) {
    StoredPart part;
    part.name = name;
    part.rows = weight.rows;
    part.cols = weight.cols;
    part.shape = {weight.cols, weight.rows};
    part.row_stride = 1;
    part.col_stride = weight.rows;
    return std::vector<StoredPart>{part};
  };
}

void AddAttention(const GgufDialect& dialect, TensorNames* names) {
  names->Set(kOutput, "blk.{}.attn_output")
      .Set(kQueryNorm, "blk.{}.attn_q_norm")
      .Set(kKeyNorm, "blk.{}.attn_k_norm")
      .SetRaw(kSinks, "blk.{}.attn_sinks.weight");
  const std::pair<WeightRole, const char*> products[] = {
      {kQuery, "blk.{}.attn_q"}, {kKey, "blk.{}.attn_k"}, {kValue, "blk.{}.attn_v"}};
  for (const auto& [role, name] : products) {
    const std::string own = name, all = "blk.{}.attn_qkv";
    if (dialect.writes_qkv_as_one) {
      names->Set(role, all, FusedQkvForm(QkvOrder::kStacked))
          .Or(role, own + ".weight", own + ".bias", PlainForm());
    } else {
      names->Set(role, own).Or(role, all + ".weight", all + ".bias",
                               FusedQkvForm(QkvOrder::kStacked));
    }
  }
  if (!dialect.rope_pairs_side_by_side) return;
  for (const WeightRole role : {kQuery, kKey}) names->Change(role, InterleavedRope);
}

void AddFeedForward(const GgufDialect& dialect, TensorNames* names) {
  names->Set(kGate, "blk.{}.ffn_gate").Set(kUp, "blk.{}.ffn_up").Set(kDown, "blk.{}.ffn_down");
  if (dialect.up_holds_gate_too) {
    for (const WeightRole role : {kGate, kUp}) names->Set(role, "blk.{}.ffn_up", FusedGateUpForm());
  }
  names->Set(kRouter, "blk.{}.ffn_gate_inp")
      .SetRaw(kChoiceBias, "blk.{}.exp_probs_b.bias")
      .Set(kExpertGate, "blk.{}.ffn_gate_exps", StackedForm())
      .Set(kExpertUp, "blk.{}.ffn_up_exps", StackedForm())
      .Set(kExpertDown, "blk.{}.ffn_down_exps", StackedForm())
      .Set(kSharedGate, "blk.{}.ffn_gate_shexp")
      .Set(kSharedUp, "blk.{}.ffn_up_shexp")
      .Set(kSharedDown, "blk.{}.ffn_down_shexp");
}

}  // namespace

TensorNames GgufNames(const GgufDialect& dialect, const ModelSpec& spec) {
  TensorNames names;
  names.Prefixes({""})
      .Set(kEmbedding, "token_embd")
      .Set(kEmbeddingNorm, "token_embd_norm")
      .Set(kPositions, "position_embd")
      .Set(kFinalNorm, dialect.final_norm)
      .Set(kHead, "output")
      .Set(kMixerNorm, "blk.{}.attn_norm")
      .Set(kMixerPostNorm, "blk.{}.post_attention_norm")
      .Set(kMlpNorm, dialect.mlp_norm)
      .Set(kMlpPostNorm, "blk.{}.post_ffw_norm")
      .Set(kConvIn, "blk.{}.shortconv.in_proj")
      .Set(kConv, "blk.{}.shortconv.conv", SqueezedConvolutionForm())
      .Set(kConvOut, "blk.{}.shortconv.out_proj")
      // Read with the configuration.
      .Unused({"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"});
  AddAttention(dialect, &names);
  AddFeedForward(dialect, &names);
  if (dialect.rename != nullptr) dialect.rename(spec, &names);
  return names;
}

}  // namespace kvasir
