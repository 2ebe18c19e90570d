// SparQ as an AttentionMethod: what a request may ask of it, and how that becomes each layer's
// parameters once the length of its context is known. Plain values and pure functions, thread safe.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "runtime/ops/sparse/attention_method.h"
#include "runtime/ops/sparse/sparse_item.h"

namespace kvasir {

// Below this many positions SparQ is not faster everywhere, though it reads less: it spends some
// time on choosing. `kvasir-sparq-bench --break_even` measures where it begins to pay (MHA, GQA and
// MQA, with --head_dim 64 and 128,
// --batch 1 and 8, columns of the K type and int8).
inline constexpr int32_t kDefaultSparqMinTokens = 2048;

// Dense K/V bytes over SparQ's from which on SparQ was never more than 5 % slower in these
// measurements, where what does not shrink with the bytes (choosing, and starting each stage)
// counts as more picks: this share of min_tokens. At 2048 positions and a compression of 2 SparQ
// was 14 % slower at worst (8 sequences, GQA, heads of 64, int8 columns), at 4096 faster.
inline constexpr float kMinSparqGain = 1.8f;
inline constexpr float kChoosingShare = 0.1f;

// Dense K/V bytes over SparQ's, where the request names neither rank nor top_k.
inline constexpr float kDefaultSparqCompression = 8.0f;

// SparQ as asked for; what is absent follows from the context.
struct SparqRequest {
  std::optional<int32_t> rank;          // 1 to head_dim
  std::optional<int32_t> top_k;         // >= 1
  std::optional<int32_t> local_window;  // 0 to top_k
  std::optional<bool> mean_value;
  int32_t min_tokens = kDefaultSparqMinTokens;  // dense below so many positions
  float compression = kDefaultSparqCompression;
  SparseSelection selection = SparseSelection::kSoftmaxSum;
  bool mean_of_unselected = false;
  float least_mass = 0;              // 0 = picks do not grow
  std::optional<int32_t> max_top_k;  // >= top_k
  bool reuse_picks = false;
  // Ranks by the true scores, as if they were known for nothing: all dimensions of K, no mean
  // value, and the whole compression goes into top_k.
  bool all_dimensions = false;
  // Dense wherever reading less would not be faster (attention.auto).
  bool only_where_faster = false;

  // Floors of what follows from the context.
  int32_t least_rank = 1;
  int32_t least_top_k = 1;
};

// What of a layer the parameters depend on.
struct AttentionShape {
  int32_t head_dim = 0;
  int32_t query_group_size = 1;
};

// Rank head_dim / compression and top_k context / (2 compression): each half of the target, by the
// byte model r / (2 d) + k / S. The window is a quarter of the picks. The mean stands in where
// every query head has a KV head of its own, and not in groups (both as in the paper).
// With all dimensions the picks alone are counted: context / compression.
SparseParams ResolveSparq(const SparqRequest& request, const AttentionShape& shape,
                          int32_t context_tokens);

// Of a request with `params`: the first position after its prompt that attends sparsely. A position
// sees itself and all before it, so position p has p + 1 tokens to choose from.
int32_t FirstSparsePosition(const SparqRequest& request, const AttentionShape& shape,
                            const SparseParams& params, int32_t prompt_tokens);

class SparqMethod : public AttentionMethod {
 public:
  explicit SparqMethod(SparqRequest request) : request_(std::move(request)) {}

  const SparqRequest& request() const { return request_; }

  // Covers the layers of plain scores that keep K by column. Where it shall only run if faster, it
  // begins where it is so in each of them.
  std::unique_ptr<const ResolvedAttention> Resolve(const KvLayout& layout,
                                                   absl::Span<const int32_t> query_heads,
                                                   int32_t prompt_tokens,
                                                   int32_t context_tokens) const override;

 private:
  const SparqRequest request_;
};

}  // namespace kvasir
