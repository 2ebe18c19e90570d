// Laws of the decoder for every kind of layer, on the tiny checkpoints of all architectures in f32:
// however a sequence is cut into steps and whoever shares them, its logits are the same. The pool's
// unused memory is NaN.
//
// The checkpoints live in $KVASIR_SHARED/arch, else in ../shared/arch beside the checkout.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/model/model.h"
#include "runtime/model/weights.h"
#include "tests/model/test_decoder.h"
#include "tests/test_models.h"

namespace kvasir::testing {
namespace {

using Logits = std::vector<std::vector<float>>;

std::filesystem::path ArchitecturesRoot() {
  if (const char* path = std::getenv("KVASIR_SHARED")) {
    return std::filesystem::path(path) / "arch";
  }
  return SourceRoot() / "../shared/arch";
}

// In alphabetical order; one name that no folder has where there are none.
std::vector<std::string> Folders() {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(ArchitecturesRoot(), error)) {
    if (std::filesystem::exists(entry.path() / "model.safetensors")) {
      names.push_back(entry.path().filename().string());
    }
  }
  std::sort(names.begin(), names.end());
  if (names.empty()) names.push_back("none");
  return names;
}

constexpr int kTokens = 61;  // beyond the windows of 16
constexpr int kPoolTokens = 512;
constexpr int kMaxBatch = 160;

// Sums in f32 in another order: products over more rows, attention over other tiles. Relative to
// the largest logit, through a few layers; a chosen expert may also change where two are as good.
constexpr double kTolerance = 2e-4;

class LayerLawTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const std::filesystem::path folder = ArchitecturesRoot() / GetParam();
    if (!std::filesystem::exists(folder / "model.safetensors")) {
      GTEST_SKIP() << "no checkpoints in " << ArchitecturesRoot()
                   << ": set KVASIR_SHARED to the folder that holds arch/";
    }
    auto model = Model::Load(folder.string(), {.compute_type = ComputeType::kF32, .progress = {}});
    if (absl::IsUnimplemented(model.status())) GTEST_SKIP() << model.status();
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    std::mt19937 random(7);
    for (int i = 0; i < kTokens; ++i) {
      tokens_.push_back(static_cast<TokenId>(random() % model_->spec().vocab_size));
    }
    TestDecoder decoder(model_.get(), kPoolTokens, kMaxBatch);
    TestSequence sequence = decoder.NewSequence();
    whole_ = decoder.Append(&sequence, tokens_, kTokens, /*all_logits=*/true);
    for (const float logit : whole_.back()) largest_ = std::max(largest_, std::abs(logit));
  }

  void ExpectSame(const std::vector<float>& actual, const std::vector<float>& expected) const {
    ASSERT_EQ(actual.size(), expected.size());
    for (size_t i = 0; i < actual.size(); ++i) {
      // Written so that NaN fails.
      ASSERT_TRUE(std::abs(actual[i] - expected[i]) <= kTolerance * largest_)
          << "logit " << i << ": " << actual[i] << ", expected " << expected[i];
    }
  }

  std::unique_ptr<Model> model_;
  std::vector<TokenId> tokens_;
  Logits whole_;  // of every position, computed in one step
  float largest_ = 0;
};

INSTANTIATE_TEST_SUITE_P(Architectures, LayerLawTest, ::testing::ValuesIn(Folders()),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name) {
                             if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
                           }
                           return name;
                         });

TEST_P(LayerLawTest, AnyChunksAreOneStep) {
  for (const int chunk : {1, 2, 7, 16, 60}) {
    SCOPED_TRACE(chunk);
    TestDecoder decoder(model_.get(), kPoolTokens, kMaxBatch);
    TestSequence sequence = decoder.NewSequence();
    const Logits logits = decoder.Append(&sequence, tokens_, chunk, /*all_logits=*/true);
    ASSERT_EQ(logits.size(), whole_.size());
    for (size_t i = 0; i < logits.size(); ++i) ExpectSame(logits[i], whole_[i]);
  }
}

// The bytes of weights that a pass reads: every product once, of experts the chosen ones.
TEST_P(LayerLawTest, CountsTheWeightsItReads) {
  const ModelWeights& weights = model_->weights();
  int64_t all_bytes = 0;
  for (const Linear* linear : weights.linears()) {
    all_bytes += static_cast<int64_t>(linear->packed_bytes());
  }
  int64_t one_token_bytes = all_bytes;
  for (int layer = 0; layer < model_->spec().num_layers(); ++layer) {
    const auto& moe = model_->spec().layers[layer].feed_forward.moe;
    if (!moe) continue;
    const MlpWeights& expert = weights.layers[layer].moe->experts[0];
    one_token_bytes -=
        (moe->experts - moe->chosen) *
        static_cast<int64_t>(expert.gate_up->packed_bytes() + expert.down->packed_bytes());
  }
  TestDecoder decoder(model_.get(), kPoolTokens, kMaxBatch);
  TestSequence sequence = decoder.NewSequence();
  const auto read_by = [&](std::vector<TokenId> tokens, int num_logits) {
    const int64_t before = decoder.decoder().weight_bytes_read();
    decoder.Step({{&sequence, std::move(tokens), num_logits}});
    return decoder.decoder().weight_bytes_read() - before;
  };
  EXPECT_EQ(read_by({tokens_[0]}, 1), one_token_bytes);
  EXPECT_LE(read_by(tokens_, 1), all_bytes);
  EXPECT_LE(read_by({tokens_[0]}, 0),
            one_token_bytes - static_cast<int64_t>(weights.lm_head->packed_bytes()));
}

TEST_P(LayerLawTest, RowsThatLeaveEarlyChangeNothing) {
  TestDecoder decoder(model_.get(), kPoolTokens, kMaxBatch);
  TestSequence sequence = decoder.NewSequence();
  const Logits last = decoder.Append(&sequence, tokens_, 16, /*all_logits=*/false);
  ExpectSame(last.back(), whole_.back());
}

// Strangers of other lengths, some in prefill and some decoding, in every step.
TEST_P(LayerLawTest, StrangersInTheBatchChangeNothing) {
  TestDecoder decoder(model_.get(), kPoolTokens, kMaxBatch);
  TestSequence own = decoder.NewSequence();
  std::vector<TestSequence> strangers;
  for (int i = 0; i < 4; ++i) strangers.push_back(decoder.NewSequence());
  std::mt19937 random(11);
  const auto some = [&](int count) {
    std::vector<TokenId> tokens(count);
    for (TokenId& token : tokens) {
      token = static_cast<TokenId>(random() % model_->spec().vocab_size);
    }
    return tokens;
  };
  for (int first = 0; first < kTokens;) {
    const int count = std::min<int>(kTokens - first, first == 0 ? 20 : 1 + first % 9);
    std::vector<TestDecoder::Work> batch;
    for (size_t i = 0; i < strangers.size(); ++i) {
      const int length = (first + static_cast<int>(i)) % 3 == 0 ? 5 : 1;
      if (i == 2) {
        batch.push_back({&own, {tokens_.begin() + first, tokens_.begin() + first + count}, count});
      }
      batch.push_back({&strangers[i], some(length), 1});
    }
    const auto logits = decoder.Step(std::move(batch));
    for (int i = 0; i < count; ++i) ExpectSame(logits[2][i], whole_[first + i]);
    first += count;
  }
}

}  // namespace
}  // namespace kvasir::testing
