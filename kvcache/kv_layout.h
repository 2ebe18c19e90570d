// Where the K and V of every layer lie inside one block of the paged pool: the only place that
// knows how a model shares K/V between heads and between layers.
//
// Every scheme is one table, owner[layer]: the layer whose K/V this layer reads. MHA, GQA and MQA:
// itself, with kv_heads equal to, fewer than, or one of the query heads. CLA: owner = layer - layer
// % factor. MLKV: the first layer of its group. Only owner layers take room in a block; a borrower
// never writes.
//
// A block holds `block_tokens` positions of every owner layer:
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
// The column part is there only for SparQ (sparq_keys): K once more, dimension by dimension, and
// the sum of V over all positions of the sequence up to the block's end. It is valid in full blocks
// only, written when a block fills, and made again from K and V when a block comes back from disk
// (runtime/ops/key_columns): files hold the K/V part alone. With it, a block is an odd number of
// cache lines long, one unused line at its end where needed. A block's identity covers the tokens
// before it (block_hash.h), so a prefix sum is as shareable as K and V.
//
// Immutable after Create; thread safe. Does not allocate or touch memory of the pool (see
// kv_arena.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace kvasir {

enum class KvElementType { kF32, kBf16, kF16, kInt8 };

size_t KvElementBytes(KvElementType type);
const char* KvElementTypeName(KvElementType type);  // "f32", "bf16", "f16", "int8"

// The second, dimension-major copy of K that SparQ ranks positions with.
enum class SparqKeys {
  kOff,   // none: attention is dense
  kSame,  // in the element type of K and V (int8 K and V: as kInt8)
  kInt8,  // int8 with one f32 scale per dimension and block
};
const char* SparqKeysName(SparqKeys keys);  // "off", "same", "int8"

// What one layer keeps, or reads of its owner.
struct KvLayerSpec {
  int owner = 0;        // the layer whose K and V this one reads: itself or one before it
  int kv_heads = 0;     // with k_dim, v_dim and latent: a borrower's equal its owner's
  int k_dim = 0;        // elements of one K row
  int v_dim = 0;        // elements of one V row
  bool latent = false;  // V is the first v_dim elements of the K row; v_dim <= k_dim
  // This layer reads K as it was before rotation. Its owner then stores both.
  bool unrotated_k = false;
};

struct KvLayoutSpec {
  std::vector<KvLayerSpec> layers;  // [num_layers]
  KvElementType element_type = KvElementType::kBf16;
  int block_tokens = 32;  // a multiple of 16, so that tiles are whole cache lines
  SparqKeys sparq_keys = SparqKeys::kOff;
};

// Layers that differ in their owner only.
std::vector<KvLayerSpec> UniformKvLayers(absl::Span<const int> owner, int kv_heads, int k_dim,
                                         int v_dim);

// One owner layer's share of a block. Offsets are bytes.
struct KvSlice {
  size_t offset_bytes = 0;       // of the layer's K/V inside a block
  size_t head_stride_bytes = 0;  // from one KV head's K/V to the next one's
  // Inside a head, where the K tile is at 0; latent: V's are K's.
  size_t v_offset_bytes = 0;
  size_t unrotated_k_offset_bytes = 0;        // 0: there is none
  size_t k_scale_offset_bytes = 0;            // int8 only
  size_t v_scale_offset_bytes = 0;            // int8 only
  size_t unrotated_k_scale_offset_bytes = 0;  // int8 only
  // SparQ only:
  size_t columns_offset_bytes = 0;            // of the layer's columns inside a block
  size_t columns_head_stride_bytes = 0;       // from one KV head's columns to the next one's
  size_t key_column_scales_offset_bytes = 0;  // int8 columns only, inside a head's columns
  size_t v_prefix_sum_offset_bytes = 0;       // inside a head's columns
  int kv_heads = 0;
  int k_dim = 0;
  int v_dim = 0;
  bool latent = false;
};

class KvLayout {
 public:
  // InvalidArgument, naming the layer and both values, when the table contradicts itself.
  static absl::StatusOr<KvLayout> Create(KvLayoutSpec spec);

  int num_layers() const { return static_cast<int>(spec_.layers.size()); }
  int num_owner_layers() const { return num_owner_layers_; }
  int last_owner_layer() const { return last_owner_layer_; }
  int owner(int layer) const { return spec_.layers[layer].owner; }
  bool is_owner(int layer) const { return owner(layer) == layer; }
  int kv_heads(int layer) const { return spec_.layers[layer].kv_heads; }
  int k_dim(int layer) const { return spec_.layers[layer].k_dim; }
  int v_dim(int layer) const { return spec_.layers[layer].v_dim; }
  KvElementType element_type() const { return spec_.element_type; }
  int block_tokens() const { return spec_.block_tokens; }
  SparqKeys sparq_keys() const { return spec_.sparq_keys; }
  const KvLayoutSpec& spec() const { return spec_; }

  // The slice that `layer` reads: its owner's.
  const KvSlice& slice(int layer) const { return slices_[layer]; }

  size_t block_bytes() const { return block_bytes_; }
  // Of those, the K/V part at the block's start: all that is ever written to disk.
  size_t kv_part_bytes() const { return kv_part_bytes_; }

  // Bytes one token occupies in the pool: the sum over owner layers of their planes, what is kept
  // once per block (column scales, V prefix sums) apart.
  size_t resident_bytes_per_token() const { return resident_bytes_per_token_; }
  // Bytes one cached token costs a dense decode step in reads: the sum over all layers.
  size_t read_bytes_per_token() const { return read_bytes_per_token_; }

  // Blocks that hold `tokens` positions.
  int BlocksFor(int64_t tokens) const {
    return static_cast<int>((tokens + spec_.block_tokens - 1) / spec_.block_tokens);
  }

  // A 64-bit digest: two layouts with the same fingerprint have the same K/V part, so that one
  // reads the other's files.
  uint64_t fingerprint() const { return fingerprint_; }

 private:
  KvLayoutSpec spec_;
  std::vector<KvSlice> slices_;  // [num_layers]
  int num_owner_layers_ = 0;
  int last_owner_layer_ = 0;
  size_t block_bytes_ = 0;
  size_t kv_part_bytes_ = 0;
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
