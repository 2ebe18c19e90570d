#include "kvcache/block_table.h"

#include <utility>

#include "kvcache/kv_cache_manager.h"

namespace kvasir {

BlockTable::BlockTable(BlockTable&& other) noexcept
    : manager_(std::exchange(other.manager_, nullptr)),
      account_(other.account_),
      blocks_(std::exchange(other.blocks_, {})),
      num_tokens_(std::exchange(other.num_tokens_, 0)) {}

BlockTable& BlockTable::operator=(BlockTable&& other) noexcept {
  if (this == &other) return *this;
  Clear();
  manager_ = std::exchange(other.manager_, nullptr);
  account_ = other.account_;
  blocks_ = std::exchange(other.blocks_, {});
  num_tokens_ = std::exchange(other.num_tokens_, 0);
  return *this;
}

BlockTable::~BlockTable() { Clear(); }

void BlockTable::Clear() {
  if (!blocks_.empty()) manager_->ReleaseFrom(this, 0);
  num_tokens_ = 0;
}

}  // namespace kvasir
