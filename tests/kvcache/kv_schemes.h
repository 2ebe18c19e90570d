// KvLayoutSpecs of every sharing scheme, for tests. Header only.
#pragma once

#include <string>
#include <vector>

#include "base/check.h"
#include "kvcache/kv_layout.h"

namespace kvasir::testing {

// Every layer its own owner: MHA, GQA, MQA.
inline std::vector<int> OwnEach(int num_layers) {
  std::vector<int> owner(num_layers);
  for (int layer = 0; layer < num_layers; ++layer) owner[layer] = layer;
  return owner;
}

// CLA: the first of each `factor` layers.
inline std::vector<int> OwnByFactor(int num_layers, int factor) {
  std::vector<int> owner(num_layers);
  for (int layer = 0; layer < num_layers; ++layer) owner[layer] = layer - layer % factor;
  return owner;
}

// MLKV with m KV layers, as the published checkpoints place them: layer 0 and int((i + 1) * L / m).
inline std::vector<int> OwnByKvLayers(int num_layers, int m) {
  std::vector<int> owner(num_layers, -1);
  owner[0] = 0;
  for (int i = 0; i + 1 < m; ++i) {
    const int layer = (i + 1) * num_layers / m;
    owner[layer] = layer;
  }
  for (int layer = 1; layer < num_layers; ++layer) {
    if (owner[layer] < 0) owner[layer] = owner[layer - 1];
  }
  return owner;
}

inline KvLayoutSpec UniformSpec(const std::vector<int>& owner, int kv_heads, int head_dim,
                                KvElementType type = KvElementType::kBf16, int block_tokens = 32) {
  KvLayoutSpec spec;
  spec.layers = UniformKvLayers(owner, kv_heads, head_dim, head_dim);
  spec.element_type = type;
  spec.block_tokens = block_tokens;
  return spec;
}

inline KvLayout MustCreate(KvLayoutSpec spec) {
  auto layout = KvLayout::Create(std::move(spec));
  KVASIR_CHECK(layout.ok());
  return *std::move(layout);
}

// The sharing schemes and kinds of rows in miniature, cheap to fill and compare: rows of 8 bytes,
// blocks of 16 positions.
struct TinyScheme {
  std::string name;
  KvLayoutSpec spec;
};

inline std::vector<TinyScheme> TinySchemes() {
  constexpr int kTokens = 16;
  KvLayoutSpec latent = UniformSpec(OwnByFactor(3, 2), 1, 8, KvElementType::kInt8, kTokens);
  for (KvLayerSpec& layer : latent.layers) layer.latent = true, layer.v_dim = 4;
  KvLayoutSpec unrotated = UniformSpec(OwnByFactor(4, 2), 2, 4, KvElementType::kInt8, kTokens);
  unrotated.layers[1].unrotated_k = true;
  unrotated.layers[2] = {.owner = 2, .kv_heads = 1, .k_dim = 8, .v_dim = 4};
  unrotated.layers[3] = {.owner = 2, .kv_heads = 1, .k_dim = 8, .v_dim = 4};
  // 5 windowed layers to a global one, in miniature; then two windows; then windows only.
  KvLayoutSpec window = UniformSpec(OwnEach(4), 1, 4, KvElementType::kBf16, kTokens);
  for (const int layer : {0, 1, 2}) window.layers[layer].window = 40;
  KvLayoutSpec windows = UniformSpec(OwnByFactor(6, 2), 2, 4, KvElementType::kInt8, kTokens);
  for (const int layer : {0, 1}) windows.layers[layer].window = 7;
  for (const int layer : {2, 3}) windows.layers[layer].window = layer == 2 ? 16 : 33;
  KvLayoutSpec all_windowed = UniformSpec(OwnEach(2), 1, 4, KvElementType::kF16, kTokens);
  for (const int layer : {0, 1}) all_windowed.layers[layer].window = 32;
  KvLayoutSpec state = UniformSpec(OwnEach(4), 1, 4, KvElementType::kBf16, kTokens);
  for (const int layer : {0, 2, 3})
    state.layers[layer] = {.kind = KvLayerKind::kState, .state_bytes = 8 * (1 + layer)};
  KvLayoutSpec state_window = state;
  state_window.layers.push_back({.owner = 4, .kv_heads = 2, .k_dim = 4, .v_dim = 4, .window = 20});
  state_window.layers.push_back({.kind = KvLayerKind::kNone});
  return {
      {"mha", UniformSpec(OwnEach(3), 4, 4, KvElementType::kBf16, kTokens)},
      {"gqa", UniformSpec(OwnEach(3), 2, 8, KvElementType::kInt8, kTokens)},
      {"mqa", UniformSpec(OwnEach(4), 1, 4, KvElementType::kF16, kTokens)},
      {"cla", UniformSpec(OwnByFactor(5, 2), 2, 4, KvElementType::kBf16, kTokens)},
      {"mlkv", UniformSpec(OwnByKvLayers(5, 2), 1, 2, KvElementType::kF32, kTokens)},
      {"latent", latent},
      {"unrotated", unrotated},
      {"window", window},
      {"windows", windows},
      {"all_windowed", all_windowed},
      {"state", state},
      {"state_window", state_window},
  };
}

// The bytes of `blocks` blocks of every group, and of as many state slots.
inline int64_t BytesOf(const KvLayout& layout, int blocks) {
  return blocks * static_cast<int64_t>(layout.block_bytes() + layout.state_bytes_per_sequence());
}

}  // namespace kvasir::testing
