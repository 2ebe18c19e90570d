// Laws of the decoder that hold for every sharing scheme, in f32: against a naive reference, over
// every way to cut and mix the work, and between schemes that are the same mathematics.

#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/model/hf_config.h"
#include "runtime/model/model.h"
#include "tests/model/checkpoint_writer.h"
#include "tests/model/reference_decoder.h"
#include "tests/model/test_decoder.h"

namespace kvasir::testing {
namespace {

using Json = nlohmann::json;
using Logits = std::vector<std::vector<float>>;

struct Scheme {
  std::string name;
  Json changes;  // to TinyConfig
};

// For the test runner's messages.
void PrintTo(const Scheme& scheme, std::ostream* out) { *out << scheme.name; }

std::vector<Scheme> Schemes() {
  return {
      {"mha", {{"num_key_value_heads", 4}}},
      {"gqa", {{"num_key_value_heads", 2}}},
      {"mqa", {{"num_key_value_heads", 1}}},
      {"gqa_cla2", {{"use_cla", true}, {"cla_share_factor", 2}}},
      {"mqa_cla3", {{"use_cla", true}, {"cla_share_factor", 3}, {"num_key_value_heads", 1}}},
      {"mlkv1", {{"num_key_value_layers", 1}, {"num_key_value_heads", 1}}},
      {"mlkv3_gqa", {{"num_key_value_layers", 3}}},
      {"irregular", {{"sharing_pattern", {0, 1, 0, 1}}}},
      {"kv_heads_per_layer", {{"num_key_value_heads", {4, 2, 1, 2}}}},
      {"tied_biased_llama3",
       {{"tie_word_embeddings", true},
        {"attention_bias", true},
        {"mlp_bias", true},
        {"rope_scaling",
         {{"rope_type", "llama3"},
          {"factor", 8.0},
          {"low_freq_factor", 1.0},
          {"high_freq_factor", 4.0},
          {"original_max_position_embeddings", 32}}}}},
      {"qwen2_cla",
       {{"architectures", {"Qwen2ForCausalLM"}}, {"use_cla", true}, {"cla_share_factor", 2}}},
  };
}

Json ConfigOf(const Json& changes) {
  Json config = TinyConfig();
  config.merge_patch(changes);
  return config;
}

ModelSpec SpecOf(const Json& changes) { return *ParseHfConfig(ConfigOf(changes).dump(), ""); }

// Through files, as users' models come.
std::unique_ptr<Model> LoadTensors(const Json& changes, const FloatTensors& tensors) {
  TempFolder folder;
  WriteModel(folder, ConfigOf(changes), Stored(tensors, "F32"));
  Model::Options options;
  options.compute_type = ComputeType::kF32;
  auto model = Model::Load(folder.path(), options);
  EXPECT_TRUE(model.ok()) << model.status();
  return model.ok() ? *std::move(model) : nullptr;
}

std::unique_ptr<Model> LoadRandom(const Json& changes, uint64_t seed) {
  return LoadTensors(changes, RandomTensors(SpecOf(changes), seed));
}

std::vector<TokenId> RandomTokens(int count, int seed) {
  std::mt19937 random(seed);
  std::vector<TokenId> tokens(count);
  for (TokenId& token : tokens) token = static_cast<TokenId>(random() % 50);
  return tokens;
}

constexpr int kPoolTokens = 512;
constexpr int kMaxBatch = 128;

// Logits of every position, computed in steps of `chunk`.
Logits AllLogits(const Model& model, const std::vector<TokenId>& tokens, int chunk) {
  TestDecoder decoder(&model, kPoolTokens, kMaxBatch);
  TestSequence sequence = decoder.NewSequence();
  return decoder.Append(&sequence, tokens, chunk, /*all_logits=*/true);
}

// f32 sums of at most a few dozen terms of size one, through four layers.
constexpr double kTolerance = 1e-4;

template <typename A, typename B>
void ExpectNear(const A& actual, const B& expected, double tolerance = kTolerance) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    // Written so that NaN, the poison of unused memory, fails.
    ASSERT_TRUE(std::abs(actual[i] - expected[i]) <= tolerance)
        << "logit " << i << ": " << actual[i] << ", expected " << expected[i];
  }
}

template <typename A, typename B>
void ExpectRowsNear(const A& actual, const B& expected, double tolerance = kTolerance) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t row = 0; row < actual.size(); ++row) {
    SCOPED_TRACE(row);
    ASSERT_NO_FATAL_FAILURE(ExpectNear(actual[row], expected[row], tolerance));
  }
}

class DecoderLawTest : public ::testing::TestWithParam<Scheme> {
 protected:
  void SetUp() override {
    model_ = LoadRandom(GetParam().changes, 11);
    ASSERT_NE(model_, nullptr);
    tokens_ = RandomTokens(70, 5);  // five blocks, the last one partly filled
    full_ = AllLogits(*model_, tokens_, 128);
  }

  std::unique_ptr<Model> model_;
  std::vector<TokenId> tokens_;
  Logits full_;  // of every position of tokens_, computed in one step
};

TEST_P(DecoderLawTest, MatchesTheReference) {
  ExpectRowsNear(full_,
                 ReferenceLogits(model_->spec(), RandomTensors(model_->spec(), 11), tokens_));
}

TEST_P(DecoderLawTest, AnyChunkingIsTheSame) {
  for (const int chunk : {1, 2, 7, 15, 16, 17, 33, 69}) {
    SCOPED_TRACE(chunk);
    ExpectRowsNear(AllLogits(*model_, tokens_, chunk), full_);
  }
}

// Only the last position's logits asked for: every other row leaves early in every chunk.
TEST_P(DecoderLawTest, EarlyExitChangesNothing) {
  for (const int chunk : {1, 16, 23, 70}) {
    SCOPED_TRACE(chunk);
    TestDecoder decoder(model_.get(), kPoolTokens, kMaxBatch);
    TestSequence sequence = decoder.NewSequence();
    const Logits last = decoder.Append(&sequence, tokens_, chunk, /*all_logits=*/false);
    ASSERT_EQ(last.size(), 1u);
    ExpectNear(last[0], full_.back());
    // What was left in the pool is what the next tokens need.
    std::vector<TokenId> longer = tokens_;
    longer.push_back(3);
    ExpectNear(decoder.Step({{&sequence, {3}, 1}})[0][0], AllLogits(*model_, longer, 128).back());
  }
}

// Any number of wanted logits, several sequences of different phase in one step, in random cuts.
TEST_P(DecoderLawTest, BatchedWithStrangersIsTheSame) {
  std::mt19937 random(17);
  for (int round = 0; round < 8; ++round) {
    SCOPED_TRACE(round);
    TestDecoder decoder(model_.get(), kPoolTokens, kMaxBatch);
    constexpr int kSequences = 4;
    std::vector<std::vector<TokenId>> tokens;
    std::vector<Logits> expected;
    std::vector<TestSequence> sequences;
    for (int s = 0; s < kSequences; ++s) {
      tokens.push_back(
          s == 0 ? tokens_
                 : RandomTokens(20 + static_cast<int>(random() % 60), static_cast<int>(random())));
      expected.push_back(s == 0 ? full_ : AllLogits(*model_, tokens.back(), 128));
      sequences.push_back(decoder.NewSequence());
    }
    for (bool left = true; left;) {
      left = false;
      std::vector<TestDecoder::Work> batch;
      std::vector<std::pair<int, size_t>>
          rows;  // of each item: sequence, position behind its last token
      for (int s = 0; s < kSequences; ++s) {
        const size_t done = sequences[s].tokens.size();
        if (done == tokens[s].size()) continue;
        left = true;
        if (random() % 4 == 0) continue;  // not scheduled in this step
        const size_t want = random() % 2 == 0 ? 1 : 1 + random() % 30;
        const size_t count = std::min(want, tokens[s].size() - done);
        const int num_logits = static_cast<int>(random() % (count + 1));
        batch.push_back({&sequences[s],
                         {tokens[s].begin() + done, tokens[s].begin() + done + count},
                         num_logits});
        rows.emplace_back(s, done + count);
      }
      if (batch.empty()) continue;
      const auto logits = decoder.Step(batch);
      for (size_t i = 0; i < batch.size(); ++i) {
        const auto [s, end] = rows[i];
        for (int k = 0; k < batch[i].num_logits; ++k) {
          ASSERT_NO_FATAL_FAILURE(
              ExpectNear(logits[i][k], expected[s][end - batch[i].num_logits + k]));
        }
      }
    }
  }
}

// Blocks given back and taken again hold other sequences' K/V: none of it may show.
TEST_P(DecoderLawTest, ReusedBlocksLeaveNoTrace) {
  TestDecoder decoder(model_.get(), 80, kMaxBatch);  // room for one sequence only
  for (int round = 0; round < 3; ++round) {
    TestSequence other = decoder.NewSequence();
    decoder.Append(&other, RandomTokens(80 - 5 * round, round), 128, false);
    other.table.Clear();
    TestSequence sequence = decoder.NewSequence();
    ExpectNear(decoder.Append(&sequence, tokens_, 19, false)[0], full_.back());
  }
}

TEST_P(DecoderLawTest, GreedyTokensDoNotDependOnTheCut) {
  TestDecoder decoder(model_.get(), kPoolTokens, kMaxBatch);
  const std::vector<TokenId> generated = decoder.Generate(tokens_, 16);
  TestSequence sequence = decoder.NewSequence();
  std::vector<TokenId> one_by_one = {ArgMax(decoder.Append(&sequence, tokens_, 1, false)[0])};
  TestSequence stranger = decoder.NewSequence();
  while (one_by_one.size() < generated.size()) {
    one_by_one.push_back(ArgMax(
        decoder.Step({{&stranger, {7, 8, 9}, 1}, {&sequence, {one_by_one.back()}, 1}})[1][0]));
  }
  EXPECT_EQ(one_by_one, generated);
}

INSTANTIATE_TEST_SUITE_P(Schemes, DecoderLawTest, ::testing::ValuesIn(Schemes()),
                         [](const auto& info) { return info.param.name; });

// Two configs that say the same thing in different words.
void ExpectSame(const Json& a, const Json& b) {
  SCOPED_TRACE(a.dump() + " and " + b.dump());
  const auto first = LoadRandom(a, 21);
  const auto second = LoadRandom(b, 21);
  ASSERT_TRUE(first != nullptr && second != nullptr);
  const std::vector<TokenId> tokens = RandomTokens(40, 3);
  ExpectRowsNear(AllLogits(*first, tokens, 128), AllLogits(*second, tokens, 128), 0.0);
}

TEST(SchemeEquivalenceTest, SameTableInDifferentWords) {
  ExpectSame(Json::object({{"num_key_value_heads", 4}}),
             Json::object({{"num_key_value_heads", nullptr}}));
  const Json gqa = {{"num_key_value_heads", 2}};
  ExpectSame({{"use_cla", true}, {"cla_share_factor", 1}}, gqa);
  ExpectSame({{"num_key_value_layers", 4}}, gqa);
  ExpectSame({{"sharing_pattern", {0, 1, 2, 3}}}, gqa);
  const Json cla = {{"use_cla", true}, {"cla_share_factor", 2}};
  ExpectSame(cla, {{"num_key_value_layers", 2}});
  ExpectSame(cla, {{"sharing_pattern", {0, 0, 2, 2}}});
  ExpectSame({{"use_cla", true}, {"cla_share_factor", 4}}, {{"num_key_value_layers", 1}});
}

// MQA and GQA are MHA whose K and V heads repeat inside a group.
TEST(SchemeEquivalenceTest, RepeatedHeadsAreMha) {
  const Json mha = {{"num_key_value_heads", 4}};
  const std::vector<TokenId> tokens = RandomTokens(40, 4);
  for (const int kv_heads : {1, 2}) {
    SCOPED_TRACE(kv_heads);
    const Json grouped = {{"num_key_value_heads", kv_heads}};
    FloatTensors tensors = RandomTensors(SpecOf(grouped), 31);
    const auto grouped_model = LoadTensors(grouped, tensors);
    const int group_size = 4 / kv_heads;
    for (auto& [name, tensor] : tensors) {
      if (name.find("k_proj") == std::string::npos && name.find("v_proj") == std::string::npos)
        continue;
      const FloatTensor stored = tensor;
      const int64_t head_size = 8 * stored.cols();
      tensor.shape[0] = 4 * 8;
      tensor.values.clear();
      for (int head = 0; head < 4; ++head) {
        const auto begin = stored.values.begin() + head / group_size * head_size;
        tensor.values.insert(tensor.values.end(), begin, begin + head_size);
      }
    }
    const auto mha_model = LoadTensors(mha, tensors);
    ASSERT_TRUE(grouped_model != nullptr && mha_model != nullptr);
    ExpectRowsNear(AllLogits(*grouped_model, tokens, 128), AllLogits(*mha_model, tokens, 128));
  }
}

// bf16 and int8 weights stay near f32 on random weights, and obey the laws within their own
// rounding.
TEST(ComputeTypeTest, ReducedTypesStayNearF32) {
  const ModelSpec spec = SpecOf({{"use_cla", true}, {"cla_share_factor", 2}});
  const std::vector<TokenId> tokens = RandomTokens(64, 6);
  Model::Options options;
  options.compute_type = ComputeType::kF32;
  const auto f32 = Model::Random(spec, options, 41);
  ASSERT_TRUE(f32.ok()) << f32.status();
  const Logits expected = AllLogits(**f32, tokens, 128);
  for (const ComputeType type : {ComputeType::kBf16, ComputeType::kInt8}) {
    options.compute_type = type;
    const auto model = Model::Random(spec, options, 41);
    ASSERT_TRUE(model.ok()) << model.status();
    for (const int chunk : {1, 9, 128}) {
      const Logits logits = AllLogits(**model, tokens, chunk);
      double squares = 0;
      for (size_t row = 0; row < logits.size(); ++row) {
        for (size_t i = 0; i < logits[row].size(); ++i)
          squares += std::pow(logits[row][i] - expected[row][i], 2);
      }
      // Logits have variance one; 8 bits of mantissa through four layers cost a few hundredths.
      EXPECT_LT(std::sqrt(squares / (64 * 50)), 0.06)
          << static_cast<int>(type) << " chunk " << chunk;
    }
  }
}

}  // namespace
}  // namespace kvasir::testing
