// A real model, Gemma 3 270M quantised to Q4_K_M, from its one GGUF file: ids of its tokenizer,
// greedy continuations under f32 as transformers gives them for the dequantised weights, and what
// computing in bf16 and quantised inputs adds to the loss over a text.
//
// `tests/run.sh --real` fetches the file (fetch_gemma.py) and says where it is in KVASIR_REAL_GGUF;
// without it the tests say so and are skipped.

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/model/model.h"
#include "runtime/tokenizer/gguf_text.h"
#include "tests/model/test_decoder.h"
#include "tests/test_models.h"

namespace kvasir::testing {
namespace {

std::string GgufPath() {
  const char* path = std::getenv("KVASIR_REAL_GGUF");
  return path == nullptr ? "" : path;
}

#define SKIP_WITHOUT_FILE()                                                                 \
  if (GgufPath().empty()) {                                                                 \
    GTEST_SKIP() << "THE REAL MODEL IS NOT TESTED; tests/run.sh --real fetches it, or set " \
                    "KVASIR_REAL_GGUF";                                                     \
  }

std::unique_ptr<Model> LoadModel(ComputeType type) {
  Model::Options options;
  options.compute_type = type;
  auto model = Model::Load(GgufPath(), options);
  EXPECT_TRUE(model.ok()) << model.status();
  return model.ok() ? *std::move(model) : nullptr;
}

std::unique_ptr<Tokenizer> LoadTokenizer() {
  auto text = LoadGgufText(GgufPath(), "");
  EXPECT_TRUE(text.ok()) << text.status();
  return text.ok() ? std::move(text->tokenizer) : nullptr;
}

TEST(GemmaTest, GoesOnAsTheDequantisedReference) {
  SKIP_WITHOUT_FILE();
  const auto tokenizer = LoadTokenizer();
  const auto model = LoadModel(ComputeType::kF32);
  ASSERT_TRUE(tokenizer != nullptr && model != nullptr);
  EXPECT_EQ(model->spec().vocab_size, 262'144);
  EXPECT_EQ(*tokenizer->Encode("The capital of France is", {}),
            (std::vector<TokenId>{2, 818, 5279, 529, 7001, 563}));
  const struct {
    const char* prompt;
    const char* continuation;
  } cases[] = {
      {"The capital of France is",
       " the capital of the country of France. It is the largest city in France and the second "
       "largest city in Europe. It"},
      {"Water boils at a temperature of",
       " 100 degrees Celsius.\n\nThe boiling point of water is 100 degrees Celsius.\n\nThe "
       "boiling"},
  };
  for (const auto& c : cases) {
    const std::vector<TokenId> ids = *tokenizer->Encode(c.prompt, {});
    TestDecoder decoder(model.get(), 256, 64);
    // No token of these texts is shorter than three bytes on the average.
    const auto count = static_cast<int>(std::string(c.continuation).size() / 3);
    const std::string text = *tokenizer->Decode(decoder.Generate(ids, count), true);
    EXPECT_EQ(text.substr(0, std::string(c.continuation).size()), c.continuation);
  }
}

// Mean over positions 1... of the tokens, computed `chunk` at a time.
double MeanLoss(const Model& model, const std::vector<TokenId>& tokens, int chunk) {
  TestDecoder decoder(&model, static_cast<int>(tokens.size()) + 64, chunk);
  TestSequence sequence = decoder.NewSequence();
  double sum = 0;
  for (size_t begin = 0; begin < tokens.size(); begin += chunk) {
    const auto part = absl::MakeConstSpan(tokens).subspan(begin, chunk);
    const auto logits = decoder.Append(&sequence, part, chunk, /*all_logits=*/true);
    for (size_t i = 0; i < part.size() && begin + i + 1 < tokens.size(); ++i) {
      sum += NegativeLogLikelihood(logits[i], tokens[begin + i + 1]);
    }
  }
  return sum / static_cast<double>(tokens.size() - 1);
}

TEST(GemmaTest, ComputingAddsLittleToTheLoss) {
  SKIP_WITHOUT_FILE();
  const std::string corpus = CorpusFile("test.txt");
  if (corpus.empty()) GTEST_SKIP() << "NO ../corpus/test.txt BESIDE THE MODELS; set KVASIR_MODELS";
  std::ifstream file(corpus);
  const std::string text(std::istreambuf_iterator<char>(file), {});
  const auto tokenizer = LoadTokenizer();
  ASSERT_TRUE(tokenizer != nullptr);
  std::vector<TokenId> tokens = *tokenizer->Encode(text.substr(0, 8192), {});
  tokens.resize(std::min<size_t>(tokens.size(), 1024));  // beyond the window of 512
  double expected = 0;
  {
    const auto exact = LoadModel(ComputeType::kF32);
    ASSERT_TRUE(exact != nullptr);
    expected = MeanLoss(*exact, tokens, 128);
  }
  const auto fast = LoadModel(ComputeType::kBf16);
  ASSERT_TRUE(fast != nullptr);
  for (const int chunk : {128, 16}) {  // tiles in bf16, and inputs in eight bits
    const double loss = MeanLoss(*fast, tokens, chunk);
    std::printf("loss over %zu tokens: f32 %.5f, bf16 in chunks of %d %.5f\n", tokens.size(),
                expected, chunk, loss);
    EXPECT_NEAR(loss, expected, 0.005);
  }
}

}  // namespace
}  // namespace kvasir::testing
