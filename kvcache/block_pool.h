// Reference counts and the three states of every block, without contents or hashes:
//
//   free  --Take-->  live (1)  --Ref/Unref-->  live (n)  --last Unref-->  free | cached
//   cached  --Ref-->  live (1)         cached  --Uncache-->  free
//
// Free blocks are a stack, so that the memory touched last is used first. Cached blocks are a list
// in order of their last use. Both are threaded through one array of records: every operation is
// O(1) and nothing is allocated after construction. Owned by KvCacheManager, which decides what
// becomes cached. Not thread safe. Misuse (a reference too many given back, a free block
// referenced) is a bug of the caller and aborts.
#pragma once

#include <cstdint>
#include <vector>

#include "kvcache/kv_view.h"

namespace kvasir {

inline constexpr BlockId kNoBlock = -1;

class BlockPool {
 public:
  // All blocks free; Take() hands them out from 0 up.
  explicit BlockPool(int num_blocks);

  // A free block with one reference; num_free() must not be 0.
  BlockId Take();

  // One reference more to a live or cached block.
  void Ref(BlockId block);

  // One reference less. At zero the block becomes cached, as the most recently used, if
  // `keep_cached`, else free. Returns true at zero.
  bool Unref(BlockId block, bool keep_cached);

  // A cached block becomes free.
  void Uncache(BlockId block);

  // The cached block that has been without references for longest, or kNoBlock.
  BlockId oldest_cached() const { return oldest_; }

  int ref_count(BlockId block) const;
  bool is_cached(BlockId block) const;

  int num_blocks() const { return static_cast<int>(records_.size()); }
  int num_free() const { return num_free_; }
  int num_cached() const { return num_cached_; }
  int num_live() const { return num_blocks() - num_free_ - num_cached_; }

 private:
  enum class State : uint8_t { kFree, kLive, kCached };
  struct Record {
    int32_t refs = 0;
    BlockId older = kNoBlock;  // cached: towards oldest_. Free: the next one down the stack.
    BlockId newer = kNoBlock;  // cached: towards newest_
    State state = State::kFree;
  };

  Record& record(BlockId block);
  const Record& record(BlockId block) const;
  void PushFree(BlockId block);
  void PushNewest(BlockId block);
  void Unlink(BlockId block);

  std::vector<Record> records_;  // [num_blocks]
  BlockId free_top_ = kNoBlock;
  BlockId oldest_ = kNoBlock;
  BlockId newest_ = kNoBlock;
  int num_free_ = 0;
  int num_cached_ = 0;
};

}  // namespace kvasir
