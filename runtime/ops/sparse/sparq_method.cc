#include "runtime/ops/sparse/sparq_method.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "runtime/ops/sparse/sparq_attention.h"

namespace kvasir {
namespace {

// With fewer dimensions the ranking is noise even for small heads.
constexpr int32_t kMinRank = 8;

// With fewer picks the softmax over them loses too much whatever the ranking (the paper's smallest
// k).
constexpr int32_t kMinPicks = 128;

// Room for picks to grow in: a head whose attention is spread wants many more than the average one.
constexpr int32_t kGrowth = 4;

}  // namespace

SparseParams ResolveSparq(const SparqRequest& request, const AttentionShape& shape,
                          int32_t context_tokens) {
  SparseParams params;
  params.selection = request.selection;
  const auto share = [&](int32_t whole, float factor) {
    return static_cast<int32_t>(
        std::lround(static_cast<float>(whole) / (factor * request.compression)));
  };
  if (request.all_dimensions) {
    params.rank = shape.head_dim;
    params.top_k = request.top_k.value_or(
        std::max({kMinPicks, request.least_top_k, share(context_tokens, 1)}));
    params.local_window = std::min(request.local_window.value_or(0), params.top_k);
    return params;
  }
  params.rank = std::min(
      request.rank.value_or(std::max({kMinRank, request.least_rank, share(shape.head_dim, 1)})),
      shape.head_dim);
  params.top_k =
      request.top_k.value_or(std::max({kMinPicks, request.least_top_k, share(context_tokens, 2)}));
  params.local_window = std::min(request.local_window.value_or(params.top_k / 4), params.top_k);
  params.mean_value = request.mean_value.value_or(shape.query_group_size == 1);
  params.mean_of_unselected = request.mean_of_unselected;
  params.reuse_picks = request.reuse_picks;
  if (request.least_mass > 0) {
    params.least_mass = request.least_mass;
    const int64_t most = request.max_top_k.value_or(
        std::min(int64_t{kGrowth} * params.top_k, int64_t{context_tokens}));
    params.max_top_k = static_cast<int32_t>(std::max<int64_t>(most, params.top_k));
  }
  return params;
}

int32_t FirstSparsePosition(const SparqRequest& request, const AttentionShape& shape,
                            const SparseParams& params, int32_t prompt_tokens) {
  // With top_k tokens or fewer all are picked: dense attention by another name.
  const int32_t first = std::max({prompt_tokens, request.min_tokens - 1, params.top_k});
  if (!request.only_where_faster) return first;
  // Gain = 1 / (rank / (2 head_dim) + picks / tokens). The rank's share may leave nothing for the
  // picks.
  const double left = 1.0 / kMinSparqGain - 0.5 * params.rank / shape.head_dim;
  if (left <= 0) return std::numeric_limits<int32_t>::max();
  const double picks = params.top_k + kChoosingShare * request.min_tokens;
  return std::max(first,
                  static_cast<int32_t>(std::min(std::ceil(picks / left) - 1,
                                                double{std::numeric_limits<int32_t>::max()})));
}

std::unique_ptr<const ResolvedAttention> SparqMethod::Resolve(const KvLayout& layout,
                                                              absl::Span<const int32_t> query_heads,
                                                              int32_t prompt_tokens,
                                                              int32_t context_tokens) const {
  ResolvedSparq::LayerParams params(layout.num_layers());
  std::optional<int32_t> first;
  for (int layer = 0; layer < layout.num_layers(); ++layer) {
    if (query_heads[layer] == 0 || layout.k_columns(layer) == KvColumns::kOff) continue;
    const AttentionShape shape{.head_dim = layout.k_dim(layer),
                               .query_group_size = query_heads[layer] / layout.kv_heads(layer)};
    params[layer] = ResolveSparq(request_, shape, context_tokens);
    first = std::max(first.value_or(0),
                     FirstSparsePosition(request_, shape, *params[layer], prompt_tokens));
  }
  if (!first) return nullptr;
  return std::make_unique<ResolvedSparq>(std::move(params), *first);
}

}  // namespace kvasir
