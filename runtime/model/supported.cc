#include "runtime/model/supported.h"

#include <string>

#include "absl/strings/str_cat.h"

namespace kvasir {
namespace {

// What the layer needs and the decoder lacks; null = nothing.
const char* Missing(const ModelSpec& spec, const LayerSpec& layer) {
  if (layer.delta_net() != nullptr) return "gated delta nets";
  if (layer.short_conv() != nullptr) return "short convolutions";
  const AttentionSpec& a = *layer.attention();
  if (layer.placement != NormPlacement::kPre) return "norms other than in front of the sub-layers";
  if (layer.norm.kind != NormKind::kRms) return "norms other than RMSNorm";
  if (layer.residual_multiplier != 1 || layer.layer_scale) return "a multiplier of the residual";
  if (layer.feed_forward.moe) return "experts";
  const DenseMlpSpec& mlp = layer.feed_forward.dense;
  if (!mlp.gated || mlp.activation != Activation::kSilu) return "an MLP other than silu's";
  if (a.latent) return "latent attention";
  if (a.window > 0) return "windows";
  if (a.qk_norm.span != QkNormSpec::Span::kNone || a.v_norm) return "norms of q, k and v";
  if (a.sinks || a.alibi || a.softcap != 0) return "sinks, ALiBi and soft caps";
  if (a.output_gate) return "gates of attention's output";
  if (a.query_temperature_beta != 0) return "temperatures of queries";
  if (a.reads_unrotated_k || a.k_norm_in_query || a.v_is_k) return "borrowed K of another form";
  if (a.rope != 0 || spec.ropes.size() != 1) return "layers that rotate differently";
  const AttentionSpec& first = spec.attention(0);
  if (a.head_dim != first.head_dim || a.v_head_dim != a.head_dim || a.scale != first.scale ||
      a.query_heads != first.query_heads) {
    return "layers of different heads";
  }
  return nullptr;
}

}  // namespace

absl::Status CheckSupported(const ModelSpec& spec) {
  const auto refuse = [&](const std::string& what) {
    return absl::UnimplementedError(
        absl::StrCat(spec.architecture, ": ", what, " cannot be computed yet"));
  };
  for (int layer = 0; layer < spec.num_layers(); ++layer) {
    const char* const missing = Missing(spec, spec.layers[layer]);
    if (missing != nullptr) return refuse(absl::StrCat(missing, " (layer ", layer, ")"));
  }
  if (spec.embedding.multiplier != 1 || spec.embedding.norm.kind != NormKind::kNone ||
      spec.embedding.learned_positions || spec.embedding.size > 0) {
    return refuse("embeddings with multipliers, norms or positions");
  }
  if (spec.head.norm.kind != NormKind::kRms || spec.head.bias || spec.head.multiplier != 1 ||
      spec.head.softcap != 0) {
    return refuse("a head with a bias, multiplier or soft cap");
  }
  if (spec.per_layer_embedding.size > 0 || spec.altup.streams > 0) {
    return refuse("per-layer embeddings");
  }
  if (spec.head_dim() > 256) return refuse("heads of more than 256");
  for (const RopeSpec& rope : spec.ropes) {
    if (rope.attention_factor != 1 || rope.scaling == RopeSpec::Scaling::kLongRope) {
      return refuse("longrope and attention factors");
    }
  }
  return absl::OkStatus();
}

}  // namespace kvasir
