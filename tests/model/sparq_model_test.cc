// SparQ inside a whole model: its laws on random weights, and the goldens of two trained models
// (sparq_golden.json in their folders, whose "definition" says how positions are selected: sum of
// logits, the window counted in k, every position of the text sparse).
//
// The goldens hold twenty settings; ctest compares the hardest ones, KVASIR_ALL_SPARQ_GOLDENS=1 all
// of them.

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "runtime/model/hf_config.h"
#include "runtime/model/model.h"
#include "runtime/tokenizer/tokenizer.h"
#include "tests/kvcache/kv_cache_peer.h"
#include "tests/model/test_decoder.h"
#include "tests/test_models.h"

namespace kvasir::testing {
namespace {

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

std::unique_ptr<Model> LoadModel(const std::string& folder) {
  Model::Options options;
  options.compute_type = ComputeType::kF32;
  auto model = Model::Load(folder, options);
  EXPECT_TRUE(model.ok()) << model.status();
  return model.ok() ? *std::move(model) : nullptr;
}

std::vector<TokenId> CorpusTokens(const std::string& folder, size_t count) {
  auto tokenizer = Tokenizer::Load(folder);
  if (!tokenizer.ok()) return {};
  Tokenizer::EncodeOptions options;
  options.add_special_tokens = false;
  options.parse_special_tokens = true;
  auto ids = (*tokenizer)->Encode(ReadFile(CorpusFile("test.txt")), options);
  if (!ids.ok()) return {};
  std::vector<TokenId> tokens = {0};
  tokens.insert(tokens.end(), ids->begin(), ids->end());
  tokens.resize(std::min(tokens.size(), count));
  return tokens;
}

class SparqGoldenTest : public ::testing::TestWithParam<std::string> {};

TEST_P(SparqGoldenTest, F32MeetsNll) {
  const std::string folder = ModelFolder(GetParam());
  const std::string text = folder.empty() ? "" : ReadFile(folder + "/sparq_golden.json");
  if (text.empty() || CorpusFile("test.txt").empty()) {
    GTEST_SKIP()
        << "SPARQ GOLDENS OF " << GetParam()
        << " OR THE CORPUS ARE NOT ON THIS MACHINE; set KVASIR_MODELS to the golden models";
  }
  const nlohmann::json golden = nlohmann::json::parse(text);
  const int window = golden["window"], num_tokens = golden["tokens"];
  const std::unique_ptr<Model> model = LoadModel(folder);
  ASSERT_NE(model, nullptr);
  const std::vector<TokenId> tokens = CorpusTokens(folder, num_tokens + 1);
  ASSERT_EQ(tokens.size(), static_cast<size_t>(num_tokens) + 1);
  constexpr int kChunk = 512;
  TestDecoder decoder(model.get(), window, kChunk, KvColumns::kSame);
  const bool all = std::getenv("KVASIR_ALL_SPARQ_GOLDENS") != nullptr;
  for (const nlohmann::json& result : golden["results"]) {
    SparseParams params;
    params.rank = result["r"];
    params.top_k = result["k"];
    params.local_window = golden["local"];
    params.mean_value = result["mean_value_reallocation"];
    params.selection = SparseSelection::kLogitSum;
    if (!all && params.top_k != 64) continue;
    double sum = 0;
    for (int begin = 0; begin + window <= num_tokens; begin += window) {
      TestSequence sequence = decoder.NewSequence();
      sequence.sparq = params;
      const auto logits =
          decoder.Append(&sequence, absl::MakeConstSpan(tokens).subspan(begin, window), kChunk,
                         /*all_logits=*/true);
      for (int i = 0; i < window; ++i)
        sum += NegativeLogLikelihood(logits[i], tokens[begin + i + 1]);
    }
    const double actual = sum / num_tokens, expected = result["nll"];
    std::printf("%-14s r %2d k %3d %-7s NLL %.6f, golden %.6f, difference %+.2e\n",
                GetParam().c_str(), params.rank, params.top_k,
                params.mean_value ? "mean" : "no mean", actual, expected, actual - expected);
    EXPECT_NEAR(actual, expected, 2e-3) << "r " << params.rank << " k " << params.top_k;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, SparqGoldenTest, ::testing::Values("tale-7m-mha", "tale-7m-gqa2"),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

// A small model of each sharing scheme: 4 layers, 4 query heads.
ModelSpec SmallSpec(std::vector<int> owner, int kv_heads) {
  const nlohmann::json config = {{"model_type", "llama"},
                                 {"hidden_size", 64},
                                 {"num_hidden_layers", 4},
                                 {"num_attention_heads", 4},
                                 {"num_key_value_heads", kv_heads},
                                 {"sharing_pattern", owner},
                                 {"intermediate_size", 96},
                                 {"rms_norm_eps", 1e-5},
                                 {"vocab_size", 128},
                                 {"max_position_embeddings", 512}};
  return *ParseHfConfig(config.dump(), "");
}

std::vector<TokenId> SomeTokens(int count) {
  std::vector<TokenId> tokens;
  for (int i = 0; i < count; ++i) tokens.push_back((i * 37 + i * i) % 128);
  return tokens;
}

class SparqModelLaw : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    const std::vector<ModelSpec> specs = {SmallSpec({0, 1, 2, 3}, 4), SmallSpec({0, 1, 2, 3}, 2),
                                          SmallSpec({0, 1, 2, 3}, 1), SmallSpec({0, 0, 2, 2}, 2),
                                          SmallSpec({0, 0, 0, 0}, 1)};
    Model::Options options;
    options.compute_type = ComputeType::kF32;
    auto model = Model::Random(specs[GetParam()], options, /*seed=*/7);
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
  }
  std::unique_ptr<Model> model_;
};

// One token at a time, in chunks, and beside a dense sequence: the same logits up to the order of
// sums in the products. A model whose blocks' columns or sums were missing, stale or another
// sequence's would differ (unused memory is NaN).
TEST_P(SparqModelLaw, AnyChunkingAndAnyBatchGiveTheSame) {
  const std::vector<TokenId> tokens = SomeTokens(150);
  const SparseParams params{5, 24, 8, true, SparseSelection::kSoftmaxSum};
  TestDecoder decoder(model_.get(), 1024, 256, KvColumns::kSame);
  const auto run = [&](int chunk) {
    TestSequence sequence = decoder.NewSequence();
    sequence.sparq = params;
    sequence.sparse_from = 60;
    return decoder.Append(&sequence, tokens, chunk, true);
  };
  const auto expected = run(150);
  for (const int chunk : {1, 7, 16, 64}) {
    const auto actual = run(chunk);
    for (size_t i = 0; i < tokens.size(); ++i) {
      for (size_t j = 0; j < actual[i].size(); ++j) {
        ASSERT_NEAR(actual[i][j], expected[i][j], 2e-4) << "chunk " << chunk << " position " << i;
      }
    }
  }

  TestSequence dense = decoder.NewSequence(), sparse = decoder.NewSequence();
  sparse.sparq = params;
  sparse.sparse_from = 60;
  TestSequence alone = decoder.NewSequence();
  const auto dense_alone = decoder.Append(&alone, tokens, 150, true);
  for (size_t i = 0; i < tokens.size(); ++i) {
    const auto logits = decoder.Step({{&dense, {tokens[i]}, 1}, {&sparse, {tokens[i]}, 1}});
    for (size_t j = 0; j < logits[0][0].size(); ++j) {
      ASSERT_NEAR(logits[0][0][j], dense_alone[i][j], 2e-4);
      ASSERT_NEAR(logits[1][0][j], expected[i][j], 2e-4);
    }
  }
}

// What is beyond the paper keeps the laws too. Borrowers that take their owner's picks rank
// nothing.
TEST_P(SparqModelLaw, VariantsDoNotDependOnChunks) {
  const std::vector<TokenId> tokens = SomeTokens(150);
  SparseParams params{5, 24, 8, true, SparseSelection::kSoftmaxSum};
  params.mean_of_unselected = true;
  TestDecoder decoder(model_.get(), 2048, 256, KvColumns::kSame);
  const auto run = [&](const SparseParams& sparq, int chunk, int64_t* bytes) {
    TestSequence sequence = decoder.NewSequence();
    sequence.sparq = sparq;
    sequence.sparse_from = 60;
    const auto logits = decoder.Append(&sequence, tokens, chunk, true);
    *bytes = sequence.sparse_bytes_read;
    return logits;
  };
  SparseParams reuse = params, grow = params;
  reuse.reuse_picks = true;
  grow.least_mass = 0.8f;
  grow.max_top_k = 48;
  int64_t alone_bytes = 0, bytes = 0, chunked_bytes = 0;
  const auto alone = run(params, 1, &alone_bytes);
  for (const SparseParams& variant : {reuse, grow}) {
    const auto expected = run(variant, 150, &bytes);
    const auto actual = run(variant, 1, &chunked_bytes);
    EXPECT_EQ(bytes, chunked_bytes);
    for (size_t i = 0; i < tokens.size(); ++i) {
      for (size_t j = 0; j < actual[i].size(); ++j)
        ASSERT_NEAR(actual[i][j], expected[i][j], 2e-4) << i;
    }
  }
  EXPECT_GT(bytes, alone_bytes);  // of `grow`

  const auto reused = run(reuse, 1, &bytes);
  const ModelSpec& spec = model_->spec();
  int64_t ranked = 0;
  for (int layer = 0; layer < spec.num_layers(); ++layer) {
    if (spec.stores(layer)) continue;
    for (int positions = 61; positions <= 150; ++positions) {
      ranked += int64_t{spec.attention(layer).kv_heads} * positions * params.rank *
                static_cast<int64_t>(sizeof(float));
    }
  }
  EXPECT_EQ(alone_bytes - bytes, ranked);
  if (ranked == 0) {
    EXPECT_EQ(reused, alone);  // every layer owns its K/V: nothing to take
  }
}

// Columns and sums travel with blocks or are made again: a fork, an exported and imported copy, and
// a sequence cut back and grown again decode as the original does.
TEST_P(SparqModelLaw, ForksCopiesAndTruncationsKeepColumnsAndSums) {
  const std::vector<TokenId> tokens = SomeTokens(120);
  const SparseParams params{5, 24, 8, true, SparseSelection::kSoftmaxSum};
  for (const KvColumns keys : {KvColumns::kSame, KvColumns::kInt8}) {
    TestDecoder decoder(model_.get(), 1024, 256, keys);
    KvCacheManager& manager = decoder.manager();
    TestSequence original = decoder.NewSequence();
    original.sparq = params;
    original.sparse_from = 100;
    decoder.Append(&original, absl::MakeConstSpan(tokens).first(100), 100, false);
    const auto clone = [&](BlockTable table) {
      TestSequence sequence = decoder.NewSequence();
      sequence.table = std::move(table);
      sequence.tokens.assign(tokens.begin(), tokens.begin() + sequence.table.num_tokens());
      sequence.sparq = params;
      sequence.sparse_from = 100;
      return sequence;
    };
    std::vector<TestSequence> copies;
    copies.push_back(clone(manager.Fork(original.table)));
    BlockTable imported = manager.NewTable();
    ASSERT_TRUE(ImportBlocks(manager.ExportBlocks(original.table), 100, &manager, &imported));
    decoder.decoder().FillKeyColumns(
        imported.blocks(0).first(100 / manager.layout().block_tokens()));
    manager.Commit(0, absl::MakeConstSpan(tokens).first(100), &imported);
    copies.push_back(clone(std::move(imported)));
    BlockTable cut = manager.Fork(original.table);
    manager.Truncate(&cut, 70);
    copies.push_back(clone(std::move(cut)));
    decoder.Append(&copies.back(), absl::MakeConstSpan(tokens).subspan(70, 30), 30, false);

    const auto expected =
        decoder.Append(&original, absl::MakeConstSpan(tokens).subspan(100), 1, true);
    for (size_t c = 0; c < copies.size(); ++c) {
      const auto actual =
          decoder.Append(&copies[c], absl::MakeConstSpan(tokens).subspan(100), 1, true);
      for (size_t i = 0; i < expected.size(); ++i) {
        for (size_t j = 0; j < expected[i].size(); ++j) {
          ASSERT_NEAR(actual[i][j], expected[i][j], 2e-4) << "copy " << c << " step " << i;
        }
      }
    }
  }
}

std::string SchemeName(const ::testing::TestParamInfo<int>& info) {
  constexpr const char* kNames[] = {"mha", "gqa", "mqa", "gqa_cla", "mqa_mlkv"};
  return kNames[info.param];
}
INSTANTIATE_TEST_SUITE_P(Schemes, SparqModelLaw, ::testing::Range(0, 5), SchemeName);

}  // namespace
}  // namespace kvasir::testing
