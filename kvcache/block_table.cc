#include "kvcache/block_table.h"

#include <utility>

#include "kvcache/kv_cache_manager.h"

namespace kvasir {

BlockTable::BlockTable(BlockTable&& other) noexcept { *this = std::move(other); }

BlockTable& BlockTable::operator=(BlockTable&& other) noexcept {
  if (this == &other) return *this;
  Clear();
  manager_ = std::exchange(other.manager_, nullptr);
  account_ = other.account_;
  lists_ = std::exchange(other.lists_, {});
  first_held_ = std::exchange(other.first_held_, {});
  state_slot_ = std::exchange(other.state_slot_, kNoBlock);
  held_bytes_ = std::exchange(other.held_bytes_, 0);
  state_bytes_ = std::exchange(other.state_bytes_, 0);
  num_tokens_ = std::exchange(other.num_tokens_, 0);
  digests_ = std::exchange(other.digests_, {});
  return *this;
}

BlockTable::~BlockTable() { Clear(); }

void BlockTable::Clear() {
  if (manager_ != nullptr) manager_->ReleaseFrom(this, 0);
  num_tokens_ = 0;
  digests_.clear();
}

int BlockTable::num_blocks() const {
  int blocks = 0;
  for (size_t group = 0; group < lists_.size(); ++group)
    blocks += static_cast<int>(lists_[group].size()) - first_held_[group];
  return blocks;
}

}  // namespace kvasir
