#include "kvcache/kv_budget.h"

#include <algorithm>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace kvasir {
namespace {

// "1234567 bytes (1.2 MiB)": the exact figure to compute with, the other to read.
std::string Size(int64_t bytes) {
  constexpr const char* kUnits[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  while (value >= 1024 && unit < 4) {
    value /= 1024;
    ++unit;
  }
  if (unit == 0) return absl::StrCat(bytes, " bytes");
  return absl::StrFormat("%d bytes (%.1f %s)", bytes, value, kUnits[unit]);
}

std::string Summands(const KvBudgetRequest& request, int64_t num_blocks, int64_t block_bytes,
                     int64_t bookkeeping_bytes) {
  return absl::StrCat("weights ", Size(request.weight_bytes), " + headroom ",
                      Size(request.headroom_bytes), " + KV pool ", Size(num_blocks * block_bytes),
                      " = ", num_blocks, " blocks of ", block_bytes, " bytes + its bookkeeping ",
                      Size(num_blocks * bookkeeping_bytes));
}

absl::Status CheckFigures(const KvBudgetRequest& request) {
  struct Figure {
    const char* name;
    int64_t value;
    int64_t least;
  };
  for (const Figure& figure : {Figure{"kv_cache_bytes", request.kv_cache_bytes, 0},
                               Figure{"usable_memory_bytes", request.usable_memory_bytes, 0},
                               Figure{"weight_bytes", request.weight_bytes, 0},
                               Figure{"headroom_bytes", request.headroom_bytes, 0},
                               Figure{"min_tokens", request.min_tokens, 1},
                               Figure{"step_tokens", request.step_tokens, 1}}) {
    if (figure.value < figure.least) {
      return absl::InvalidArgumentError(absl::StrCat(
          "KV budget: ", figure.name, " is ", figure.value, ", must be at least ", figure.least));
    }
  }
  if (request.kv_cache_bytes == 0 && request.usable_memory_bytes == 0) {
    return absl::InvalidArgumentError(
        "KV budget: the memory this process may use is unknown; set kv_cache.capacity_bytes");
  }
  return absl::OkStatus();
}

}  // namespace

int64_t KvBookkeepingBytesPerBlock(const KvLayout& layout) {
  constexpr int64_t kTokenBytes = sizeof(int32_t);
  constexpr int64_t kEntryBytes = 40;   // two digests and a flag
  constexpr int64_t kRecordBytes = 24;  // reference count, links, state, moment
  constexpr int64_t kAccountBytes = 8;
  constexpr int64_t kHashBytes = 64;  // a slot of 24 bytes and its control byte, at most half used
  const int64_t each =
      layout.block_tokens() * kTokenBytes + kEntryBytes + kRecordBytes + kAccountBytes + kHashBytes;
  // Any group may take all of the pool.
  int64_t blocks = 0;
  for (const KvGroup& group : layout.groups())
    blocks +=
        static_cast<int64_t>((layout.block_bytes() + group.block_bytes - 1) / group.block_bytes);
  return blocks * each;
}

absl::StatusOr<KvBudget> ComputeKvBudget(const KvLayout& layout, const KvBudgetRequest& request) {
  if (absl::Status status = CheckFigures(request); !status.ok()) return status;
  const int64_t block_bytes = static_cast<int64_t>(layout.block_bytes());
  const int64_t bookkeeping_bytes = KvBookkeepingBytesPerBlock(layout);
  const int64_t left_bytes =
      request.usable_memory_bytes - request.weight_bytes - request.headroom_bytes;
  const int64_t least_blocks =
      (layout.PeakBytes(request.min_tokens, request.step_tokens) + block_bytes - 1) / block_bytes;
  const bool explicit_size = request.kv_cache_bytes > 0;

  const int64_t num_blocks = std::min<int64_t>(
      explicit_size ? request.kv_cache_bytes / block_bytes
                    : std::max<int64_t>(0, left_bytes) / (block_bytes + bookkeeping_bytes),
      std::numeric_limits<int32_t>::max());

  if (explicit_size && num_blocks < least_blocks) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the KV cache size of ", Size(request.kv_cache_bytes), " is ", num_blocks,
                     " blocks of ", block_bytes, " bytes; one sequence of ", request.min_tokens,
                     " tokens needs ", least_blocks, " blocks, ", Size(least_blocks * block_bytes),
                     ". Raise kv_cache.capacity_bytes or lower max_context_tokens"));
  }
  const int64_t wanted_blocks = std::max(num_blocks, least_blocks);
  const int64_t sum_bytes = request.weight_bytes + request.headroom_bytes +
                            wanted_blocks * (block_bytes + bookkeeping_bytes);
  if (request.usable_memory_bytes > 0 && sum_bytes > request.usable_memory_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the model does not fit into memory: ",
        Summands(request, wanted_blocks, block_bytes, bookkeeping_bytes), " makes ",
        Size(sum_bytes), ", but this process may use ", Size(request.usable_memory_bytes), "; ",
        Size(sum_bytes - request.usable_memory_bytes), " are missing. ",
        explicit_size ? "Lower kv_cache.capacity_bytes"
                      : absl::StrCat("The pool must hold one sequence of ", request.min_tokens,
                                     " tokens; lower max_context_tokens"),
        ", use a smaller weight or KV element type, or give the process more memory"));
  }

  KvBudget budget;
  budget.num_blocks = static_cast<int>(num_blocks);
  budget.pool_bytes = num_blocks * block_bytes;
  budget.explanation = absl::StrCat(
      Summands(request, num_blocks, block_bytes, bookkeeping_bytes), " makes ", Size(sum_bytes),
      request.usable_memory_bytes > 0 ? absl::StrCat(" of ", Size(request.usable_memory_bytes))
                                      : "",
      "; room for ", num_blocks * layout.block_tokens(), " tokens");
  return budget;
}

}  // namespace kvasir
