// One unit of SparQ attention's work: one query row and one KV head with its query group. Borrows
// everything.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kvcache/kv_view.h"
#include "runtime/ops/sparq_attention.h"

namespace kvasir {

// Positions chosen for one query group, ascending, and the mass that each of its heads has on them.
struct SparsePicks {
  std::vector<int32_t> positions;
  std::vector<float> alpha;  // [group]
};

struct SparqItem {
  const float* q = nullptr;  // [group][k_dim]
  int group = 1;
  int kv_head = 0;
  int positions = 0;                 // S
  absl::Span<const BlockId> blocks;  // cover `positions`
  SparqParams params;
  float scale = 0;       // of the exact scores
  float* out = nullptr;  // [group][v_dim]
  // Whether products may run on bf16 dot-product instructions, which round queries and weights to
  // bf16 (the rule of dense attention: where the products with weights are not f32).
  bool bf16_products = false;
  const SparsePicks* given = nullptr;  // attend to these and rank nothing
  SparsePicks* kept = nullptr;         // gets the picks
  int32_t* num_picks = nullptr;        // gets their number
};

}  // namespace kvasir
