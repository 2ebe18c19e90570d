// Reference counts and the states of every block of one group, without contents or hashes:
//
//   vacant  --Fill-->  free  --Take-->  live (1)  --Ref/Unref-->  live (n)  --last Unref-->  free |
//   cached      cached  --Ref-->  live (1)      cached  --Uncache-->  free  --Vacate-->  vacant
//
// Vacant blocks have no memory behind them. Free blocks are a stack, so that the memory touched
// last is used first. Cached blocks are a list in order of their last use. Both are threaded
// through one array of records: every operation is O(1) and nothing is allocated after
// construction. Owned by GroupedPool, which decides what becomes cached. Not thread safe. Misuse (a
// reference too many given back, a free block referenced) is a bug of the caller and aborts.
#pragma once

#include <cstdint>
#include <vector>

#include "kvcache/kv_view.h"

namespace kvasir {

class BlockPool {
 public:
  // All blocks vacant; Fill() takes them from 0 up.
  explicit BlockPool(int num_blocks);

  // A vacant block becomes free, and which; num_vacant() must not be 0.
  BlockId Fill();
  // The free block that was used last becomes vacant, and which; num_free() must not be 0.
  BlockId Vacate();

  // A free block with one reference; num_free() must not be 0.
  BlockId Take();

  // One reference more to a live or cached block.
  void Ref(BlockId block);

  // One reference less. At zero the block becomes cached, as the most recently used, if
  // `keep_cached`, else free. Returns true at zero. `moment` is never less than in calls before.
  bool Unref(BlockId block, bool keep_cached, uint64_t moment = 0);

  // A cached block becomes free.
  void Uncache(BlockId block);

  // The cached block that has been without references for longest, or kNoBlock.
  BlockId oldest_cached() const { return oldest_; }
  // The moment at which it became cached; num_cached() must not be 0.
  uint64_t oldest_moment() const { return records_[oldest_].moment; }

  int ref_count(BlockId block) const;
  bool is_cached(BlockId block) const;

  int num_blocks() const { return static_cast<int>(records_.size()); }
  int num_free() const { return num_free_; }
  int num_cached() const { return num_cached_; }
  int num_vacant() const { return num_vacant_; }
  int num_live() const { return num_blocks() - num_vacant_ - num_free_ - num_cached_; }

 private:
  enum class State : uint8_t { kVacant, kFree, kLive, kCached };
  struct Record {
    int32_t refs = 0;
    BlockId older = kNoBlock;  // cached: towards oldest_. Free, vacant: the next down the stack.
    BlockId newer = kNoBlock;  // cached: towards newest_
    State state = State::kVacant;
    uint64_t moment = 0;  // cached: since when
  };

  Record& record(BlockId block);
  const Record& record(BlockId block) const;
  void PushFree(BlockId block);
  BlockId PopFree();
  void PushVacant(BlockId block);
  void PushNewest(BlockId block, uint64_t moment);
  void Unlink(BlockId block);

  std::vector<Record> records_;  // [num_blocks]
  BlockId free_top_ = kNoBlock;
  BlockId vacant_top_ = kNoBlock;
  BlockId oldest_ = kNoBlock;
  BlockId newest_ = kNoBlock;
  int num_free_ = 0;
  int num_vacant_ = 0;
  int num_cached_ = 0;
};

}  // namespace kvasir
