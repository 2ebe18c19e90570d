#include "kvcache/block_pool.h"

#include "base/check.h"

namespace kvasir {

BlockPool::BlockPool(int num_blocks) {
  KVASIR_CHECK(num_blocks >= 1);
  records_.resize(num_blocks);
  for (BlockId block = num_blocks - 1; block >= 0; --block) PushVacant(block);
}

BlockId BlockPool::Fill() {
  KVASIR_CHECK(num_vacant_ > 0);
  const BlockId block = vacant_top_;
  vacant_top_ = records_[block].older;
  --num_vacant_;
  PushFree(block);
  return block;
}

BlockId BlockPool::Vacate() {
  const BlockId block = PopFree();
  PushVacant(block);
  return block;
}

BlockId BlockPool::PopFree() {
  KVASIR_CHECK(num_free_ > 0);
  const BlockId block = free_top_;
  free_top_ = records_[block].older;
  --num_free_;
  return block;
}

BlockId BlockPool::Take() {
  const BlockId block = PopFree();
  records_[block] = {.refs = 1, .older = kNoBlock, .newer = kNoBlock, .state = State::kLive};
  return block;
}

void BlockPool::Ref(BlockId block) {
  Record& r = record(block);
  KVASIR_CHECK(r.state == State::kLive || r.state == State::kCached);
  if (r.state == State::kCached) {
    Unlink(block);
    r.state = State::kLive;
  }
  ++r.refs;
}

bool BlockPool::Unref(BlockId block, bool keep_cached, uint64_t moment) {
  Record& r = record(block);
  KVASIR_CHECK(r.refs > 0);
  if (--r.refs > 0) return false;
  if (keep_cached) {
    PushNewest(block, moment);
  } else {
    PushFree(block);
  }
  return true;
}

void BlockPool::Uncache(BlockId block) {
  KVASIR_CHECK(record(block).state == State::kCached);
  Unlink(block);
  PushFree(block);
}

int BlockPool::ref_count(BlockId block) const { return record(block).refs; }

bool BlockPool::is_cached(BlockId block) const { return record(block).state == State::kCached; }

BlockPool::Record& BlockPool::record(BlockId block) {
  KVASIR_CHECK(block >= 0 && block < num_blocks());
  return records_[block];
}

const BlockPool::Record& BlockPool::record(BlockId block) const {
  KVASIR_CHECK(block >= 0 && block < num_blocks());
  return records_[block];
}

void BlockPool::PushFree(BlockId block) {
  records_[block] = {.refs = 0, .older = free_top_, .newer = kNoBlock, .state = State::kFree};
  free_top_ = block;
  ++num_free_;
}

void BlockPool::PushVacant(BlockId block) {
  records_[block] = {.refs = 0, .older = vacant_top_, .newer = kNoBlock, .state = State::kVacant};
  vacant_top_ = block;
  ++num_vacant_;
}

void BlockPool::PushNewest(BlockId block, uint64_t moment) {
  records_[block] = {
      .refs = 0, .older = newest_, .newer = kNoBlock, .state = State::kCached, .moment = moment};
  (newest_ == kNoBlock ? oldest_ : records_[newest_].newer) = block;
  newest_ = block;
  ++num_cached_;
}

void BlockPool::Unlink(BlockId block) {
  const Record& r = records_[block];
  (r.older == kNoBlock ? oldest_ : records_[r.older].newer) = r.newer;
  (r.newer == kNoBlock ? newest_ : records_[r.newer].older) = r.older;
  --num_cached_;
}

}  // namespace kvasir
