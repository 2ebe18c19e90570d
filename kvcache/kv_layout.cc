#include "kvcache/kv_layout.h"

#include <openssl/sha.h>

#include <algorithm>
#include <cstring>
#include <limits>
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
constexpr int64_t kMaxStateBytes = int64_t{1} << 34;

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
  if (own.kind == KvLayerKind::kNone) return absl::OkStatus();
  if (own.kind == KvLayerKind::kState) {
    if (own.state_bytes >= 1 && own.state_bytes <= kMaxStateBytes) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("KV layout: the state of layer ", layer, " has ",
                                                   own.state_bytes, " bytes, must lie in [1, ",
                                                   kMaxStateBytes, "]"));
  }
  if (own.owner < 0 || own.owner > layer) {
    return absl::InvalidArgumentError(
        absl::StrCat("KV layout: layer ", layer, " names layer ", own.owner,
                     " as the owner of its K/V; it must be itself or a layer before it"));
  }
  const KvLayerSpec& owner = layers[own.owner];
  if (owner.kind != KvLayerKind::kAttention) {
    return absl::InvalidArgumentError(absl::StrCat("KV layout: layer ", layer, " names layer ",
                                                   own.owner,
                                                   " as the owner of its K/V, which has none"));
  }
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
  if (own.window < 0) {
    return absl::InvalidArgumentError(absl::StrCat("KV layout: the window of layer ", layer, " is ",
                                                   own.window,
                                                   ", must be at least 1, or 0 for none"));
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
  const bool any =
      std::any_of(spec.layers.begin(), spec.layers.end(),
                  [](const KvLayerSpec& layer) { return layer.kind == KvLayerKind::kAttention; });
  if (!any) {
    return absl::InvalidArgumentError(
        "KV layout: no layer attends; models without attention are not served");
  }
  return absl::OkStatus();
}

uint64_t Fingerprint(const KvLayoutSpec& spec) {
  std::vector<int32_t> words = {/*format version=*/3, static_cast<int32_t>(spec.layers.size()),
                                static_cast<int32_t>(spec.element_type), spec.block_tokens};
  for (const KvLayerSpec& layer : spec.layers) {
    words.insert(words.end(), {static_cast<int32_t>(layer.kind), layer.owner, layer.kv_heads,
                               layer.k_dim, layer.v_dim, layer.latent, layer.window,
                               layer.unrotated_k, static_cast<int32_t>(layer.state_bytes),
                               static_cast<int32_t>(layer.state_bytes >> 32)});
  }
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(words.data()), words.size() * sizeof(words[0]),
         digest);
  uint64_t fingerprint;
  std::memcpy(&fingerprint, digest, sizeof(fingerprint));
  return fingerprint;
}

// Which planes an owner layer keeps beside K and V.
struct Planes {
  bool unrotated_k = false;
  KvColumns k_columns = KvColumns::kOff;
};

// One head's planes in a block of `spec`, offsets inside the head.
KvSlice LayOutHead(const KvLayoutSpec& spec, const KvLayerSpec& layer, const Planes& planes) {
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
  if (planes.unrotated_k)
    slice.unrotated_k_offset_bytes = take(tokens * layer.k_dim * element_bytes);
  if (spec.element_type == KvElementType::kInt8) {
    const size_t scale_bytes = tokens * sizeof(float);  // 16 floats fill a line
    slice.k_scale_offset_bytes = take(scale_bytes);
    slice.v_scale_offset_bytes = layer.latent ? slice.k_scale_offset_bytes : take(scale_bytes);
    if (planes.unrotated_k) slice.unrotated_k_scale_offset_bytes = take(scale_bytes);
  }
  slice.head_stride_bytes = end;

  if (planes.k_columns == KvColumns::kOff) return slice;
  end = 0;
  const bool scaled = planes.k_columns == KvColumns::kInt8;
  take(tokens * layer.k_dim * (scaled ? sizeof(int8_t) : element_bytes));
  if (scaled) slice.key_column_scales_offset_bytes = take(layer.k_dim * sizeof(float));
  slice.v_prefix_sum_offset_bytes = take(layer.v_dim * sizeof(float));
  slice.columns_head_stride_bytes = end;
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
size_t ResidentBytes(const KvLayoutSpec& spec, const KvLayerSpec& layer, const Planes& planes) {
  const size_t element_bytes = KvElementBytes(spec.element_type);
  size_t bytes = ReadBytes(spec, layer);
  if (planes.unrotated_k) {
    bytes += layer.k_dim * element_bytes;
    if (spec.element_type == KvElementType::kInt8) bytes += sizeof(float);
  }
  if (planes.k_columns != KvColumns::kOff)
    bytes += layer.k_dim * (planes.k_columns == KvColumns::kInt8 ? sizeof(int8_t) : element_bytes);
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

const char* KvGroupKindName(KvGroupKind kind) {
  switch (kind) {
    case KvGroupKind::kFull:
      return "full";
    case KvGroupKind::kWindow:
      return "window";
    case KvGroupKind::kState:
      return "state";
  }
  KVASIR_CHECK(false);
}

const char* KvColumnsName(KvColumns keys) {
  switch (keys) {
    case KvColumns::kOff:
      return "off";
    case KvColumns::kSame:
      return "same";
    case KvColumns::kInt8:
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
  if (spec.k_columns == KvColumns::kSame && spec.element_type == KvElementType::kInt8) {
    spec.k_columns = KvColumns::kInt8;
  }
  KvLayout layout;
  layout.spec_ = std::move(spec);
  layout.fingerprint_ = Fingerprint(layout.spec_);
  layout.MakeGroups();
  for (int group = 0; group < layout.num_block_groups(); ++group) layout.LayOutBlocks(group);
  layout.LayOutStates();
  for (const KvGroup& group : layout.groups_) {
    if (group.kind == KvGroupKind::kState) continue;
    layout.block_bytes_ += group.block_bytes;
    layout.resident_bytes_per_token_ += group.resident_bytes_per_token;
    layout.read_bytes_per_token_ += group.read_bytes_per_token;
  }
  return layout;
}

void KvLayout::MakeGroups() {
  constexpr int kForever = std::numeric_limits<int>::max();
  const int num_layers = this->num_layers();
  // How long each owner's K/V is wanted: as long as its most patient reader asks.
  std::vector<int> kept(num_layers, 0);
  for (const KvLayerSpec& layer : spec_.layers) {
    if (layer.kind != KvLayerKind::kAttention) continue;
    int& owner = kept[layer.owner];
    owner = std::max(owner, layer.window == 0 ? kForever : layer.window);
  }
  std::vector<int> windows = kept;
  std::sort(windows.begin(), windows.end(),
            [](int a, int b) { return std::pair(a != kForever, a) < std::pair(b != kForever, b); });
  windows.erase(std::unique(windows.begin(), windows.end()), windows.end());
  std::erase(windows, 0);
  for (const int window : windows) {
    KvGroup& group = groups_.emplace_back();
    group.kind = window == kForever ? KvGroupKind::kFull : KvGroupKind::kWindow;
    group.window = window == kForever ? 0 : window;
  }
  const auto is_state = [](const KvLayerSpec& layer) { return layer.kind == KvLayerKind::kState; };
  if (std::any_of(spec_.layers.begin(), spec_.layers.end(), is_state))
    groups_.emplace_back().kind = KvGroupKind::kState;

  group_of_.assign(num_layers, -1);
  for (int layer = 0; layer < num_layers; ++layer) {
    const KvLayerSpec& own = spec_.layers[layer];
    if (own.kind == KvLayerKind::kNone) continue;
    if (own.kind == KvLayerKind::kState) {
      group_of_[layer] = state_group();
    } else {
      const auto at = std::find(windows.begin(), windows.end(), kept[own.owner]);
      group_of_[layer] = static_cast<int>(at - windows.begin());
      const size_t bytes = own.kv_heads * kvasir::ReadBytes(spec_, own);
      auto read = std::find_if(reads_.begin(), reads_.end(),
                               [&](const auto& pair) { return pair.first == own.window; });
      if (read == reads_.end()) read = reads_.insert(read, {own.window, 0});
      read->second += bytes;
    }
    groups_[group_of_[layer]].layers.push_back(layer);
    if (is_owner(layer)) ++num_owner_layers_;
  }
}

KvColumns KvLayout::k_columns(int layer) const {
  const KvLayerSpec& own = spec_.layers[layer];
  // A windowed group loses the blocks that prefix sums would count, and has little to gain. A
  // latent row is small already, and serves all heads at once.
  const bool has_columns = own.kind == KvLayerKind::kAttention && !own.latent &&
                           groups_[group_of_[layer]].kind == KvGroupKind::kFull;
  return has_columns ? spec_.k_columns : KvColumns::kOff;
}

void KvLayout::LayOutBlocks(int index) {
  KvGroup& group = groups_[index];
  slices_.resize(num_layers());
  size_t columns_part_bytes = 0;
  for (const int layer : group.layers) {
    const KvLayerSpec& own = spec_.layers[layer];
    const size_t heads = own.kv_heads;
    group.read_bytes_per_token += heads * kvasir::ReadBytes(spec_, own);
    if (own.owner != layer) continue;
    Planes planes{.k_columns = k_columns(layer)};
    for (const KvLayerSpec& reader : spec_.layers) {
      planes.unrotated_k |=
          reader.kind == KvLayerKind::kAttention && reader.owner == layer && reader.unrotated_k;
    }
    KvSlice& slice = slices_[layer];
    slice = LayOutHead(spec_, own, planes);
    slice.offset_bytes = group.kv_part_bytes;
    slice.columns_offset_bytes = columns_part_bytes;  // behind the K/V part, see below
    group.kv_part_bytes += heads * slice.head_stride_bytes;
    columns_part_bytes += heads * slice.columns_head_stride_bytes;
    group.resident_bytes_per_token += heads * ResidentBytes(spec_, own, planes);
  }
  for (const int layer : group.layers) {
    KvSlice& slice = slices_[layer];
    const int owner = spec_.layers[layer].owner;
    if (owner != layer) {
      slice = slices_[owner];
    } else if (slice.columns_head_stride_bytes != 0) {
      slice.columns_offset_bytes += group.kv_part_bytes;
    }
  }
  group.block_bytes = group.kv_part_bytes + columns_part_bytes;
  // Ranking reads the same few lines of every block. Were blocks an even number of lines apart,
  // those would share a fraction of the cache's sets and push each other out (measured: 17 instead
  // of 30 GB/s on one core).
  if (columns_part_bytes != 0 && group.block_bytes / kCacheLineBytes % 2 == 0)
    group.block_bytes += kCacheLineBytes;
}

void KvLayout::LayOutStates() {
  state_offsets_.assign(num_layers(), 0);
  if (!has_state()) return;
  KvGroup& group = groups_.back();
  for (const int layer : group.layers) {
    state_offsets_[layer] = group.block_bytes;
    group.block_bytes += RoundUpToCacheLine(spec_.layers[layer].state_bytes);
  }
  group.kv_part_bytes = group.block_bytes;
}

int64_t KvLayout::ReadBytes(int64_t first, int64_t end) const {
  int64_t bytes = 0;
  for (const auto& [window, bytes_per_token] : reads_) {
    const int64_t begin = window == 0 ? 0 : std::max<int64_t>(0, first - window + 1);
    bytes += (end - begin) * static_cast<int64_t>(bytes_per_token);
  }
  return bytes;
}

int KvLayout::FirstNeededBlock(int group, int64_t tokens) const {
  const int window = groups_[group].window;
  if (window == 0) return 0;
  return static_cast<int>(std::max<int64_t>(0, tokens - window + 1) / spec_.block_tokens);
}

int64_t KvLayout::HeldBytes(int64_t tokens) const {
  if (tokens == 0) return 0;
  int64_t bytes = static_cast<int64_t>(state_bytes_per_sequence());
  for (int g = 0; g < num_block_groups(); ++g) {
    const int64_t blocks = std::max(0, BlocksFor(tokens) - FirstNeededBlock(g, tokens));
    bytes += blocks * static_cast<int64_t>(groups_[g].block_bytes);
  }
  return bytes;
}

int KvLayout::PeakBlocks(int group, int64_t tokens, int64_t step_tokens) const {
  const int all = BlocksFor(tokens);
  const int64_t window = groups_[group].window;
  if (window == 0) return all;
  // A step from position p sees the window - 1 positions before it and writes its own. So many
  // positions in a row touch most blocks when they begin at a block's last position.
  const int64_t touched = window - 1 + std::min(tokens, step_tokens);
  return static_cast<int>(std::min<int64_t>(all, 1 + BlocksFor(touched - 1)));
}

int64_t KvLayout::PeakBytes(int64_t tokens, int64_t step_tokens) const {
  if (tokens == 0) return 0;
  int64_t bytes = static_cast<int64_t>(state_bytes_per_sequence());
  for (int g = 0; g < num_block_groups(); ++g)
    bytes += PeakBlocks(g, tokens, step_tokens) * static_cast<int64_t>(groups_[g].block_bytes);
  return bytes;
}

int64_t KvLayout::ExportBytes(int64_t tokens) const {
  if (tokens == 0) return 0;
  int64_t bytes = static_cast<int64_t>(state_bytes_per_sequence());
  for (int g = 0; g < num_block_groups(); ++g) {
    const int64_t blocks = std::max(0, BlocksFor(tokens) - FirstNeededBlock(g, tokens));
    bytes += blocks * static_cast<int64_t>(groups_[g].kv_part_bytes);
  }
  return bytes;
}

std::string SharingSchemeName(const KvLayout& layout, int num_query_heads, LayerSharingRule rule) {
  int fewest = kMaxKvHeads, most = 0, attending = 0;
  for (int layer = 0; layer < layout.num_layers(); ++layer) {
    if (layout.kind(layer) != KvLayerKind::kAttention) continue;
    ++attending;
    fewest = std::min(fewest, layout.kv_heads(layer));
    most = std::max(most, layout.kv_heads(layer));
  }
  std::string name = fewest == num_query_heads ? "mha" : most == 1 ? "mqa" : "gqa";
  if (layout.num_owner_layers() == attending) return name;

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
