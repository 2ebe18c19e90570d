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

inline KvLayoutSpec UniformSpec(std::vector<int> owner, int kv_heads, int head_dim,
                                KvElementType type = KvElementType::kBf16, int block_tokens = 32) {
  KvLayoutSpec spec;
  spec.kv_heads.assign(owner.size(), kv_heads);
  spec.owner = std::move(owner);
  spec.k_dim = spec.v_dim = head_dim;
  spec.element_type = type;
  spec.block_tokens = block_tokens;
  return spec;
}

inline KvLayout MustCreate(KvLayoutSpec spec) {
  auto layout = KvLayout::Create(std::move(spec));
  KVASIR_CHECK(layout.ok());
  return *std::move(layout);
}

// The five schemes in miniature, cheap to fill and compare: rows of 8 bytes, blocks of 16
// positions.
struct TinyScheme {
  std::string name;
  KvLayoutSpec spec;
};

inline std::vector<TinyScheme> TinySchemes() {
  constexpr int kTokens = 16;
  return {
      {"mha", UniformSpec(OwnEach(3), 4, 4, KvElementType::kBf16, kTokens)},
      {"gqa", UniformSpec(OwnEach(3), 2, 8, KvElementType::kInt8, kTokens)},
      {"mqa", UniformSpec(OwnEach(4), 1, 4, KvElementType::kF16, kTokens)},
      {"cla", UniformSpec(OwnByFactor(5, 2), 2, 4, KvElementType::kBf16, kTokens)},
      {"mlkv", UniformSpec(OwnByKvLayers(5, 2), 1, 2, KvElementType::kF32, kTokens)},
  };
}

}  // namespace kvasir::testing
