// The pool's memory: for each group of a KvLayout one anonymous mapping of blocks in that group's
// format, of which the state group's blocks are slots. Says where things are and moves bytes; does
// not know which block is whose (grouped_pool.h).
//
// Address space is cheap and memory is not: each mapping could hold the whole budget, pages are
// touched lazily, so a block costs memory from its first write on, and Discard gives it back. Fresh
// memory is zero. Aligned to 2 MiB so that the kernel can back it with huge pages, which matters to
// decode attention (4 KiB pages miss the TLB on every tile of a long context).
//
// Owned by GroupedPool. Its own state is immutable after Create; the contents are as thread safe as
// plain memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kvcache/kv_layout.h"
#include "kvcache/kv_view.h"

namespace kvasir {

enum class KvHugePages {
  kNone,
  kTransparent,  // madvise(MADV_HUGEPAGE): used where the kernel has them, never an error
  kReserved,  // MAP_HUGETLB: pages set aside by the operator (vm.nr_hugepages); an error when too
              // few. Only for layouts of one group: each mapping would set the budget aside.
};

class KvArena {
 public:
  // As many blocks of each group as capacity_bytes hold. ResourceExhausted, with the bytes asked
  // for and the remedy, when a mapping is refused; InvalidArgument when some group has no block.
  static absl::StatusOr<std::unique_ptr<KvArena>> Create(
      KvLayout layout, int64_t capacity_bytes, KvHugePages huge_pages = KvHugePages::kTransparent);
  KvArena(const KvArena&) = delete;
  KvArena& operator=(const KvArena&) = delete;
  ~KvArena();

  const KvLayout& layout() const { return layout_; }
  // Most bytes of all blocks in use at once; the pool's to keep.
  int64_t capacity_bytes() const { return capacity_bytes_; }
  int num_blocks(int group) const { return maps_[group].num_blocks; }
  size_t block_bytes(int group) const { return layout_.group(group).block_bytes; }

  // What kernels need of an attention layer: its owner's slice. Any number of layers may view one
  // slice. The blocks are those of layout().group_of(layer).
  KvView View(int layer) const;

  // The bytes of a state layer in `slot`, a block of the state group; aligned to 64.
  // [state_bytes of the layer]
  absl::Span<uint8_t> State(BlockId slot, int layer) const;

  // [block_bytes(group)]
  absl::Span<uint8_t> Block(int group, BlockId block);
  absl::Span<const uint8_t> Block(int group, BlockId block) const;

  // Copies the first num_positions slots of every tile; a full block whole, its columns with it.
  // Other slots of `to` are left.
  void CopyPositions(int group, BlockId from, BlockId to, int num_positions);
  void CopyBlock(int group, BlockId from, BlockId to);

  // CopyPositions into plain memory of kv_part_bytes, in the format of a block's K/V part; slots
  // beyond num_positions become zero.
  void ExportPositions(int group, BlockId from, int num_positions, uint8_t* to) const;

  // Every byte 0xFF: a NaN in f32, bf16 and f16, and NaN scales in int8.
  void PoisonBlock(int group, BlockId block);
  // Every byte zero.
  void ScrubBlock(int group, BlockId block);
  // Gives the system the pages that lie wholly inside the block; what is read there next is zero.
  void Discard(int group, BlockId block);

 private:
  struct Map {
    void* mapping = nullptr;
    size_t mapping_bytes = 0;
    uint8_t* base = nullptr;  // inside mapping, aligned
    int num_blocks = 0;
  };

  KvArena(KvLayout layout, int64_t capacity_bytes);
  absl::Status MapGroup(int group, KvHugePages huge_pages);
  uint8_t* At(int group, BlockId block) const;

  const KvLayout layout_;
  const int64_t capacity_bytes_;
  std::vector<Map> maps_;  // [num_groups], constant after Create
};

}  // namespace kvasir
