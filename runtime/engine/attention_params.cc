#include "runtime/engine/attention_params.h"

#include <algorithm>
#include <cmath>

namespace kvasir {
namespace {

// With fewer dimensions the ranking is noise even for small heads.
constexpr int32_t kLeastRank = 8;

// With fewer picks the softmax over them loses too much whatever the ranking (the paper's smallest k).
constexpr int32_t kLeastPicks = 128;

}  // namespace

SparqParams ResolveSparq(const SparqRequest& request, int32_t head_dim, int32_t query_group_size,
                         int32_t context_tokens) {
  SparqParams params;
  const auto share = [&](int32_t whole, float factor) {
    return static_cast<int32_t>(std::lround(static_cast<float>(whole) / (factor * request.compression)));
  };
  params.rank = std::min(request.rank.value_or(std::max(kLeastRank, share(head_dim, 1))), head_dim);
  params.top_k = request.top_k.value_or(std::max(kLeastPicks, share(context_tokens, 2)));
  params.local_window = std::min(request.local_window.value_or(params.top_k / 4), params.top_k);
  params.mean_value = request.mean_value.value_or(query_group_size == 1);
  params.selection = request.selection;
  return params;
}

}  // namespace kvasir
