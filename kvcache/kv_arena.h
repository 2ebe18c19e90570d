// The pool's memory: one anonymous mapping of num_blocks blocks in the format of a KvLayout. Says
// where things are and moves bytes; does not know which block is whose (block_pool.h).
//
// Pages are touched lazily: a block costs memory from its first write on. Fresh memory is zero.
// Aligned to 2 MiB so that the kernel can back it with huge pages, which matters to decode
// attention (4 KiB pages miss the TLB on every tile of a long context).
//
// Owned by KvCacheManager. Its own state is immutable after Create; the contents are as thread safe
// as plain memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kvcache/kv_layout.h"
#include "kvcache/kv_view.h"

namespace kvasir {

enum class KvHugePages {
  kNone,
  kTransparent,  // madvise(MADV_HUGEPAGE): used where the kernel has them, never an error
  kReserved,  // MAP_HUGETLB: pages set aside by the operator (vm.nr_hugepages); an error when too
              // few
};

class KvArena {
 public:
  // ResourceExhausted, with the bytes asked for and the remedy, when the mapping is refused.
  static absl::StatusOr<std::unique_ptr<KvArena>> Create(
      KvLayout layout, int num_blocks, KvHugePages huge_pages = KvHugePages::kTransparent);
  KvArena(const KvArena&) = delete;
  KvArena& operator=(const KvArena&) = delete;
  ~KvArena();

  const KvLayout& layout() const { return layout_; }
  int num_blocks() const { return num_blocks_; }
  size_t block_bytes() const { return layout_.block_bytes(); }
  size_t size_bytes() const { return static_cast<size_t>(num_blocks_) * layout_.block_bytes(); }

  // What kernels need of `layer`: its owner's slice. Any number of layers may view one slice.
  KvView View(int layer) const;

  // [block_bytes]
  absl::Span<uint8_t> Block(BlockId block);
  absl::Span<const uint8_t> Block(BlockId block) const;

  // Copies the first num_positions slots of every tile; a full block whole, its columns with it.
  // Other slots of `to` are left.
  void CopyPositions(BlockId from, BlockId to, int num_positions);
  void CopyBlock(BlockId from, BlockId to);

  // CopyPositions into plain memory of kv_part_bytes(), in the format of a block's K/V part; slots
  // beyond num_positions become zero.
  void ExportPositions(BlockId from, int num_positions, uint8_t* to) const;

  // Every byte 0xFF: a NaN in f32, bf16 and f16, and NaN scales in int8.
  void PoisonBlock(BlockId block);
  // Every byte zero.
  void ScrubBlock(BlockId block);

 private:
  KvArena(KvLayout layout, int num_blocks, void* mapping, size_t mapping_bytes, uint8_t* base);

  const KvLayout layout_;
  const int num_blocks_;
  void* const mapping_;
  const size_t mapping_bytes_;
  uint8_t* const base_;  // inside mapping_, aligned
};

}  // namespace kvasir
