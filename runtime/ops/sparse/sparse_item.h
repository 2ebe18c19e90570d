// How sparse attention chooses positions, and one unit of its work: one query row and one KV head
// with its query group. Borrows everything.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kvcache/kv_view.h"

namespace kvasir {

// How the query heads of a group agree on positions.
enum class SparseSelection {
  kSoftmaxSum,  // the largest sum of softmax(s): no head outweighs the others by the size of its
                // logits (paper)
  kLogitSum,  // the largest sum of s: the rule of the published evaluation code; cheaper for large
              // groups
};

class PositionChooser;

struct SparseParams {
  int32_t rank = 0;          // 1 to k_dim
  int32_t top_k = 0;         // positions attended to, >= 1, the local window included
  int32_t local_window = 0;  // newest positions always attended to, 0 to top_k
  bool mean_value = false;
  SparseSelection selection = SparseSelection::kSoftmaxSum;

  // Beyond the paper, all off by default.
  // With mean_value: the mean over the positions that were not picked, whose mass it stands in for,
  // not over all.
  bool mean_of_unselected = false;
  // Above 0: the picks grow beyond top_k, best first, until alpha (the mean over the group's heads)
  // reaches least_mass or they are max_top_k (>= top_k).
  float least_mass = 0;
  int32_t max_top_k = 0;
  // Layers in a row that read the same K/V take the picks and alpha of the first of them and rank
  // nothing.
  bool reuse_picks = false;

  // Chooses in SparQ's place; it outlives the call. Without mean_value, least_mass and reuse_picks.
  const PositionChooser* chooser = nullptr;
};

// Positions chosen for one query group, ascending, and the mass that each of its heads has on them.
struct SparsePicks {
  std::vector<int32_t> positions;
  std::vector<float> alpha;  // [group]
};

struct SparseItem {
  const float* q = nullptr;  // [group][k_dim]
  int group = 1;
  int kv_head = 0;
  int positions = 0;                 // S
  absl::Span<const BlockId> blocks;  // cover `positions`
  SparseParams params;
  float scale = 0;       // of the exact scores
  float* out = nullptr;  // [group][v_dim]
  // Whether products may run on bf16 dot-product instructions, which round queries and weights to
  // bf16 (the rule of dense attention: where the products with weights are not f32).
  bool bf16_products = false;
  const SparsePicks* given = nullptr;  // attend to these and rank nothing
  SparsePicks* kept = nullptr;         // gets the picks
  int32_t* num_picks = nullptr;        // gets their number
};

// Another way to choose positions than SparQ's, in front of the same attention: what SparQ is
// compared with. Thread safe.
class PositionChooser {
 public:
  virtual ~PositionChooser() = default;

  // At least one and at most params.top_k of item.positions > top_k; alpha is 1.
  virtual void Choose(const SparseItem& item, const KvView& kv, SparsePicks* picks) const = 0;
  // Bytes of the pool that choosing for one KV head reads.
  virtual int64_t BytesRead(const KvView& kv, int64_t positions) const = 0;
};

}  // namespace kvasir
