// What every layer keeps of a sequence, and where it lies in the pool: the only place that knows
// how a model shares K/V between heads and between layers, which layers forget, and which keep a
// state in place of K/V.
//
// Every scheme of sharing is one table, owner[layer]: the layer whose K/V this layer reads. MHA,
// GQA and MQA: itself, with kv_heads equal to, fewer than, or one of the query heads. CLA: owner =
// layer
// - layer % factor. MLKV: the first layer of its group. Only owner layers take room in a block; a
// borrower never writes.
//
// Layers whose K/V live equally long form a group, whatever their heads and dimensions: one group
// of full attention, one for each window, and one of all layers with a recurrent state. Each group
// has blocks of its own size, and a sequence one block table per group; all groups share one budget
// of bytes (grouped_pool.h). An owner lives as long as its most patient reader asks.
//
// A block holds `block_tokens` positions of every owner layer of its group:
//
//   block: K/V part:    [owner layer][kv head] { K tile [block_tokens][k_dim],
//                                                V tile [block_tokens][v_dim],
//                                                un-rotated K tile [block_tokens][k_dim],
//                                                K scales [block_tokens] f32,
//                                                V scales [block_tokens] f32,
//                                                un-rotated K scales [block_tokens] f32 }
//          column part: [owner layer][kv head] { K columns [k_dim][block_tokens],
//                                                column scales [k_dim] f32,
//                                                V prefix sum [v_dim] f32 }
//
// (scales only for int8: one per token and head). Tiles begin on cache lines. One head's tiles are
// contiguous, so decode attention streams whole tiles. Heads and dimensions may differ from layer
// to layer.
//
// Which planes there are is said by the layers that need them: a latent layer has no V tile, its V
// being the first v_dim values of each K row; the un-rotated K stands beside the rotated one where
// a layer reads K as it was before rotation.
//
// The column part is there only if asked for (k_columns), and only in the group of full attention:
// K once more, dimension by dimension, and the sum of V over all positions of the sequence up to
// the block's end. It is valid in full blocks only, written when a block fills, and made again from
// K and V when a block comes back from disk (runtime/ops/sparse/key_columns): files hold the K/V
// part alone. With it, a block is an odd number of cache lines long, one unused line at its end
// where needed. A block's identity covers the tokens before it (block_hash.h), so a prefix sum is
// as shareable as K and V.
//
// Immutable after Create; thread safe. Does not allocate or touch memory of the pool (see
// kv_arena.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace kvasir {

enum class KvElementType { kF32, kBf16, kF16, kInt8 };

size_t KvElementBytes(KvElementType type);
const char* KvElementTypeName(KvElementType type);  // "f32", "bf16", "f16", "int8"

// A second, dimension-major copy of K, by which positions can be ranked without reading K.
enum class KvColumns {
  kOff,   // none: attention is dense
  kSame,  // in the element type of K and V (int8 K and V: as kInt8)
  kInt8,  // int8 with one f32 scale per dimension and block
};
const char* KvColumnsName(KvColumns keys);  // "off", "same", "int8"

enum class KvLayerKind {
  kAttention,
  kState,  // keeps state_bytes per sequence, rewritten with every token
  kNone    // keeps nothing
};

// What one layer keeps, or reads of its owner.
struct KvLayerSpec {
  KvLayerKind kind = KvLayerKind::kAttention;
  int owner = 0;        // the layer whose K and V this one reads: itself or one before it
  int kv_heads = 0;     // with k_dim, v_dim and latent: a borrower's equal its owner's
  int k_dim = 0;        // elements of one K row
  int v_dim = 0;        // elements of one V row
  bool latent = false;  // V is the first v_dim elements of the K row; v_dim <= k_dim
  int window = 0;       // position p sees (p - window, p]; 0: all before it. Of this layer alone.
  // This layer reads K as it was before rotation. Its owner then stores both.
  bool unrotated_k = false;
  int64_t state_bytes = 0;  // kState, which uses nothing else of the above
};

struct KvLayoutSpec {
  std::vector<KvLayerSpec> layers;  // [num_layers]
  KvElementType element_type = KvElementType::kBf16;
  int block_tokens = 32;  // a multiple of 16, so that tiles are whole cache lines
  KvColumns k_columns = KvColumns::kOff;
};

// Layers that differ in their owner only.
std::vector<KvLayerSpec> UniformKvLayers(absl::Span<const int> owner, int kv_heads, int k_dim,
                                         int v_dim);

// One owner layer's share of a block. Offsets are bytes.
struct KvSlice {
  size_t offset_bytes = 0;       // of the layer's K/V inside a block
  size_t head_stride_bytes = 0;  // from one KV head's K/V to the next one's
  // Inside a head; latent: V's are K's.
  size_t k_offset_bytes = 0;  // 0 but in KvView::ForUnrotatedK
  size_t v_offset_bytes = 0;
  size_t unrotated_k_offset_bytes = 0;        // 0: there is none
  size_t k_scale_offset_bytes = 0;            // int8 only
  size_t v_scale_offset_bytes = 0;            // int8 only
  size_t unrotated_k_scale_offset_bytes = 0;  // int8 only
  // With k_columns only:
  size_t columns_offset_bytes = 0;            // of the layer's columns inside a block
  size_t columns_head_stride_bytes = 0;       // from one KV head's columns to the next one's
  size_t key_column_scales_offset_bytes = 0;  // int8 columns only, inside a head's columns
  size_t v_prefix_sum_offset_bytes = 0;       // inside a head's columns
  int kv_heads = 0;
  int k_dim = 0;
  int v_dim = 0;
  bool latent = false;
};

enum class KvGroupKind {
  kFull,    // every position is kept
  kWindow,  // a position is given back once it lies behind the window
  kState    // one slot of fixed size per sequence
};
const char* KvGroupKindName(KvGroupKind kind);  // "full", "window", "state"

// Layers whose contents are managed alike.
struct KvGroup {
  KvGroupKind kind = KvGroupKind::kFull;
  int window = 0;            // tokens, kWindow only
  std::vector<int> layers;   // ascending, borrowers among them
  size_t block_bytes = 0;    // kState: of a slot
  size_t kv_part_bytes = 0;  // of a block's start: all that is ever written to disk
  // Bytes that one token occupies: the sum over owner layers of their planes, what is kept once per
  // block (column scales, V prefix sums) apart. kState: 0.
  size_t resident_bytes_per_token = 0;
  // Bytes that one token costs a dense decode step in reads, while it is seen: the sum over all
  // layers. kState: 0.
  size_t read_bytes_per_token = 0;
};

class KvLayout {
 public:
  // InvalidArgument, naming the layer and both values, when the table contradicts itself.
  static absl::StatusOr<KvLayout> Create(KvLayoutSpec spec);

  int num_layers() const { return static_cast<int>(spec_.layers.size()); }
  int num_owner_layers() const { return num_owner_layers_; }
  KvLayerKind kind(int layer) const { return spec_.layers[layer].kind; }
  int owner(int layer) const { return spec_.layers[layer].owner; }
  // Whether the layer writes K and V.
  bool is_owner(int layer) const {
    return kind(layer) == KvLayerKind::kAttention && owner(layer) == layer;
  }
  int kv_heads(int layer) const { return spec_.layers[layer].kv_heads; }
  int k_dim(int layer) const { return spec_.layers[layer].k_dim; }
  int v_dim(int layer) const { return spec_.layers[layer].v_dim; }
  KvElementType element_type() const { return spec_.element_type; }
  int block_tokens() const { return spec_.block_tokens; }
  KvColumns k_columns() const { return spec_.k_columns; }
  const KvLayoutSpec& spec() const { return spec_; }

  // The slice that `layer` reads: its owner's. Not of a state layer.
  const KvSlice& slice(int layer) const { return slices_[layer]; }
  // kOff in layers that keep no columns: those of a windowed group.
  KvColumns k_columns(int layer) const;

  // The full group first, then windowed ones, shortest window first, then the state group; each
  // only if there is one.
  absl::Span<const KvGroup> groups() const { return groups_; }
  int num_groups() const { return static_cast<int>(groups_.size()); }
  const KvGroup& group(int index) const { return groups_[index]; }
  // The group that `layer` reads; -1 for layers that keep nothing.
  int group_of(int layer) const { return group_of_[layer]; }
  // Groups [0, num_block_groups()) hold blocks of positions.
  int num_block_groups() const { return num_groups() - (has_state() ? 1 : 0); }
  bool has_full_group() const { return groups_[0].kind == KvGroupKind::kFull; }
  bool has_state() const { return groups_.back().kind == KvGroupKind::kState; }
  int state_group() const { return num_groups() - 1; }  // has_state() only
  // Where a state layer's bytes lie in a slot; a multiple of 64.
  size_t state_offset_bytes(int layer) const { return state_offsets_[layer]; }
  // Of a slot: what a sequence holds whatever its length. 0 without state layers.
  size_t state_bytes_per_sequence() const { return has_state() ? groups_.back().block_bytes : 0; }

  // Sums over the groups. block_bytes: of one block in each block group.
  size_t block_bytes() const { return block_bytes_; }
  size_t resident_bytes_per_token() const { return resident_bytes_per_token_; }
  size_t read_bytes_per_token() const { return read_bytes_per_token_; }
  // Bytes that a dense step reads of cached K/V for the positions [first, end) of one sequence,
  // which share one pass over what they see; exact with windows.
  int64_t ReadBytes(int64_t first, int64_t end) const;

  // Blocks that hold `tokens` positions.
  int BlocksFor(int64_t tokens) const {
    return static_cast<int>((tokens + spec_.block_tokens - 1) / spec_.block_tokens);
  }
  // The first block of block group `group` that positions from `tokens` on may still see. Those
  // before it can be given back.
  int FirstNeededBlock(int group, int64_t tokens) const;
  // Bytes that a sequence of `tokens` computed positions holds, if it shares nothing.
  int64_t HeldBytes(int64_t tokens) const;
  // The most that it holds on its way there in steps of at most `step_tokens`.
  int64_t PeakBytes(int64_t tokens, int64_t step_tokens) const;
  // Blocks of `group` that this is made of: with a window, what one step sees and writes.
  int PeakBlocks(int group, int64_t tokens, int64_t step_tokens) const;
  // Bytes of `tokens` computed positions on disk: what KvCacheManager::ExportBlocks gives.
  int64_t ExportBytes(int64_t tokens) const;

  // A 64-bit digest: two layouts with the same fingerprint have the same K/V part, so that one
  // reads the other's files.
  uint64_t fingerprint() const { return fingerprint_; }

 private:
  KvLayout() = default;
  void MakeGroups();
  void LayOutStates();
  // Places the owner layers of block group `group` in its blocks.
  void LayOutBlocks(int group);

  KvLayoutSpec spec_;
  std::vector<KvSlice> slices_;        // [num_layers]
  std::vector<size_t> state_offsets_;  // [num_layers]
  std::vector<int> group_of_;          // [num_layers]
  std::vector<KvGroup> groups_;
  // What dense attention reads per token, by the layers' own windows (0 = none).
  std::vector<std::pair<int, size_t>> reads_;
  int num_owner_layers_ = 0;
  size_t block_bytes_ = 0;
  size_t resident_bytes_per_token_ = 0;
  size_t read_bytes_per_token_ = 0;
  uint64_t fingerprint_ = 0;
};

// "mha", "mqa", "gqa", with "+cla" or "+mlkv" behind it where layers share: what the KV sharing
// scheme of a model is called in the API and in metrics. `rule` is how the config declared sharing
// between layers.
enum class LayerSharingRule { kNone, kCla, kMlkv, kExplicit };
std::string SharingSchemeName(const KvLayout& layout, int num_query_heads, LayerSharingRule rule);

}  // namespace kvasir
