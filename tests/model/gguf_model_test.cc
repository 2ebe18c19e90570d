// Models from GGUF files: the twins of the checkpoints of all architectures, which llama.cpp's own
// converter made, and a trained model quantised in seven ways. They stand in
// $KVASIR_SHARED/gguf, else in ../shared/gguf beside the checkout; without them the tests say so
// and are skipped.

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/formats/gguf_file.h"
#include "runtime/model/gguf/gguf_config.h"
#include "runtime/model/model.h"
#include "runtime/tokenizer/gguf_text.h"
#include "tests/formats/gguf_writer.h"
#include "tests/kvcache/temporary_directory.h"
#include "tests/model/test_decoder.h"
#include "tests/test_models.h"

namespace kvasir::testing {
namespace {

using ::testing::HasSubstr;

std::filesystem::path SharedRoot() {
  if (const char* path = std::getenv("KVASIR_SHARED")) return path;
  return ModelsRoot() / "..";
}

nlohmann::json ReadJson(const std::filesystem::path& path) {
  std::ifstream file(path);
  return nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
}

absl::StatusOr<std::unique_ptr<Model>> Load(const std::string& path, ComputeType type) {
  Model::Options options;
  options.compute_type = type;
  return Model::Load(path, options);
}

class GgufTwinTest : public ::testing::TestWithParam<std::string> {};

// Greedy ids of the reference, in f32, up to where its own margin is within rounding.
TEST_P(GgufTwinTest, GoesOnAsItsCheckpoint) {
  const auto file = SharedRoot() / "gguf" / (GetParam() + "-bf16.gguf");
  const nlohmann::json golden = ReadJson(SharedRoot() / "arch" / GetParam() / "golden.json");
  if (!std::filesystem::exists(file) || golden.is_discarded()) {
    GTEST_SKIP() << file << " IS NOT ON THIS MACHINE; set KVASIR_SHARED";
  }
  const auto model = Load(file.string(), ComputeType::kF32);
  if (absl::IsUnimplemented(model.status())) GTEST_SKIP() << model.status().message();
  ASSERT_TRUE(model.ok()) << model.status();
  for (const auto& prompt : golden["prompts"]) {
    TestDecoder decoder(model->get(), 256, 256);
    const auto ids = prompt["ids"].get<std::vector<TokenId>>();
    auto expected = prompt["greedy_ids"].get<std::vector<TokenId>>();
    const auto margins = prompt["margins"].get<std::vector<double>>();
    size_t sure = 0;
    while (sure < expected.size() && margins[sure] > 1e-3) ++sure;
    expected.resize(sure);
    EXPECT_EQ(decoder.Generate(ids, static_cast<int>(sure)), expected);
  }
}

INSTANTIATE_TEST_SUITE_P(All, GgufTwinTest,
                         ::testing::Values("bloom", "gemma", "glm4", "gpt-oss", "lfm2",
                                           "llama3-rope", "mixtral", "olmo2", "qwen3", "qwen3-moe",
                                           "starcoder2"),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

class QuantizedModelTest : public ::testing::TestWithParam<std::string> {};

// Logits computed with blocks are those of the dequantised weights, and memory is the file's.
TEST_P(QuantizedModelTest, ComputesInBlocksWhatF32Gives) {
  const auto file = SharedRoot() / "gguf" / ("tale-7m-gqa2-" + GetParam() + ".gguf");
  if (!std::filesystem::exists(file)) {
    GTEST_SKIP() << file << " IS NOT ON THIS MACHINE; set KVASIR_SHARED";
  }
  const auto exact = Load(file.string(), ComputeType::kF32);
  ASSERT_TRUE(exact.ok()) << exact.status();
  const auto fast = Load(file.string(), ComputeType::kBf16);
  ASSERT_TRUE(fast.ok()) << fast.status();
  // The embeddings stand there twice: for looking up and, as the tied head, for the product.
  EXPECT_LE((*fast)->weight_bytes(), std::filesystem::file_size(file) * 14 / 10);

  std::vector<TokenId> tokens;
  for (int i = 0; i < 48; ++i) tokens.push_back(static_cast<TokenId>(260 + i * 67 % 3000));
  const auto logits = [&](const Model& model, int chunk) {
    TestDecoder decoder(&model, 256, 64);
    TestSequence sequence = decoder.NewSequence();
    return decoder.Append(&sequence, tokens, chunk, /*all_logits=*/true);
  };
  const auto expected = logits(**exact, 48);
  for (const int chunk : {1, 48}) {
    const auto got = logits(**fast, chunk);
    double error = 0, size = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      for (size_t j = 0; j < expected[i].size(); ++j) {
        error += std::pow(got[i][j] - expected[i][j], 2);
        size += std::pow(expected[i][j], 2);
      }
    }
    EXPECT_LT(std::sqrt(error / size), 0.03) << "in chunks of " << chunk;
  }
}

INSTANTIATE_TEST_SUITE_P(All, QuantizedModelTest,
                         ::testing::Values("Q8_0", "Q4_0", "Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M",
                                           "IQ4_XS"));

// A scale that is none would make text of nothing, or an error of every request.
TEST(DamagedBlocksTest, ScalesAreFinite) {
  const auto path = SharedRoot() / "gguf" / "tale-7m-gqa2-Q4_K_M.gguf";
  if (!std::filesystem::exists(path)) {
    GTEST_SKIP() << path << " IS NOT ON THIS MACHINE; set KVASIR_SHARED";
  }
  TemporaryDirectory folder;
  const std::string copy = (folder.path() / "damaged.gguf").string();
  const auto file = GgufFile::Open(path.string());
  ASSERT_TRUE(file.ok());
  struct Case {
    const char* tensor;
    int64_t scale;  // of its second row's first block: where it stands
    const char* bits;
  };
  const Case cases[] = {{"blk.1.attn_q.weight", 0, "\x00\x7e"},     // d, NaN
                        {"blk.1.attn_q.weight", 2, "\x00\x7c"},     // dmin, infinite
                        {"blk.2.ffn_down.weight", 0, "\x00\xfc"},   // minus infinite
                        {"blk.0.attn_v.weight", 208, "\x01\x7c"}};  // the last of Q6_K
  for (const Case& c : cases) {
    SCOPED_TRACE(c.tensor);
    std::filesystem::copy_file(path, copy, std::filesystem::copy_options::overwrite_existing);
    const GgufFile::Tensor& tensor = *file->Find(c.tensor);
    const auto row_bytes = static_cast<int64_t>(tensor.info.bytes) / tensor.info.shape[0];
    std::fstream out(copy, std::ios::in | std::ios::out | std::ios::binary);
    out.seekp(static_cast<int64_t>(tensor.info.begin) + row_bytes + c.scale);
    out.write(c.bits, 2);
    out.close();
    for (const ComputeType type : {ComputeType::kF32, ComputeType::kBf16}) {
      const absl::Status status = Load(copy, type).status();
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
      EXPECT_THAT(std::string(status.message()),
                  ::testing::AllOf(HasSubstr(c.tensor), HasSubstr("no finite number")));
    }
  }
}

GgufWriter SmallLlama(bool with_epsilon = true) {
  GgufWriter writer;
  if (with_epsilon) writer.AddF32("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  writer.AddString("general.architecture", "llama")
      .AddU32("llama.block_count", 2)
      .AddU32("llama.context_length", 64)
      .AddU32("llama.embedding_length", 32)
      .AddU32("llama.feed_forward_length", 64)
      .AddU32("llama.attention.head_count", 4)
      .AddU32("llama.attention.head_count_kv", 2)
      .AddTensor("token_embd.weight", {10, 32}, TensorType::kQ8_0, std::string(340, '\0'));
  return writer;
}

class GgufConfigTest : public ::testing::Test {
 protected:
  absl::StatusOr<GgufConfig> Read(const GgufWriter& writer) {
    const std::string path = (folder_.path() / "m.gguf").string();
    writer.Write(path);
    const auto file = GgufFile::Open(path);
    if (!file.ok()) return file.status();
    return ReadGgufConfig(*file);
  }
  void ExpectError(const GgufWriter& writer, const std::string& part) {
    const auto config = Read(writer);
    ASSERT_FALSE(config.ok());
    EXPECT_THAT(std::string(config.status().message()), HasSubstr(part));
  }
  TemporaryDirectory folder_;
};

TEST_F(GgufConfigTest, WritesWhatAFolderWouldSay) {
  const auto read = Read(SmallLlama()
                             .AddU32("tokenizer.ggml.eos_token_id", 2)
                             .AddU32("tokenizer.ggml.eot_token_id", 3)
                             .AddF32("llama.rope.freq_base", 5e5f));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->config["num_hidden_layers"], 2);
  EXPECT_EQ(read->config["vocab_size"], 10);
  EXPECT_EQ(read->config["tie_word_embeddings"], true);
  EXPECT_EQ(read->config["rope_parameters"]["rope_theta"], 5e5);
  EXPECT_EQ(read->generation_config["eos_token_id"], (std::vector<int>{2, 3}));
}

TEST_F(GgufConfigTest, RefusesWhatItCannotRead) {
  ExpectError(GgufWriter().AddString("general.architecture", "rwkv7"), "\"rwkv7\" is not read");
  ExpectError(GgufWriter().AddString("general.architecture", "llama"), "embedding_length");
  ExpectError(SmallLlama().AddString("llama.rope.scaling.type", "longrope"), "longrope");
  ExpectError(SmallLlama().AddU32("llama.nextn_predict_layers", 2), "gives 0 layers");
  ExpectError(SmallLlama().AddU32("tokenizer.ggml.eos_token_id", 10), "eos_token_id");
  ExpectError(SmallLlama(/*with_epsilon=*/false), "layer_norm_rms_epsilon is missing");
  ExpectError(SmallLlama()
                  .AddU32("llama.attention.key_length", 8)
                  .AddU32("llama.attention.value_length", 16),
              "value_length is 16, but keys have 8");
}

GgufWriter SmallCohere2() {
  GgufWriter writer;
  writer.AddString("general.architecture", "cohere2")
      .AddF32("cohere2.attention.layer_norm_epsilon", 1e-5f)
      .AddU32("cohere2.block_count", 3)
      .AddU32("cohere2.context_length", 64)
      .AddU32("cohere2.embedding_length", 32)
      .AddU32("cohere2.feed_forward_length", 64)
      .AddU32("cohere2.attention.head_count", 4)
      .AddTensor("token_embd.weight", {10, 32}, TensorType::kQ8_0, std::string(340, '\0'));
  return writer;
}

// As the file lists them, else by the architecture's own period, else none.
TEST_F(GgufConfigTest, WhichLayersHaveWindows) {
  const std::string full = "full_attention", window = "sliding_attention";
  const auto types = [&](const GgufWriter& writer) {
    const auto read = Read(writer);
    EXPECT_TRUE(read.ok()) << read.status();
    return read.ok() ? read->config["layer_types"] : nlohmann::json();
  };
  const std::string pattern = "cohere2.attention.sliding_window_pattern";
  EXPECT_EQ(types(SmallCohere2()), (std::vector<std::string>{full, full, full}));
  const auto with_window = [] {
    return SmallCohere2().AddU32("cohere2.attention.sliding_window", 8);
  };
  EXPECT_EQ(types(with_window()), (std::vector<std::string>{window, window, window}));
  EXPECT_EQ(types(with_window().AddU32(pattern, 2)),
            (std::vector<std::string>{window, full, window}));
  EXPECT_EQ(types(with_window().AddU32(pattern, 0)),
            (std::vector<std::string>{window, window, window}));
  EXPECT_EQ(
      types(with_window().AddArray(pattern, GgufValueType::kBool, 3, std::string("\0\1\0", 3))),
      (std::vector<std::string>{full, window, full}));
  ExpectError(with_window().AddArray(pattern, GgufValueType::kBool, 2, std::string("\0\1", 2)),
              "sliding_window_pattern has 2 entries for 3 layers");
}

TEST_F(GgufConfigTest, DivisorsForShortAndLongContexts) {
  const auto divisors = [](float value) {
    std::string bytes;
    for (int i = 0; i < 4; ++i) bytes += GgufWriter::Raw(value + static_cast<float>(i));
    return bytes;
  };
  GgufWriter writer = SmallLlama();
  writer.AddU32("llama.rope.scaling.original_context_length", 16)
      .AddF32("llama.rope.scaling.attn_factor", 1.25f)
      .AddTensor("rope_factors_long.weight", {4}, TensorType::kF32, divisors(2));
  ExpectError(writer, "longrope, but lacks rope_factors_short.weight");
  writer.AddTensor("rope_factors_short.weight", {4}, TensorType::kF32, divisors(1));
  const auto read = Read(writer);
  ASSERT_TRUE(read.ok()) << read.status();
  const nlohmann::json& rope = read->config["rope_parameters"];
  EXPECT_EQ(rope["rope_type"], "longrope");
  EXPECT_EQ(rope["short_factor"], (std::vector<float>{1, 2, 3, 4}));
  EXPECT_EQ(rope["long_factor"], (std::vector<float>{2, 3, 4, 5}));
  EXPECT_EQ(rope["attention_factor"], 1.25);
  EXPECT_EQ(rope["original_max_position_embeddings"], 16);
}

// Texts would be cut into single bytes, and nothing would say so.
TEST_F(GgufConfigTest, TokenizersNeedTheirMerges) {
  const std::string path = (folder_.path() / "m.gguf").string();
  SmallLlama()
      .AddString("tokenizer.ggml.model", "gpt2")
      .AddString("tokenizer.ggml.pre", "gpt-2")
      .AddArray("tokenizer.ggml.tokens", GgufValueType::kString, 1, GgufWriter::Text("a"))
      .Write(path);
  const auto text = LoadGgufText(path, "");
  EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(text.status().message()), HasSubstr("tokenizer.ggml.merges"));
}

}  // namespace
}  // namespace kvasir::testing
