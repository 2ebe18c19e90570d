#include "server/process/kv_pool_plan.h"

#include <algorithm>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kvcache/kv_budget.h"

namespace kvasir {
namespace {

int64_t BytesWithBookkeeping(const KvLayout& layout, int64_t blocks) {
  return blocks * (static_cast<int64_t>(layout.block_bytes()) + KvBookkeepingBytesPerBlock(layout));
}

// Blocks here are one of each group of layers: the unit in which pools grow.
int64_t BlocksOfLongestSequence(const KvPoolDemand& demand) {
  const int64_t block_bytes = static_cast<int64_t>(demand.layout->block_bytes());
  const int64_t bytes = demand.layout->PeakBytes(demand.max_context_tokens, demand.max_step_tokens);
  return (bytes + block_bytes - 1) / block_bytes;
}

// Blocks of an automatic pool beyond which more is of no use; see PlanKvPools.
int64_t UsefulBlocks(const KvPoolDemand& demand) {
  const int64_t per_sequence = BlocksOfLongestSequence(demand);
  const int64_t most = std::numeric_limits<int32_t>::max();
  return per_sequence > most / (2 * demand.max_running) ? most
                                                        : 2 * demand.max_running * per_sequence;
}

// Pool bytes of each demand, not yet checked against the sum.
std::vector<int64_t> DivideMemory(int64_t left_bytes, const std::vector<KvPoolDemand>& demands) {
  int64_t automatic_token_bytes = 0;
  for (const KvPoolDemand& demand : demands) {
    if (demand.capacity_bytes > 0) {
      const int64_t blocks =
          demand.capacity_bytes / static_cast<int64_t>(demand.layout->block_bytes());
      left_bytes -= BytesWithBookkeeping(*demand.layout, blocks);
    } else {
      automatic_token_bytes += static_cast<int64_t>(demand.layout->resident_bytes_per_token());
    }
  }
  std::vector<int64_t> pool_bytes;
  for (const KvPoolDemand& demand : demands) {
    const KvLayout& layout = *demand.layout;
    if (demand.capacity_bytes > 0) {
      pool_bytes.push_back(demand.capacity_bytes);
      continue;
    }
    const double part =
        static_cast<double>(layout.resident_bytes_per_token()) / automatic_token_bytes;
    const double share_bytes = part * static_cast<double>(std::max<int64_t>(0, left_bytes));
    const int64_t blocks = std::min(
        static_cast<int64_t>(share_bytes) / BytesWithBookkeeping(layout, 1), UsefulBlocks(demand));
    // At least one sequence: when that does not fit, the sum says so.
    pool_bytes.push_back(std::max<int64_t>(blocks, BlocksOfLongestSequence(demand)) *
                         static_cast<int64_t>(layout.block_bytes()));
  }
  return pool_bytes;
}

}  // namespace

int64_t KvHeadroomBytes(int64_t usable_memory_bytes) {
  // A tenth, for the allocator and streams grow with the machine; at least what the logits of one
  // step of a large vocabulary and a tokenizer take (512 tokens x 128k x 4 bytes = 256 MiB).
  constexpr int64_t kMin = int64_t{256} << 20;
  return std::max(kMin, usable_memory_bytes / 10);
}

absl::StatusOr<std::vector<KvPool>> PlanKvPools(int64_t usable_memory_bytes, int64_t weight_bytes,
                                                const std::vector<KvPoolDemand>& demands) {
  const int64_t headroom_bytes = KvHeadroomBytes(usable_memory_bytes);
  const std::vector<int64_t> wanted =
      DivideMemory(usable_memory_bytes - weight_bytes - headroom_bytes, demands);

  std::vector<KvPool> pools;
  int64_t others_bytes = 0;  // pools placed so far
  for (size_t i = 0; i < demands.size(); ++i) {
    const KvLayout& layout = *demands[i].layout;
    KvBudgetRequest request;
    request.kv_cache_bytes = wanted[i];
    request.usable_memory_bytes = usable_memory_bytes;
    request.weight_bytes = weight_bytes + others_bytes;
    request.headroom_bytes = headroom_bytes;
    // An operator may choose a pool smaller than the context; requests that cannot fit are refused
    // one by one.
    request.min_tokens = 1;
    absl::StatusOr<KvBudget> budget = ComputeKvBudget(layout, request);
    if (!budget.ok()) {
      return absl::Status(
          budget.status().code(),
          absl::StrCat("KV pool of model '", demands[i].model, "': ", budget.status().message(),
                       others_bytes > 0
                           ? " (the weights' figure includes the other models and their pools)"
                           : ""));
    }
    others_bytes += BytesWithBookkeeping(layout, budget->num_blocks);
    pools.push_back({budget->pool_bytes, std::move(budget->explanation)});
  }
  return pools;
}

}  // namespace kvasir
