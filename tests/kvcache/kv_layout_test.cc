#include "kvcache/kv_layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "kvcache/kv_arena.h"
#include "tests/kvcache/kv_schemes.h"

namespace kvasir {
namespace {

using ::testing::HasSubstr;
using testing::MustCreate;
using testing::OwnByFactor;
using testing::OwnByKvLayers;
using testing::OwnEach;
using testing::UniformSpec;

struct BytesCase {
  const char* name;
  std::vector<int> owner;
  int kv_heads;
  int head_dim;
  size_t resident;  // bytes per token, 16-bit elements
  size_t read;
};

void ExpectBytes(const std::vector<BytesCase>& cases) {
  for (const BytesCase& c : cases) {
    SCOPED_TRACE(c.name);
    const KvLayout layout = MustCreate(UniformSpec(c.owner, c.kv_heads, c.head_dim));
    EXPECT_EQ(layout.resident_bytes_per_token(), c.resident);
    EXPECT_EQ(layout.read_bytes_per_token(), c.read);
    EXPECT_EQ(layout.block_bytes(), 32 * c.resident);  // bf16 tiles of 32 tokens need no padding
  }
}

TEST(KvLayoutBytes, EightLayersOfEightHeads) {
  ExpectBytes({
      {"MHA", OwnEach(8), 8, 32, 8192, 8192},
      {"GQA-4", OwnEach(8), 4, 32, 4096, 4096},
      {"GQA-2", OwnEach(8), 2, 32, 2048, 2048},
      {"MQA", OwnEach(8), 1, 32, 1024, 1024},
      {"GQA-2 x CLA-2", OwnByFactor(8, 2), 2, 32, 1024, 2048},
      {"MQA x CLA-2", OwnByFactor(8, 2), 1, 32, 512, 1024},
      {"MLKV-4", OwnByKvLayers(8, 4), 1, 32, 512, 1024},
      {"MLKV-2", OwnByKvLayers(8, 2), 1, 32, 256, 1024},
      {"MLKV-1", OwnByKvLayers(8, 1), 1, 32, 128, 1024},
  });
}

// 32 layers, 32 query heads of 128. Sharing between heads cuts both figures, sharing between layers
// the first only.
TEST(KvLayoutBytes, SevenBillionParameterShape) {
  ExpectBytes({
      {"MHA (Llama-2-7B)", OwnEach(32), 32, 128, 524'288, 524'288},
      {"GQA-8 (Llama-3-8B)", OwnEach(32), 8, 128, 131'072, 131'072},
      {"MQA", OwnEach(32), 1, 128, 16'384, 16'384},
      {"CLA-2 x GQA-8", OwnByFactor(32, 2), 8, 128, 65'536, 131'072},
      {"MLKV-8 x GQA-8", OwnByKvLayers(32, 8), 8, 128, 32'768, 131'072},
      {"MLKV-8 x MQA", OwnByKvLayers(32, 8), 1, 128, 4'096, 16'384},
      {"Falcon-7B", OwnEach(32), 1, 64, 8'192, 8'192},
      {"StarCoder-15B", OwnEach(40), 1, 128, 20'480, 20'480},
      {"Hunyuan-Large", OwnByFactor(64, 2), 8, 80, 81'920, 163'840},
      {"Hunyuan-Large as MHA", OwnEach(64), 80, 80, 1'638'400, 1'638'400},
  });
}

// The CLA paper's Table 1 (1B: 20 layers; 3B: 32 layers).
TEST(KvLayoutBytes, CrossLayerAttentionPaper) {
  ExpectBytes({
      {"MHA-128", OwnEach(20), 16, 128, 163'840, 163'840},
      {"GQA4-128", OwnEach(20), 4, 128, 40'960, 40'960},
      {"GQA2-128", OwnEach(20), 2, 128, 20'480, 20'480},
      {"MQA-128", OwnEach(20), 1, 128, 10'240, 10'240},
      {"MQA-46", OwnEach(20), 1, 46, 3'680, 3'680},
      {"MQA-32", OwnEach(20), 1, 32, 2'560, 2'560},
      {"MQA-512-CLA2", OwnByFactor(20, 2), 1, 512, 20'480, 40'960},
      {"MQA-128-CLA2", OwnByFactor(20, 2), 1, 128, 5'120, 10'240},
      {"MQA-90-CLA2", OwnByFactor(20, 2), 1, 90, 3'600, 7'200},
      {"MQA-64-CLA2", OwnByFactor(20, 2), 1, 64, 2'560, 5'120},
      {"MQA-128-CLA3", OwnByFactor(20, 3), 1, 128, 3'584, 10'240},  // 3+3+3+3+3+3+2: 7 owners
      {"MQA-128-CLA4", OwnByFactor(20, 4), 1, 128, 2'560, 10'240},
      {"GQA4-CLA2", OwnByFactor(20, 2), 4, 128, 20'480, 40'960},
      {"GQA2-CLA2", OwnByFactor(20, 2), 2, 128, 10'240, 20'480},
      {"3B MQA-64", OwnEach(32), 1, 64, 8'192, 8'192},
      {"3B MQA-64-CLA2", OwnByFactor(32, 2), 1, 64, 4'096, 8'192},
  });
}

// Pythia-160m, 12 layers and heads of 64, and its MLKV conversions.
TEST(KvLayoutBytes, MultiLayerKeyValuePaper) {
  ExpectBytes({
      {"MHA-144", OwnEach(12), 12, 64, 36'864, 36'864},
      {"GQA-48", OwnEach(12), 4, 64, 12'288, 12'288},
      {"MLKV-48", OwnByKvLayers(12, 4), 12, 64, 12'288, 36'864},
      {"MQA-12", OwnEach(12), 1, 64, 3'072, 3'072},
      {"MLKV-6", OwnByKvLayers(12, 6), 1, 64, 1'536, 3'072},
      {"MLKV-4", OwnByKvLayers(12, 4), 1, 64, 1'024, 3'072},
      {"MLKV-2", OwnByKvLayers(12, 2), 1, 64, 512, 3'072},
      {"MLKV-1", OwnByKvLayers(12, 1), 1, 64, 256, 3'072},
      {"MLKV-5, which does not divide 12", OwnByKvLayers(12, 5), 1, 64, 1'280, 3'072},
  });
  EXPECT_EQ(OwnByKvLayers(12, 5), (std::vector<int>{0, 0, 2, 2, 4, 4, 4, 7, 7, 9, 9, 9}));
}

TEST(KvLayoutBytes, ElementTypes) {
  // 8 layers x 2 heads x (K 32 + V 32); int8 has two f32 scales per head and token besides.
  const auto bytes = [](KvElementType type) {
    return MustCreate(UniformSpec(OwnEach(8), 2, 32, type)).resident_bytes_per_token();
  };
  EXPECT_EQ(bytes(KvElementType::kF32), 8 * 2 * 64 * 4u);
  EXPECT_EQ(bytes(KvElementType::kBf16), 8 * 2 * 64 * 2u);
  EXPECT_EQ(bytes(KvElementType::kF16), 8 * 2 * 64 * 2u);
  EXPECT_EQ(bytes(KvElementType::kInt8), 8 * 2 * (64 + 8) * 1u);
}

TEST(KvLayout, IrregularOwnerMapAndHeadCounts) {
  //            layer     0  1  2  3  4  5
  KvLayoutSpec spec = UniformSpec({0, 1, 1, 0, 4, 1}, 1, 64);
  for (int layer = 0; const int heads : {2, 4, 4, 2, 1, 4}) spec.layers[layer++].kv_heads = heads;
  const KvLayout layout = MustCreate(spec);
  EXPECT_EQ(layout.num_owner_layers(), 3);
  EXPECT_EQ(layout.resident_bytes_per_token(), (2 + 4 + 1) * 2 * 64 * 2u);
  EXPECT_EQ(layout.read_bytes_per_token(), (2 + 4 + 4 + 2 + 1 + 4) * 2 * 64 * 2u);
  EXPECT_EQ(layout.slice(3).offset_bytes, layout.slice(0).offset_bytes);
  EXPECT_EQ(layout.slice(5).offset_bytes, layout.slice(1).offset_bytes);
  EXPECT_FALSE(layout.is_owner(5));
  EXPECT_EQ(layout.kv_heads(5), 4);
}

TEST(KvLayout, KAndVRowsOfDifferentLength) {
  KvLayoutSpec spec;
  spec.layers = UniformKvLayers({0, 1}, 1, 80, 64);
  const KvLayout layout = MustCreate(spec);
  EXPECT_EQ(layout.resident_bytes_per_token(), 2 * (80 + 64) * 2u);
  EXPECT_EQ(layout.slice(0).v_offset_bytes, 32 * 80 * 2u);
}

// Gemma 4: narrow heads in most layers, few wide ones in the others.
TEST(KvLayout, DimensionsDifferFromLayerToLayer) {
  KvLayoutSpec spec;
  spec.layers = {{.owner = 0, .kv_heads = 4, .k_dim = 64, .v_dim = 64},
                 {.owner = 1, .kv_heads = 1, .k_dim = 128, .v_dim = 96},
                 {.owner = 1, .kv_heads = 1, .k_dim = 128, .v_dim = 96}};
  const KvLayout layout = MustCreate(spec);
  EXPECT_EQ(layout.resident_bytes_per_token(), (4 * 128 + 224) * 2u);
  EXPECT_EQ(layout.read_bytes_per_token(), (4 * 128 + 2 * 224) * 2u);
  EXPECT_EQ(layout.k_dim(0), 64);
  EXPECT_EQ(layout.v_dim(2), 96);
  EXPECT_EQ(layout.slice(2).offset_bytes, 32 * 4 * 128 * 2u);
}

// DeepSeek V2 and V3: 512 latent and 64 rotated values serve all heads.
TEST(KvLayout, LatentRowIsKAndV) {
  for (const KvElementType type : {KvElementType::kBf16, KvElementType::kInt8}) {
    KvLayoutSpec spec;
    spec.layers = UniformKvLayers({0, 1}, 1, 576, 512);
    for (KvLayerSpec& layer : spec.layers) layer.latent = true;
    spec.element_type = type;
    const KvLayout layout = MustCreate(spec);
    const size_t row = type == KvElementType::kBf16 ? 576 * 2 : 576 + 4;
    EXPECT_EQ(layout.resident_bytes_per_token(), 2 * row);
    EXPECT_EQ(layout.read_bytes_per_token(), 2 * row);
    EXPECT_EQ(layout.block_bytes(), 32 * 2 * row);
    const auto arena = KvArena::Create(layout, testing::BytesOf(layout, 2));
    const KvView view = (*arena)->View(1);
    EXPECT_EQ(view.V(1, 0), view.K(1, 0));
    EXPECT_EQ(view.VScale(1, 0), view.KScale(1, 0));
    EXPECT_EQ(view.v_stride, 576);
  }
}

// MLKV checkpoints as published: borrowers read K as it was before rotation.
TEST(KvLayout, UnrotatedKStandsBesideTheRotated) {
  KvLayoutSpec spec;
  spec.layers = UniformKvLayers({0, 0, 2}, 2, 32, 32);
  const KvLayout without = MustCreate(spec);
  spec.layers[1].unrotated_k = true;
  const KvLayout layout = MustCreate(spec);
  EXPECT_EQ(layout.resident_bytes_per_token(), without.resident_bytes_per_token() + 2 * 32 * 2);
  EXPECT_EQ(layout.read_bytes_per_token(), without.read_bytes_per_token());
  EXPECT_NE(layout.fingerprint(), without.fingerprint());
  const auto arena = KvArena::Create(layout, testing::BytesOf(layout, 2));
  EXPECT_TRUE((*arena)->View(0).has_unrotated_k());
  EXPECT_TRUE((*arena)->View(1).has_unrotated_k());
  EXPECT_FALSE((*arena)->View(2).has_unrotated_k());
}

// Every byte of every tile belongs to exactly one (owner layer, head, K or V or scale, position),
// and tiles begin on cache lines: what the kernels rely on.
TEST(KvLayout, TilesAreAlignedAndDoNotOverlap) {
  std::vector<KvLayoutSpec> specs;
  for (const auto& scheme : testing::TinySchemes()) specs.push_back(scheme.spec);
  specs.push_back(UniformSpec(OwnByFactor(5, 3), 3, 46, KvElementType::kInt8, 48));
  specs.push_back(UniformSpec(OwnEach(2), 2, 5, KvElementType::kBf16, 16));  // tiles need padding
  for (KvLayerSpec& layer : specs.back().layers) layer.v_dim = 3;
  for (const KvElementType type : {KvElementType::kF32, KvElementType::kInt8}) {
    specs.push_back(UniformSpec(OwnByFactor(4, 2), 2, 6, type, 16));
    specs.back().layers[1].unrotated_k = true;
    for (const int layer : {2, 3}) {
      specs.back().layers[layer].latent = true;
      specs.back().layers[layer].v_dim = 4;
    }
  }
  for (const KvLayoutSpec& spec : specs) {
    const KvLayout layout = MustCreate(spec);
    auto arena = KvArena::Create(layout, testing::BytesOf(layout, 2));
    ASSERT_TRUE(arena.ok()) << arena.status();
    std::vector<std::vector<int>> claimed;  // [block groups][bytes of a block]
    for (int g = 0; g < layout.num_block_groups(); ++g)
      claimed.emplace_back(layout.group(g).block_bytes, 0);
    const auto claim = [&](int group, const void* tile, size_t size_bytes) {
      const uint8_t* start = (*arena)->Block(group, 1).data();
      std::vector<int>& used = claimed[group];
      const size_t offset = static_cast<const uint8_t*>(tile) - start;
      ASSERT_EQ(offset % 64, 0u);
      ASSERT_LE(offset + size_bytes, used.size());
      for (size_t i = 0; i < size_bytes; ++i) EXPECT_EQ(++used[offset + i], 1);
    };
    const size_t element = KvElementBytes(spec.element_type);
    for (int layer = 0; layer < layout.num_layers(); ++layer) {
      if (layout.kind(layer) != KvLayerKind::kAttention) continue;
      const KvView view = (*arena)->View(layer);
      const KvView owner = (*arena)->View(layout.owner(layer));
      for (int head = 0; head < layout.kv_heads(layer); ++head) {
        EXPECT_EQ(view.K(1, head), owner.K(1, head));
        EXPECT_EQ(view.V(1, head), owner.V(1, head));
        if (!layout.is_owner(layer)) continue;
        const bool scaled = spec.element_type == KvElementType::kInt8;
        const size_t scale_bytes = spec.block_tokens * sizeof(float);
        claim(layout.group_of(layer), view.K(1, head), spec.block_tokens * view.k_dim * element);
        if (scaled) claim(layout.group_of(layer), view.KScale(1, head), scale_bytes);
        if (!spec.layers[layer].latent) {
          claim(layout.group_of(layer), view.V(1, head), spec.block_tokens * view.v_dim * element);
          if (scaled) claim(layout.group_of(layer), view.VScale(1, head), scale_bytes);
        }
        if (view.has_unrotated_k()) {
          claim(layout.group_of(layer), view.UnrotatedK(1, head),
                spec.block_tokens * view.k_dim * element);
          if (scaled) claim(layout.group_of(layer), view.UnrotatedKScale(1, head), scale_bytes);
        }
      }
    }
  }
}

TEST(KvLayout, RefusesContradictions) {
  const auto message = [](KvLayoutSpec spec) {
    const auto layout = KvLayout::Create(std::move(spec));
    EXPECT_EQ(layout.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(layout.status().message());
  };
  EXPECT_THAT(message(UniformSpec({}, 1, 32)), HasSubstr("number of layers is 0"));
  EXPECT_THAT(message(UniformSpec({0, 2, 2}, 1, 32)), HasSubstr("layer 1 names layer 2"));
  EXPECT_THAT(message(UniformSpec({0, -1}, 1, 32)), HasSubstr("layer 1 names layer -1"));
  EXPECT_THAT(message(UniformSpec({0, 0, 1}, 1, 32)),
              HasSubstr("layer 1 itself borrows from layer 0"));
  KvLayoutSpec heads = UniformSpec({0, 0}, 4, 32);
  heads.layers[1].kv_heads = 2;
  EXPECT_THAT(message(heads),
              HasSubstr("layer 1 reads 2 KV heads, but its owner, layer 0, stores 4"));
  KvLayoutSpec dims = UniformSpec({0, 0}, 4, 32);
  dims.layers[1].v_dim = 16;
  EXPECT_THAT(message(dims),
              HasSubstr("layer 1 reads 16 elements per V row (v_dim), but its owner"));
  KvLayoutSpec latent = UniformSpec({0, 0}, 1, 32);
  latent.layers[0].latent = true;
  EXPECT_THAT(message(latent), HasSubstr("layer 1 and its owner, layer 0, do not agree"));
  latent.layers = UniformKvLayers({0}, 1, 32, 64);
  latent.layers[0].latent = true;
  EXPECT_THAT(message(latent), HasSubstr("(v_dim) of layer 0 is 64, must lie in [1, 32]"));
  EXPECT_THAT(message(UniformSpec(OwnEach(2), 0, 32)), HasSubstr("KV heads of layer 0 is 0"));
  EXPECT_THAT(message(UniformSpec(OwnEach(2), 1, 0)), HasSubstr("(k_dim) of layer 0 is 0"));
  EXPECT_THAT(message(UniformSpec(OwnEach(2), 1, 32, KvElementType::kBf16, 24)),
              HasSubstr("block_tokens is 24"));
  EXPECT_THAT(message(UniformSpec(OwnEach(2), 1, 32, KvElementType::kBf16, 0)),
              HasSubstr("block_tokens is 0"));
}

TEST(KvLayout, FingerprintTellsFormatsApart) {
  std::set<uint64_t> seen;
  std::vector<KvLayoutSpec> specs;
  specs.push_back(UniformSpec(OwnEach(4), 2, 32));
  specs.push_back(UniformSpec(OwnEach(4), 2, 32, KvElementType::kF16));
  specs.push_back(UniformSpec(OwnEach(4), 2, 32, KvElementType::kBf16, 16));
  specs.push_back(UniformSpec(OwnEach(4), 1, 64));
  specs.push_back(UniformSpec(OwnByFactor(4, 2), 2, 32));
  specs.push_back(UniformSpec({0, 0, 0, 3}, 2, 32));
  for (const auto& spec : specs) seen.insert(MustCreate(spec).fingerprint());
  EXPECT_EQ(seen.size(), specs.size());
  EXPECT_EQ(MustCreate(specs[0]).fingerprint(), MustCreate(specs[0]).fingerprint());
}

TEST(KvLayout, BlocksFor) {
  const KvLayout layout = MustCreate(UniformSpec(OwnEach(1), 1, 32));
  EXPECT_EQ(layout.BlocksFor(0), 0);
  EXPECT_EQ(layout.BlocksFor(1), 1);
  EXPECT_EQ(layout.BlocksFor(32), 1);
  EXPECT_EQ(layout.BlocksFor(33), 2);
}

TEST(SharingSchemeName, EveryScheme) {
  const auto name = [](std::vector<int> owner, int kv_heads, LayerSharingRule rule) {
    return SharingSchemeName(MustCreate(UniformSpec(std::move(owner), kv_heads, 32)), 8, rule);
  };
  EXPECT_EQ(name(OwnEach(8), 8, LayerSharingRule::kNone), "mha");
  EXPECT_EQ(name(OwnEach(8), 2, LayerSharingRule::kNone), "gqa");
  EXPECT_EQ(name(OwnEach(8), 1, LayerSharingRule::kNone), "mqa");
  EXPECT_EQ(name(OwnByFactor(8, 2), 2, LayerSharingRule::kCla), "gqa+cla");
  EXPECT_EQ(name(OwnByFactor(8, 1), 2, LayerSharingRule::kCla), "gqa");  // nothing is shared
  EXPECT_EQ(name(OwnByKvLayers(8, 4), 1, LayerSharingRule::kMlkv), "mqa+mlkv");
  EXPECT_EQ(name(OwnByFactor(8, 2), 8, LayerSharingRule::kExplicit), "mha+cla");
  EXPECT_EQ(name({0, 0, 0, 3, 3, 5, 5, 5}, 2, LayerSharingRule::kExplicit), "gqa+mlkv");
}

TEST(SharingSchemeName, OneQueryHeadIsMha) {
  EXPECT_EQ(
      SharingSchemeName(MustCreate(UniformSpec(OwnEach(2), 1, 32)), 1, LayerSharingRule::kNone),
      "mha");
}

// SparQ's second copy of K costs owners one more K, and per block and KV head a sum of V.
TEST(KvLayoutSparq, KeyColumnsAddExactlyOneMoreK) {
  for (const auto& [owner, owners] :
       std::vector<std::pair<std::vector<int>, int>>{{OwnEach(4), 4}, {OwnByFactor(4, 2), 2}}) {
    KvLayoutSpec spec = UniformSpec(owner, 2, 64);
    const KvLayout off = MustCreate(spec);
    spec.k_columns = KvColumns::kSame;
    const KvLayout same = MustCreate(spec);
    spec.k_columns = KvColumns::kInt8;
    const KvLayout int8 = MustCreate(spec);
    const size_t heads = 2 * owners;
    EXPECT_EQ(same.resident_bytes_per_token() - off.resident_bytes_per_token(), heads * 64 * 2);
    EXPECT_EQ(int8.resident_bytes_per_token() - off.resident_bytes_per_token(), heads * 64);
    // One line more makes them an odd number.
    EXPECT_EQ(same.block_bytes() - off.block_bytes(), heads * (32 * 64 * 2 + 64 * 4) + 64);
    EXPECT_EQ(int8.block_bytes() - off.block_bytes(), heads * (32 * 64 + 64 * 4 + 64 * 4) + 64);
    EXPECT_EQ(same.read_bytes_per_token(), off.read_bytes_per_token());
    // Files hold the K/V part, which is the same for all.
    EXPECT_EQ(same.group(0).kv_part_bytes, off.block_bytes());
    EXPECT_EQ(int8.group(0).kv_part_bytes, off.block_bytes());
    EXPECT_EQ(same.fingerprint(), off.fingerprint());
  }
}

// A column's lines of all blocks must be able to stand in the cache together.
TEST(KvLayoutSparq, BlocksAreAnOddNumberOfLinesApart) {
  for (const int heads : {1, 2, 3, 8, 32}) {
    for (const int dim : {16, 40, 64, 128}) {
      for (const KvColumns keys : {KvColumns::kSame, KvColumns::kInt8}) {
        KvLayoutSpec spec = UniformSpec(OwnEach(3), heads, dim);
        spec.k_columns = keys;
        const KvLayout layout = MustCreate(spec);
        EXPECT_EQ(layout.block_bytes() % 64, 0);
        EXPECT_EQ(layout.block_bytes() / 64 % 2, 1);
        const KvSlice& last = layout.slice(2);
        EXPECT_EQ(layout.slice(0).columns_offset_bytes, layout.group(0).kv_part_bytes);
        EXPECT_LE(last.columns_offset_bytes + heads * last.columns_head_stride_bytes,
                  layout.block_bytes());
      }
    }
  }
}

// One scale per token cannot be folded into a dimension's column.
TEST(KvLayoutSparq, Int8KeysHaveInt8Columns) {
  KvLayoutSpec spec = UniformSpec(OwnEach(1), 1, 64, KvElementType::kInt8);
  spec.k_columns = KvColumns::kSame;
  EXPECT_EQ(MustCreate(spec).k_columns(), KvColumns::kInt8);
}

// A full block is copied with its columns and sums; files get K and V only.
TEST(KvLayoutSparq, ColumnsAreCopiedButNotExported) {
  KvLayoutSpec spec = UniformSpec(OwnEach(2), 2, 16, KvElementType::kBf16, 16);
  spec.k_columns = KvColumns::kInt8;
  auto arena = *KvArena::Create(MustCreate(spec), testing::BytesOf(MustCreate(spec), 3));
  const size_t kv_part_bytes = arena->layout().group(0).kv_part_bytes;
  for (size_t i = 0; i < arena->block_bytes(0); ++i) arena->Block(0, 0)[i] = 1 + i % 255;
  std::vector<uint8_t> exported(arena->block_bytes(0), 0xAA);
  arena->ExportPositions(0, 0, 16, exported.data());
  EXPECT_EQ(absl::MakeConstSpan(exported).subspan(0, kv_part_bytes),
            arena->Block(0, 0).subspan(0, kv_part_bytes));
  EXPECT_EQ(exported[kv_part_bytes], 0xAA);
  arena->CopyPositions(0, 0, 1, 16);
  EXPECT_EQ(arena->Block(0, 1), arena->Block(0, 0));
  arena->CopyPositions(0, 0, 2, 15);
  EXPECT_NE(arena->Block(0, 2)[0], 0);
  EXPECT_EQ(arena->Block(0, 2)[kv_part_bytes], 0);
}

}  // namespace
}  // namespace kvasir
