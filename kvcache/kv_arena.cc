#include "kvcache/kv_arena.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <limits>
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

// Calls copy(offset_bytes, size_bytes) for the first num_positions slots of every tile of a block
// of block group `group`.
template <typename Copy>
void ForEachFilledRange(const KvLayout& layout, int group, size_t num_positions, Copy copy) {
  const size_t element_bytes = KvElementBytes(layout.element_type());
  const bool scaled = layout.element_type() == KvElementType::kInt8;
  for (const int layer : layout.group(group).layers) {
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

absl::StatusOr<std::unique_ptr<KvArena>> KvArena::Create(KvLayout layout, int64_t capacity_bytes,
                                                         KvHugePages huge_pages) {
  if (huge_pages == KvHugePages::kReserved && layout.num_groups() > 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "KV arena: reserved huge pages serve models with one group of layers; this one has ",
        layout.num_groups(), ". Use transparent huge pages"));
  }
  std::unique_ptr<KvArena> arena(new KvArena(std::move(layout), capacity_bytes));
  for (int group = 0; group < arena->layout_.num_groups(); ++group) {
    if (absl::Status status = arena->MapGroup(group, huge_pages); !status.ok()) return status;
  }
  return arena;
}

KvArena::KvArena(KvLayout layout, int64_t capacity_bytes)
    : layout_(std::move(layout)), capacity_bytes_(capacity_bytes), maps_(layout_.num_groups()) {}

absl::Status KvArena::MapGroup(int group, KvHugePages huge_pages) {
  Map& map = maps_[group];
  const int64_t num_blocks = capacity_bytes_ / static_cast<int64_t>(block_bytes(group));
  if (num_blocks < 1 || num_blocks > std::numeric_limits<BlockId>::max()) {
    return absl::InvalidArgumentError(
        absl::StrCat("KV arena: ", capacity_bytes_, " bytes hold ", num_blocks, " blocks of ",
                     block_bytes(group), " bytes, must be 1 to ",
                     std::numeric_limits<BlockId>::max(), "; change the KV cache size"));
  }
  const size_t size_bytes = RoundUpToHugePage(static_cast<size_t>(num_blocks) * block_bytes(group));
  const bool reserved = huge_pages == KvHugePages::kReserved;
  // An ordinary mapping starts on a 4 KiB page: ask for one huge page more and start at the first
  // boundary inside.
  const size_t mapping_bytes = reserved ? size_bytes : size_bytes + kHugePageBytes;
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | (reserved ? MAP_HUGETLB : MAP_NORESERVE);
  void* mapping = mmap(nullptr, mapping_bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (mapping == MAP_FAILED) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "KV arena: cannot map ", mapping_bytes, " bytes for ", num_blocks, " blocks of ",
        block_bytes(group), " bytes", reserved ? " in reserved huge pages" : "", ": ",
        std::strerror(errno),
        reserved ? absl::StrCat("; set vm.nr_hugepages to at least ",
                                mapping_bytes / kHugePageBytes, " or use transparent huge pages")
                 : std::string("; lower the KV cache size")));
  }
  auto* base = reinterpret_cast<uint8_t*>(RoundUpToHugePage(reinterpret_cast<uintptr_t>(mapping)));
  if (huge_pages == KvHugePages::kTransparent) madvise(base, size_bytes, MADV_HUGEPAGE);
  // What users said stays out of core files, and those stay small.
  madvise(mapping, mapping_bytes, MADV_DONTDUMP);
  map = {mapping, mapping_bytes, base, static_cast<int>(num_blocks)};
  return absl::OkStatus();
}

KvArena::~KvArena() {
  for (const Map& map : maps_) {
    if (map.mapping != nullptr) munmap(map.mapping, map.mapping_bytes);
  }
}

KvView KvArena::View(int layer) const {
  KVASIR_CHECK(layer >= 0 && layer < layout_.num_layers());
  KVASIR_CHECK(layout_.kind(layer) == KvLayerKind::kAttention);
  const KvSlice& slice = layout_.slice(layer);
  const int group = layout_.group_of(layer);
  return {.base = maps_[group].base,
          .block_bytes = block_bytes(group),
          .slice = slice,
          .element_type = layout_.element_type(),
          .block_tokens = layout_.block_tokens(),
          .k_dim = slice.k_dim,
          .v_dim = slice.v_dim,
          .v_stride = slice.latent ? slice.k_dim : slice.v_dim,
          .k_columns = layout_.k_columns(layer)};
}

absl::Span<uint8_t> KvArena::State(BlockId slot, int layer) const {
  KVASIR_CHECK(layout_.kind(layer) == KvLayerKind::kState);
  return {At(layout_.state_group(), slot) + layout_.state_offset_bytes(layer),
          static_cast<size_t>(layout_.spec().layers[layer].state_bytes)};
}

uint8_t* KvArena::At(int group, BlockId block) const {
  KVASIR_CHECK(block >= 0 && block < maps_[group].num_blocks);
  return maps_[group].base + static_cast<size_t>(block) * block_bytes(group);
}

absl::Span<uint8_t> KvArena::Block(int group, BlockId block) {
  return {At(group, block), block_bytes(group)};
}

absl::Span<const uint8_t> KvArena::Block(int group, BlockId block) const {
  return {At(group, block), block_bytes(group)};
}

void KvArena::CopyPositions(int group, BlockId from, BlockId to, int num_positions) {
  KVASIR_CHECK(num_positions >= 0 && num_positions <= layout_.block_tokens());
  if (num_positions == layout_.block_tokens()) return CopyBlock(group, from, to);
  const uint8_t* source = At(group, from);
  uint8_t* target = At(group, to);
  ForEachFilledRange(layout_, group, num_positions, [&](size_t offset_bytes, size_t size_bytes) {
    std::memcpy(target + offset_bytes, source + offset_bytes, size_bytes);
  });
}

void KvArena::CopyBlock(int group, BlockId from, BlockId to) {
  KVASIR_CHECK(from != to);
  std::memcpy(At(group, to), At(group, from), block_bytes(group));
}

void KvArena::ExportPositions(int group, BlockId from, int num_positions, uint8_t* to) const {
  KVASIR_CHECK(num_positions >= 0 && num_positions <= layout_.block_tokens());
  const uint8_t* source = At(group, from);
  std::memset(to, 0, layout_.group(group).kv_part_bytes);
  ForEachFilledRange(layout_, group, num_positions, [&](size_t offset_bytes, size_t size_bytes) {
    std::memcpy(to + offset_bytes, source + offset_bytes, size_bytes);
  });
}

void KvArena::PoisonBlock(int group, BlockId block) {
  std::memset(At(group, block), 0xFF, block_bytes(group));
}

void KvArena::ScrubBlock(int group, BlockId block) {
  std::memset(At(group, block), 0, block_bytes(group));
}

void KvArena::Discard(int group, BlockId block) {
  static const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(At(group, block));
  const uintptr_t first = (begin + page - 1) / page * page;
  const uintptr_t end = (begin + block_bytes(group)) / page * page;
  if (first < end) madvise(reinterpret_cast<void*>(first), end - first, MADV_DONTNEED);
}

}  // namespace kvasir
