#include "kvcache/kv_layout.h"

#include <openssl/sha.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace kvasir {
namespace {

constexpr size_t kCacheLineBytes = 64;

// Limits far above any model, so that no product of sizes below can overflow 64 bits.
constexpr int kMaxLayers = 1 << 12;
constexpr int kMaxKvHeads = 1 << 14;
constexpr int kMaxDim = 1 << 14;
constexpr int kMaxBlockTokens = 1 << 10;

size_t RoundUpToCacheLine(size_t bytes) {
  return (bytes + kCacheLineBytes - 1) / kCacheLineBytes * kCacheLineBytes;
}

absl::Status CheckRange(absl::string_view what, int value, int low, int high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("KV layout: ", what, " is ", value, ", must lie in [", low, ", ", high, "]"));
}

absl::Status Validate(const KvLayoutSpec& spec) {
  const int num_layers = static_cast<int>(spec.owner.size());
  if (auto s = CheckRange("the number of layers", num_layers, 1, kMaxLayers); !s.ok()) return s;
  if (spec.kv_heads.size() != spec.owner.size()) {
    return absl::InvalidArgumentError(absl::StrCat("KV layout: owners are given for ", num_layers,
                                                   " layers, but KV head counts for ",
                                                   spec.kv_heads.size()));
  }
  if (auto s = CheckRange("k_dim", spec.k_dim, 1, kMaxDim); !s.ok()) return s;
  if (auto s = CheckRange("v_dim", spec.v_dim, 1, kMaxDim); !s.ok()) return s;
  if (auto s = CheckRange("block_tokens", spec.block_tokens, 16, kMaxBlockTokens); !s.ok())
    return s;
  if (spec.block_tokens % 16 != 0) {
    return absl::InvalidArgumentError(absl::StrCat("KV layout: block_tokens is ", spec.block_tokens,
                                                   ", must be a multiple of 16 (32 is usual)"));
  }
  for (int layer = 0; layer < num_layers; ++layer) {
    const int owner = spec.owner[layer];
    if (owner < 0 || owner > layer) {
      return absl::InvalidArgumentError(
          absl::StrCat("KV layout: layer ", layer, " names layer ", owner,
                       " as the owner of its K/V; it must be itself or a layer before it"));
    }
    if (spec.owner[owner] != owner) {
      return absl::InvalidArgumentError(absl::StrCat("KV layout: layer ", layer, " names layer ",
                                                     owner, " as the owner of its K/V, but layer ",
                                                     owner, " itself borrows from layer ",
                                                     spec.owner[owner]));
    }
    if (auto s = CheckRange(absl::StrCat("the number of KV heads of layer ", layer),
                            spec.kv_heads[layer], 1, kMaxKvHeads);
        !s.ok()) {
      return s;
    }
    if (spec.kv_heads[layer] != spec.kv_heads[owner]) {
      return absl::InvalidArgumentError(absl::StrCat(
          "KV layout: layer ", layer, " reads ", spec.kv_heads[layer],
          " KV heads, but its owner, layer ", owner, ", stores ", spec.kv_heads[owner]));
    }
  }
  return absl::OkStatus();
}

uint64_t Fingerprint(const KvLayoutSpec& spec) {
  std::vector<int32_t> words = {/*format version=*/1,
                                static_cast<int32_t>(spec.owner.size()),
                                spec.k_dim,
                                spec.v_dim,
                                static_cast<int32_t>(spec.element_type),
                                spec.block_tokens};
  words.insert(words.end(), spec.owner.begin(), spec.owner.end());
  words.insert(words.end(), spec.kv_heads.begin(), spec.kv_heads.end());
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(words.data()), words.size() * sizeof(words[0]),
         digest);
  uint64_t fingerprint;
  std::memcpy(&fingerprint, digest, sizeof(fingerprint));
  return fingerprint;
}

}  // namespace

size_t KvElementBytes(KvElementType type) {
  switch (type) {
    case KvElementType::kF32:
      return 4;
    case KvElementType::kBf16:
    case KvElementType::kF16:
      return 2;
    case KvElementType::kInt8:
      return 1;
  }
  KVASIR_CHECK(false);
}

const char* KvElementTypeName(KvElementType type) {
  switch (type) {
    case KvElementType::kF32:
      return "f32";
    case KvElementType::kBf16:
      return "bf16";
    case KvElementType::kF16:
      return "f16";
    case KvElementType::kInt8:
      return "int8";
  }
  KVASIR_CHECK(false);
}

const char* SparqKeysName(SparqKeys keys) {
  switch (keys) {
    case SparqKeys::kOff:
      return "off";
    case SparqKeys::kSame:
      return "same";
    case SparqKeys::kInt8:
      return "int8";
  }
  KVASIR_CHECK(false);
}

absl::StatusOr<KvLayout> KvLayout::Create(KvLayoutSpec spec) {
  if (absl::Status status = Validate(spec); !status.ok()) return status;
  // One scale per token cannot be folded into a column, so int8 columns have scales of their own.
  if (spec.sparq_keys == SparqKeys::kSame && spec.element_type == KvElementType::kInt8) {
    spec.sparq_keys = SparqKeys::kInt8;
  }

  const size_t element_bytes = KvElementBytes(spec.element_type);
  const bool scaled = spec.element_type == KvElementType::kInt8;
  const size_t tokens = spec.block_tokens;
  const size_t k_tile_bytes = RoundUpToCacheLine(tokens * spec.k_dim * element_bytes);
  const size_t v_tile_bytes = RoundUpToCacheLine(tokens * spec.v_dim * element_bytes);
  const size_t scale_bytes = scaled ? tokens * sizeof(float) : 0;  // 16 floats fill a line
  const size_t kv_bytes = k_tile_bytes + v_tile_bytes + 2 * scale_bytes;
  const size_t kv_bytes_per_token =
      (spec.k_dim + spec.v_dim) * element_bytes + (scaled ? 2 * sizeof(float) : 0);

  const bool columns = spec.sparq_keys != SparqKeys::kOff;
  const bool scaled_columns = spec.sparq_keys == SparqKeys::kInt8;
  const size_t column_bytes_per_token =
      columns ? spec.k_dim * (scaled_columns ? sizeof(int8_t) : element_bytes) : 0;
  const size_t columns_bytes = RoundUpToCacheLine(tokens * column_bytes_per_token);
  const size_t column_scales_bytes =
      scaled_columns ? RoundUpToCacheLine(spec.k_dim * sizeof(float)) : 0;
  const size_t v_sum_bytes = columns ? RoundUpToCacheLine(spec.v_dim * sizeof(float)) : 0;
  const size_t head_column_bytes = columns_bytes + column_scales_bytes + v_sum_bytes;

  KvLayout layout;
  const int num_layers = static_cast<int>(spec.owner.size());
  layout.slices_.resize(num_layers);
  size_t columns_part_bytes = 0;
  for (int layer = 0; layer < num_layers; ++layer) {
    const size_t heads = spec.kv_heads[layer];
    layout.read_bytes_per_token_ += heads * kv_bytes_per_token;
    if (spec.owner[layer] != layer) {
      layout.slices_[layer] = layout.slices_[spec.owner[layer]];
      continue;
    }
    layout.slices_[layer] = {
        .offset_bytes = layout.kv_part_bytes_,
        .head_stride_bytes = kv_bytes,
        .v_offset_bytes = k_tile_bytes,
        .k_scale_offset_bytes = scaled ? k_tile_bytes + v_tile_bytes : 0,
        .v_scale_offset_bytes = scaled ? k_tile_bytes + v_tile_bytes + scale_bytes : 0,
        .columns_offset_bytes =
            columns_part_bytes,  // behind the K/V part, whose size is known below
        .columns_head_stride_bytes = head_column_bytes,
        .key_column_scales_offset_bytes = scaled_columns ? columns_bytes : 0,
        .v_prefix_sum_offset_bytes = columns ? columns_bytes + column_scales_bytes : 0,
        .kv_heads = spec.kv_heads[layer]};
    layout.kv_part_bytes_ += heads * kv_bytes;
    columns_part_bytes += heads * head_column_bytes;
    layout.resident_bytes_per_token_ += heads * (kv_bytes_per_token + column_bytes_per_token);
    layout.last_owner_layer_ = layer;
    ++layout.num_owner_layers_;
  }
  for (KvSlice& slice : layout.slices_) {
    slice.columns_offset_bytes = columns ? layout.kv_part_bytes_ + slice.columns_offset_bytes : 0;
  }
  layout.block_bytes_ = layout.kv_part_bytes_ + columns_part_bytes;
  // Ranking reads the same few lines of every block. Were blocks an even number of lines apart,
  // those would share a fraction of the cache's sets and push each other out (measured: 17 instead
  // of 30 GB/s on one core).
  if (columns && layout.block_bytes_ / kCacheLineBytes % 2 == 0) {
    layout.block_bytes_ += kCacheLineBytes;
  }
  layout.fingerprint_ = Fingerprint(spec);
  layout.spec_ = std::move(spec);
  return layout;
}

std::string SharingSchemeName(const KvLayout& layout, int num_query_heads, LayerSharingRule rule) {
  const std::vector<int>& heads = layout.spec().kv_heads;
  const auto [fewest, most] = std::minmax_element(heads.begin(), heads.end());
  std::string name = *fewest == num_query_heads ? "mha" : *most == 1 ? "mqa" : "gqa";
  if (layout.num_owner_layers() == layout.num_layers()) return name;

  // A map the config spelled out layer by layer is called by the rule it happens to follow; one
  // that follows no share factor is the general case, which is MLKV's.
  if (rule == LayerSharingRule::kExplicit || rule == LayerSharingRule::kNone) {
    int factor = 1;
    while (factor < layout.num_layers() && !layout.is_owner(factor)) ++factor;
    rule = LayerSharingRule::kCla;
    for (int layer = 0; layer < layout.num_layers(); ++layer) {
      if (layout.owner(layer) != layer - layer % factor) rule = LayerSharingRule::kMlkv;
    }
  }
  return absl::StrCat(name, rule == LayerSharingRule::kCla ? "+cla" : "+mlkv");
}

}  // namespace kvasir
