#include "kvcache/kv_arena.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace kvasir {
namespace {

constexpr size_t kHugePageBytes = size_t{2} << 20;

size_t RoundUpToHugePage(size_t bytes) {
  return (bytes + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
}

// Calls copy(offset_bytes, size_bytes) for the first num_positions slots of every tile of a block.
template <typename Copy>
void ForEachFilledRange(const KvLayout& layout, size_t num_positions, Copy copy) {
  const size_t element_bytes = KvElementBytes(layout.element_type());
  const bool scaled = layout.element_type() == KvElementType::kInt8;
  for (int layer = 0; layer < layout.num_layers(); ++layer) {
    if (!layout.is_owner(layer)) continue;
    const KvSlice& slice = layout.slice(layer);
    for (int head = 0; head < slice.kv_heads; ++head) {
      const size_t start = slice.offset_bytes + head * slice.head_stride_bytes;
      const size_t k_bytes = num_positions * slice.k_dim * element_bytes;
      const size_t scale_bytes = num_positions * sizeof(float);
      const bool unrotated_k = slice.unrotated_k_offset_bytes != 0;
      copy(start, k_bytes);
      if (!slice.latent)
        copy(start + slice.v_offset_bytes, num_positions * slice.v_dim * element_bytes);
      if (unrotated_k) copy(start + slice.unrotated_k_offset_bytes, k_bytes);
      if (!scaled) continue;
      copy(start + slice.k_scale_offset_bytes, scale_bytes);
      if (!slice.latent) copy(start + slice.v_scale_offset_bytes, scale_bytes);
      if (unrotated_k) copy(start + slice.unrotated_k_scale_offset_bytes, scale_bytes);
    }
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<KvArena>> KvArena::Create(KvLayout layout, int num_blocks,
                                                         KvHugePages huge_pages) {
  if (num_blocks < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("KV arena: num_blocks is ", num_blocks, ", must be at least 1"));
  }
  const size_t size_bytes =
      RoundUpToHugePage(static_cast<size_t>(num_blocks) * layout.block_bytes());
  const bool reserved = huge_pages == KvHugePages::kReserved;
  // An ordinary mapping starts on a 4 KiB page: ask for one huge page more and start at the first
  // boundary inside.
  const size_t mapping_bytes = reserved ? size_bytes : size_bytes + kHugePageBytes;
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | (reserved ? MAP_HUGETLB : MAP_NORESERVE);
  void* mapping = mmap(nullptr, mapping_bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (mapping == MAP_FAILED) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "KV arena: cannot map ", mapping_bytes, " bytes for ", num_blocks, " blocks of ",
        layout.block_bytes(), " bytes", reserved ? " in reserved huge pages" : "", ": ",
        std::strerror(errno),
        reserved ? absl::StrCat("; set vm.nr_hugepages to at least ",
                                mapping_bytes / kHugePageBytes, " or use transparent huge pages")
                 : std::string("; lower the KV cache size")));
  }
  auto* base = reinterpret_cast<uint8_t*>(RoundUpToHugePage(reinterpret_cast<uintptr_t>(mapping)));
  if (huge_pages == KvHugePages::kTransparent) madvise(base, size_bytes, MADV_HUGEPAGE);
  // What users said stays out of core files, and those stay small.
  madvise(mapping, mapping_bytes, MADV_DONTDUMP);
  return std::unique_ptr<KvArena>(
      new KvArena(std::move(layout), num_blocks, mapping, mapping_bytes, base));
}

KvArena::KvArena(KvLayout layout, int num_blocks, void* mapping, size_t mapping_bytes,
                 uint8_t* base)
    : layout_(std::move(layout)),
      num_blocks_(num_blocks),
      mapping_(mapping),
      mapping_bytes_(mapping_bytes),
      base_(base) {}

KvArena::~KvArena() { munmap(mapping_, mapping_bytes_); }

KvView KvArena::View(int layer) const {
  KVASIR_CHECK(layer >= 0 && layer < layout_.num_layers());
  const KvSlice& slice = layout_.slice(layer);
  return {.base = base_,
          .block_bytes = layout_.block_bytes(),
          .slice = slice,
          .element_type = layout_.element_type(),
          .block_tokens = layout_.block_tokens(),
          .k_dim = slice.k_dim,
          .v_dim = slice.v_dim,
          .v_stride = slice.latent ? slice.k_dim : slice.v_dim,
          .sparq_keys = layout_.sparq_keys()};
}

absl::Span<uint8_t> KvArena::Block(BlockId block) {
  KVASIR_CHECK(block >= 0 && block < num_blocks_);
  return {base_ + static_cast<size_t>(block) * block_bytes(), block_bytes()};
}

absl::Span<const uint8_t> KvArena::Block(BlockId block) const {
  KVASIR_CHECK(block >= 0 && block < num_blocks_);
  return {base_ + static_cast<size_t>(block) * block_bytes(), block_bytes()};
}

void KvArena::CopyPositions(BlockId from, BlockId to, int num_positions) {
  KVASIR_CHECK(num_positions >= 0 && num_positions <= layout_.block_tokens());
  if (num_positions == layout_.block_tokens()) return CopyBlock(from, to);
  const uint8_t* source = Block(from).data();
  uint8_t* target = Block(to).data();
  ForEachFilledRange(layout_, num_positions, [&](size_t offset_bytes, size_t size_bytes) {
    std::memcpy(target + offset_bytes, source + offset_bytes, size_bytes);
  });
}

void KvArena::CopyBlock(BlockId from, BlockId to) {
  KVASIR_CHECK(from != to);
  std::memcpy(Block(to).data(), Block(from).data(), block_bytes());
}

void KvArena::ExportPositions(BlockId from, int num_positions, uint8_t* to) const {
  KVASIR_CHECK(num_positions >= 0 && num_positions <= layout_.block_tokens());
  const uint8_t* source = Block(from).data();
  std::memset(to, 0, layout_.kv_part_bytes());
  ForEachFilledRange(layout_, num_positions, [&](size_t offset_bytes, size_t size_bytes) {
    std::memcpy(to + offset_bytes, source + offset_bytes, size_bytes);
  });
}

void KvArena::PoisonBlock(BlockId block) { std::memset(Block(block).data(), 0xFF, block_bytes()); }

void KvArena::ScrubBlock(BlockId block) { std::memset(Block(block).data(), 0, block_bytes()); }

}  // namespace kvasir
