// KvCacheManager's way to and from disk: what a sequence still needs, as one run of bytes.
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "kvcache/kv_cache_manager.h"

namespace kvasir {

std::vector<uint8_t> KvCacheManager::ExportBlocks(const BlockTable& table) const {
  KVASIR_CHECK(table.manager_ == this);
  const int num_tokens = table.num_tokens_;
  const KvArena& arena = *this->arena();
  std::vector<uint8_t> payload;
  payload.reserve(static_cast<size_t>(layout().ExportBytes(num_tokens)));
  for (int g = 0; g < layout().num_block_groups(); ++g) {
    const size_t part_bytes = layout().group(g).kv_part_bytes;
    const int full_blocks = num_tokens / block_tokens_;
    for (int i = layout().FirstNeededBlock(g, num_tokens); i < layout().BlocksFor(num_tokens);
         ++i) {
      const BlockId block = table.lists_[g][i];
      if (i < full_blocks) {
        const auto bytes = arena.Block(g, block).first(part_bytes);
        payload.insert(payload.end(), bytes.begin(), bytes.end());
      } else {
        payload.resize(payload.size() + part_bytes);
        arena.ExportPositions(g, block, num_tokens % block_tokens_,
                              payload.data() + payload.size() - part_bytes);
      }
    }
  }
  if (layout().has_state() && num_tokens > 0) {
    const auto state = arena.Block(layout().state_group(), table.state_slot_);
    payload.insert(payload.end(), state.begin(), state.end());
  }
  return payload;
}

absl::StatusOr<std::vector<absl::Span<uint8_t>>> KvCacheManager::ReserveForImport(BlockTable* table,
                                                                                  int num_tokens) {
  KVASIR_CHECK(table->manager_ == this && table->empty());
  if (num_tokens < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("KV import: num_tokens is ", num_tokens, ", must be at least 1"));
  }
  const int64_t needed_bytes = layout().HeldBytes(num_tokens);
  if (needed_bytes > available_bytes()) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "KV import: ", num_tokens, " tokens need ", needed_bytes, " bytes, ", available_bytes(),
        " are available of ", pool_.capacity_bytes(), "; free or preempt other sequences first"));
  }
  std::vector<absl::Span<uint8_t>> memory;
  for (int g = 0; g < layout().num_block_groups(); ++g) {
    table->first_held_[g] = layout().FirstNeededBlock(g, num_tokens);
    table->lists_[g].assign(table->first_held_[g], kNoBlock);
    while (static_cast<int>(table->lists_[g].size()) < layout().BlocksFor(num_tokens)) {
      AppendBlock(table, g);
      memory.push_back(
          arena()->Block(g, table->lists_[g].back()).first(layout().group(g).kv_part_bytes));
    }
  }
  if (layout().has_state()) {
    MakeStateWritable(table);
    memory.push_back(arena()->Block(layout().state_group(), table->state_slot_));
  }
  return memory;
}

}  // namespace kvasir
