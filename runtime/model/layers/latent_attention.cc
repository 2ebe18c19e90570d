#include "runtime/model/layers/latent_attention.h"

#include <cstring>

#include "runtime/ops/input_rows.h"
#include "runtime/ops/layers/norm.h"

namespace kvasir {
namespace {

// Room for a product's rows, which are rounded up.
MatrixView Resized(AlignedBuffer<float>* buffer, int64_t rows, int64_t cols) {
  buffer->Resize(RoundUpRows(rows) * cols);
  return {buffer->data(), rows, cols, cols};
}

// `cols` columns of every row from `begin` on.
MatrixView Columns(MatrixView x, int64_t begin, int64_t cols) {
  return {x.data + begin, x.rows, cols, x.stride};
}

NormParams ParamsOf(const NormWeights& weights, const NormSpec& spec) {
  NormParams params;
  params.epsilon = spec.eps;
  params.weight = weights.weight.data();
  return params;
}

void CopyColumns(MatrixView from, MatrixView to) {
  for (int64_t r = 0; r < from.rows; ++r) {
    std::memcpy(to.row(r), from.row(r), from.cols * sizeof(float));
  }
}

}  // namespace

void LatentAttention::StoreKv(const AttentionSpec& spec, const AttentionWeights& weights,
                              RopeView rope, const MatmulInput& x,
                              absl::Span<const int32_t> positions,
                              absl::Span<const BlockId> slot_blocks, const KvView& kv) {
  const LatentSpec& latent = *spec.latent;
  const int64_t rank = latent.kv_rank, width = rank + latent.rope_dim;
  const MatrixView rows = Resized(&rows_, x.rows(), width);
  weights.kv_a->Run(x, rows, /*accumulate=*/false);
  NormalizeInPlace(Columns(rows, 0, rank), ParamsOf(weights.kv_a_norm, latent.norm));
  ApplyRope(Columns(rows, rank, latent.rope_dim), 1, latent.rope_dim, positions, rope);
  WriteKv(rows, MatrixView{}, positions, slot_blocks, kv);
}

MatrixView LatentAttention::Queries(const AttentionSpec& spec, const AttentionWeights& weights,
                                    RopeView rope, const MatmulInput& x,
                                    absl::Span<const int32_t> positions) {
  const LatentSpec& latent = *spec.latent;
  const int64_t head_dim = latent.nope_dim + latent.rope_dim;
  const int64_t width = latent.kv_rank + latent.rope_dim;
  const int64_t rows = x.rows();
  const MatrixView queries = Resized(&queries_, rows, spec.query_heads * head_dim);
  if (weights.q_a != nullptr) {
    const MatrixView latents = Resized(&projected_, rows, latent.q_rank);
    weights.q_a->Run(x, latents, /*accumulate=*/false);
    Normalize(latents, ParamsOf(weights.q_a_norm, latent.norm), &query_latents_);
    weights.q->Run(query_latents_, queries, /*accumulate=*/false);
  } else {
    weights.q->Run(x, queries, /*accumulate=*/false);
  }
  const MatrixView absorbed = Resized(&absorbed_, rows, spec.query_heads * width);
  for (int head = 0; head < spec.query_heads; ++head) {
    const MatrixView to = Columns(absorbed, head * width, latent.kv_rank);
    SetRows(Columns(queries, head * head_dim, latent.nope_dim), &head_input_);
    weights.k_up[head]->Run(head_input_, to, /*accumulate=*/false);
    CopyColumns(Columns(queries, head * head_dim + latent.nope_dim, latent.rope_dim),
                Columns(absorbed, head * width + latent.kv_rank, latent.rope_dim));
  }
  // Each head's last rope_dim values: heads are `width` apart.
  ApplyRope(Columns(absorbed, latent.kv_rank, absorbed.cols), spec.query_heads,
            static_cast<int>(width), positions, rope);
  return absorbed;
}

void LatentAttention::Attend(const AttentionSpec& spec, const AttentionWeights& weights,
                             RopeView rope, const MatmulInput& x,
                             absl::Span<const int32_t> positions,
                             absl::Span<const AttentionSequence> sequences, const KvView& kv,
                             MatrixView out, bool accumulate) {
  const LatentSpec& latent = *spec.latent;
  AttentionRules rules;
  rules.scale = spec.scale;
  rules.window = spec.window;
  attention_.Run({Queries(spec, weights, rope, x, positions), spec.query_heads, {}}, rules,
                 sequences, kv, &attended_);
  const MatrixView values = Resized(&values_, x.rows(), int64_t{spec.query_heads} * latent.v_dim);
  for (int head = 0; head < spec.query_heads; ++head) {
    SliceColumns(attended_, int64_t{head} * latent.kv_rank, latent.kv_rank, &head_input_);
    weights.v_up[head]->Run(head_input_, Columns(values, head * latent.v_dim, latent.v_dim),
                            /*accumulate=*/false);
  }
  SetRows(values, &mixed_);
  weights.o->Run(mixed_, out, accumulate);
}

}  // namespace kvasir
