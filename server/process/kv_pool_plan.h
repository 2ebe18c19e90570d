// How large each model's KV pool becomes: sizes given in the configuration as they are, the others
// share what the memory limit leaves beside weights and headroom. Pure arithmetic on figures
// measured by the caller; kvcache/kv_budget checks each sum.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kvcache/kv_layout.h"

namespace kvasir {

struct KvPoolDemand {
  std::string model;  // for messages
  const KvLayout* layout = nullptr;
  int64_t capacity_bytes = 0;      // 0 = automatic
  int64_t max_context_tokens = 0;  // an automatic pool holds at least one sequence of this length
  int64_t max_running = 1;
  int64_t max_step_tokens = 512;
};

struct KvPool {
  int64_t bytes = 0;        // whole blocks
  std::string explanation;  // one line with every summand, for the log
};

// Memory kept free of weights and pools: activations, logits, tokenizers, streams, the allocator's
// slack.
int64_t KvHeadroomBytes(int64_t usable_memory_bytes);

// One pool per demand, in order. Automatic pools get memory in proportion to the bytes of a token,
// so that each model holds equally many tokens, but no more than twice what max_running sequences
// of full length could fill: beyond that a pool would only slowly take memory from other programs.
// ResourceExhausted, naming the model, with the whole sum and the remedy, when something does not
// fit.
absl::StatusOr<std::vector<KvPool>> PlanKvPools(int64_t usable_memory_bytes, int64_t weight_bytes,
                                                const std::vector<KvPoolDemand>& demands);

}  // namespace kvasir
