#include "runtime/model/layers/residual_stream.h"

#include "base/check.h"
#include "runtime/model/layers/norm_params.h"
#include "runtime/ops/input_rows.h"
#include "runtime/ops/layers/norm.h"
#include "runtime/ops/layers/residual.h"

namespace kvasir {
namespace {

bool IsParallel(const LayerSpec& spec) {
  return spec.placement == NormPlacement::kParallelOne ||
         spec.placement == NormPlacement::kParallelTwo;
}

bool NormsItsInput(const LayerSpec& spec) {
  return spec.placement != NormPlacement::kPost && spec.placement != NormPlacement::kAfterAdd;
}

constexpr NormSpec kNoNorm{NormKind::kNone};

}  // namespace

// With two parallel norms the feed-forward still has to read x when the mixer is done.
bool ResidualStream::MixerAddsDirectly(const LayerSpec& spec) const {
  return spec.attention() != nullptr && spec.residual_multiplier == 1.0f &&
         (spec.placement == NormPlacement::kPre || spec.placement == NormPlacement::kParallelOne);
}

bool ResidualStream::MlpAddsDirectly(const LayerSpec& spec) const {
  if (IsParallel(spec)) return MixerAddsDirectly(spec);
  return !spec.feed_forward.moe && spec.residual_multiplier == 1.0f &&
         spec.placement == NormPlacement::kPre;
}

void ResidualStream::Read(const NormSpec& spec, const NormWeights& weights, int64_t rows,
                          MatmulInput* out) const {
  const MatrixView x = activations_.Residual(rows);
  if (const auto norm = NormParamsOf(spec, weights)) {
    Normalize(x, *norm, out);
  } else {
    SetRows(x, out);
  }
}

void ResidualStream::ReadForMixer(int layer, int64_t rows, MatmulInput* out) const {
  const LayerSpec& spec = Spec(layer);
  Read(NormsItsInput(spec) ? spec.norm : kNoNorm, Weights(layer).mixer_norm, rows, out);
}

void ResidualStream::ReadForMlp(int layer, int64_t rows, MatmulInput* out) const {
  const LayerSpec& spec = Spec(layer);
  if (spec.placement == NormPlacement::kParallelOne) {
    // What the mixer read; x itself may have the mixer's contribution by now.
    KVASIR_CHECK(out == &activations_.normed && out->rows() == rows);
    return;
  }
  Read(NormsItsInput(spec) ? spec.norm : kNoNorm, Weights(layer).mlp_norm, rows, out);
}

Contribution ResidualStream::MixerTarget(int layer, int64_t rows) const {
  if (MixerAddsDirectly(Spec(layer))) return {activations_.Residual(rows), true};
  return {activations_.Contributed(rows), false};
}

Contribution ResidualStream::MlpTarget(int layer, int64_t rows) const {
  const LayerSpec& spec = Spec(layer);
  if (MlpAddsDirectly(spec)) return {activations_.Residual(rows), true};
  // Parallel sub-layers contribute together.
  return {activations_.Contributed(rows), IsParallel(spec)};
}

void ResidualStream::JoinMixer(int layer, int64_t rows) const {
  const LayerSpec& spec = Spec(layer);
  if (MixerAddsDirectly(spec) || IsParallel(spec)) return;
  Join(spec, Weights(layer).mixer_post_norm, rows);
}

void ResidualStream::JoinMlp(int layer, int64_t rows) const {
  const LayerSpec& spec = Spec(layer);
  if (!MlpAddsDirectly(spec)) Join(spec, Weights(layer).mlp_post_norm, rows);
}

void ResidualStream::Join(const LayerSpec& spec, const NormWeights& post, int64_t rows) const {
  ResidualJoin join;
  join.multiplier = spec.residual_multiplier;
  if (spec.placement == NormPlacement::kPost || spec.placement == NormPlacement::kBoth)
    join.contribution_norm = NormParamsOf(spec.norm, post);
  if (spec.placement == NormPlacement::kAfterAdd) join.out_norm = NormParamsOf(spec.norm, post);
  JoinResidual(activations_.Contributed(rows), join, activations_.Residual(rows));
}

}  // namespace kvasir
