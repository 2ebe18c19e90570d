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

absl::Status ValidateLayer(const std::vector<KvLayerSpec>& layers, int layer) {
  const KvLayerSpec& own = layers[layer];
  if (own.owner < 0 || own.owner > layer) {
    return absl::InvalidArgumentError(
        absl::StrCat("KV layout: layer ", layer, " names layer ", own.owner,
                     " as the owner of its K/V; it must be itself or a layer before it"));
  }
  const KvLayerSpec& owner = layers[own.owner];
  if (owner.owner != own.owner) {
    return absl::InvalidArgumentError(
        absl::StrCat("KV layout: layer ", layer, " names layer ", own.owner,
                     " as the owner of its K/V, but layer ", own.owner,
                     " itself borrows from layer ", owner.owner));
  }
  const struct {
    const char* name;
    int value, stored, most;
  } numbers[] = {
      {"KV heads", own.kv_heads, owner.kv_heads, kMaxKvHeads},
      {"elements per K row (k_dim)", own.k_dim, owner.k_dim, kMaxDim},
      {"elements per V row (v_dim)", own.v_dim, owner.v_dim, own.latent ? own.k_dim : kMaxDim}};
  for (const auto& number : numbers) {
    if (auto s = CheckRange(absl::StrCat("the number of ", number.name, " of layer ", layer),
                            number.value, 1, number.most);
        !s.ok()) {
      return s;
    }
    if (number.value != number.stored) {
      return absl::InvalidArgumentError(
          absl::StrCat("KV layout: layer ", layer, " reads ", number.value, " ", number.name,
                       ", but its owner, layer ", own.owner, ", stores ", number.stored));
    }
  }
  if (own.latent != owner.latent) {
    return absl::InvalidArgumentError(
        absl::StrCat("KV layout: layer ", layer, " and its owner, layer ", own.owner,
                     ", do not agree on whether V is a part of K (latent)"));
  }
  return absl::OkStatus();
}

absl::Status Validate(const KvLayoutSpec& spec) {
  const int num_layers = static_cast<int>(spec.layers.size());
  if (auto s = CheckRange("the number of layers", num_layers, 1, kMaxLayers); !s.ok()) return s;
  if (auto s = CheckRange("block_tokens", spec.block_tokens, 16, kMaxBlockTokens); !s.ok())
    return s;
  if (spec.block_tokens % 16 != 0) {
    return absl::InvalidArgumentError(absl::StrCat("KV layout: block_tokens is ", spec.block_tokens,
                                                   ", must be a multiple of 16 (32 is usual)"));
  }
  for (int layer = 0; layer < num_layers; ++layer) {
    if (auto s = ValidateLayer(spec.layers, layer); !s.ok()) return s;
  }
  return absl::OkStatus();
}

uint64_t Fingerprint(const KvLayoutSpec& spec) {
  std::vector<int32_t> words = {/*format version=*/2, static_cast<int32_t>(spec.layers.size()),
                                static_cast<int32_t>(spec.element_type), spec.block_tokens};
  for (const KvLayerSpec& layer : spec.layers) {
    words.insert(words.end(), {layer.owner, layer.kv_heads, layer.k_dim, layer.v_dim, layer.latent,
                               layer.unrotated_k});
  }
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(words.data()), words.size() * sizeof(words[0]),
         digest);
  uint64_t fingerprint;
  std::memcpy(&fingerprint, digest, sizeof(fingerprint));
  return fingerprint;
}

// One head's planes in a block of `spec`, offsets inside the head; the whole of it ends up in
// *kv_bytes and *column_bytes.
KvSlice LayOutHead(const KvLayoutSpec& spec, const KvLayerSpec& layer, bool unrotated_k,
                   size_t* kv_bytes, size_t* column_bytes) {
  const size_t element_bytes = KvElementBytes(spec.element_type);
  const size_t tokens = spec.block_tokens;
  size_t end = 0;
  const auto take = [&end](size_t bytes) {
    const size_t start = end;
    end += RoundUpToCacheLine(bytes);
    return start;
  };
  KvSlice slice;
  slice.kv_heads = layer.kv_heads;
  slice.k_dim = layer.k_dim;
  slice.v_dim = layer.v_dim;
  slice.latent = layer.latent;
  take(tokens * layer.k_dim * element_bytes);
  if (!layer.latent) slice.v_offset_bytes = take(tokens * layer.v_dim * element_bytes);
  if (unrotated_k) slice.unrotated_k_offset_bytes = take(tokens * layer.k_dim * element_bytes);
  if (spec.element_type == KvElementType::kInt8) {
    const size_t scale_bytes = tokens * sizeof(float);  // 16 floats fill a line
    slice.k_scale_offset_bytes = take(scale_bytes);
    slice.v_scale_offset_bytes = layer.latent ? slice.k_scale_offset_bytes : take(scale_bytes);
    if (unrotated_k) slice.unrotated_k_scale_offset_bytes = take(scale_bytes);
  }
  *kv_bytes = slice.head_stride_bytes = end;

  *column_bytes = 0;
  if (spec.sparq_keys == SparqKeys::kOff) return slice;
  end = 0;
  const bool scaled = spec.sparq_keys == SparqKeys::kInt8;
  take(tokens * layer.k_dim * (scaled ? sizeof(int8_t) : element_bytes));
  if (scaled) slice.key_column_scales_offset_bytes = take(layer.k_dim * sizeof(float));
  slice.v_prefix_sum_offset_bytes = take(layer.v_dim * sizeof(float));
  *column_bytes = slice.columns_head_stride_bytes = end;
  return slice;
}

// Of one head and token: what a dense step reads.
size_t ReadBytes(const KvLayoutSpec& spec, const KvLayerSpec& layer) {
  const size_t elements = layer.k_dim + (layer.latent ? 0 : layer.v_dim);
  const size_t scales =
      spec.element_type == KvElementType::kInt8 ? (layer.latent ? 1 : 2) * sizeof(float) : 0;
  return elements * KvElementBytes(spec.element_type) + scales;
}

// Of one head and token: all planes.
size_t ResidentBytes(const KvLayoutSpec& spec, const KvLayerSpec& layer, bool unrotated_k) {
  const size_t element_bytes = KvElementBytes(spec.element_type);
  size_t bytes = ReadBytes(spec, layer);
  if (unrotated_k) {
    bytes += layer.k_dim * element_bytes;
    if (spec.element_type == KvElementType::kInt8) bytes += sizeof(float);
  }
  if (spec.sparq_keys != SparqKeys::kOff)
    bytes += layer.k_dim * (spec.sparq_keys == SparqKeys::kInt8 ? sizeof(int8_t) : element_bytes);
  return bytes;
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

std::vector<KvLayerSpec> UniformKvLayers(absl::Span<const int> owner, int kv_heads, int k_dim,
                                         int v_dim) {
  std::vector<KvLayerSpec> layers;
  for (const int layer : owner)
    layers.push_back({.owner = layer, .kv_heads = kv_heads, .k_dim = k_dim, .v_dim = v_dim});
  return layers;
}

absl::StatusOr<KvLayout> KvLayout::Create(KvLayoutSpec spec) {
  if (absl::Status status = Validate(spec); !status.ok()) return status;
  // One scale per token cannot be folded into a column, so int8 columns have scales of their own.
  if (spec.sparq_keys == SparqKeys::kSame && spec.element_type == KvElementType::kInt8) {
    spec.sparq_keys = SparqKeys::kInt8;
  }

  KvLayout layout;
  const int num_layers = static_cast<int>(spec.layers.size());
  std::vector<bool> unrotated_k(num_layers);  // by owner
  for (const KvLayerSpec& layer : spec.layers) {
    if (layer.unrotated_k) unrotated_k[layer.owner] = true;
  }
  layout.slices_.resize(num_layers);
  size_t columns_part_bytes = 0;
  for (int layer = 0; layer < num_layers; ++layer) {
    const KvLayerSpec& own = spec.layers[layer];
    const size_t heads = own.kv_heads;
    layout.read_bytes_per_token_ += heads * ReadBytes(spec, own);
    if (own.owner != layer) {
      layout.slices_[layer] = layout.slices_[own.owner];
      continue;
    }
    size_t kv_bytes = 0, column_bytes = 0;
    KvSlice& slice = layout.slices_[layer];
    slice = LayOutHead(spec, own, unrotated_k[layer], &kv_bytes, &column_bytes);
    slice.offset_bytes = layout.kv_part_bytes_;
    slice.columns_offset_bytes = columns_part_bytes;  // behind the K/V part, see below
    layout.kv_part_bytes_ += heads * kv_bytes;
    columns_part_bytes += heads * column_bytes;
    layout.resident_bytes_per_token_ += heads * ResidentBytes(spec, own, unrotated_k[layer]);
    layout.last_owner_layer_ = layer;
    ++layout.num_owner_layers_;
  }
  const bool columns = spec.sparq_keys != SparqKeys::kOff;
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
  int fewest = layout.kv_heads(0), most = fewest;
  for (int layer = 1; layer < layout.num_layers(); ++layer) {
    fewest = std::min(fewest, layout.kv_heads(layer));
    most = std::max(most, layout.kv_heads(layer));
  }
  std::string name = fewest == num_query_heads ? "mha" : most == 1 ? "mqa" : "gqa";
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
