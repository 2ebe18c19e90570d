// GGUF files that conversions write: they load as the same model with the same tokenizer, in every
// architecture, and what they cannot say is refused.

#include <cmath>
#include <fstream>
#include <sstream>

#include "gmock/gmock.h"
#include "runtime/formats/dequantize.h"
#include "runtime/formats/gguf_file.h"
#include "runtime/model/model.h"
#include "runtime/tokenizer/gguf_text.h"
#include "tests/conversion/conversion_fixture.h"
#include "tests/model/test_decoder.h"
#include "tests/test_models.h"

namespace kvasir::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

class GgufOutputTest : public ConversionFixture {
 protected:
  static std::string Bundled(const std::string& file) {
    return (SourceRoot() / "deploy/models" / kBundledModel / file).string();
  }

  // A small random model with the bundled model's tokenizer.
  void WriteSmall(nlohmann::json config, const std::string& dtype = "BF16") {
    config["vocab_size"] = 4100;  // four rows without a token
    WriteSource(config, dtype);
    source_.Write("tokenizer.json", ReadFile(Bundled("tokenizer.json")));
    source_.Write("tokenizer_config.json", ReadFile(Bundled("tokenizer_config.json")));
  }

  std::string gguf() const { return outputs_.path() + "/result.gguf"; }
  ConversionRequest GgufRequest() const {
    ConversionRequest request = Request();
    request.output = gguf();
    return request;
  }

  static std::vector<std::vector<float>> Logits(const std::string& model_path) {
    Model::Options options;
    options.compute_type = ComputeType::kF32;
    const auto model = Model::Load(model_path, options);
    EXPECT_TRUE(model.ok()) << model.status();
    if (!model.ok()) return {};
    TestDecoder decoder(model->get(), 64, 64);
    TestSequence sequence = decoder.NewSequence();
    return decoder.Append(&sequence, std::vector<TokenId>{1, 300, 7, 3000, 44, 12, 5, 30, 2}, 9,
                          true);
  }

  void ExpectSameModel() {
    const auto report = Run(GgufRequest());
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->files, 1);
    const auto folder = Logits(source_.path()), file = Logits(gguf());
    ASSERT_EQ(folder.size(), file.size());
    for (size_t i = 0; i < folder.size(); ++i) {
      for (size_t v = 0; v < folder[i].size(); ++v) {
        ASSERT_NEAR(folder[i][v], file[i][v], 1e-4) << i << " " << v;
      }
    }
    EXPECT_THAT(Leftovers(), ElementsAre("result.gguf"));
  }
};

nlohmann::json QwenConfig(const std::string& architecture, const std::string& model_type) {
  nlohmann::json config = TinyConfig();
  config["architectures"] = {architecture};
  config["model_type"] = model_type;
  return config;
}

TEST_F(GgufOutputTest, LlamaIsTheSameModel) {
  WriteSmall(TinyConfig());
  ExpectSameModel();
}

TEST_F(GgufOutputTest, QwensAreTheSameModels) {
  WriteSmall(QwenConfig("Qwen2ForCausalLM", "qwen2"));
  ExpectSameModel();
}

TEST_F(GgufOutputTest, QkNormsAndTiedEmbeddings) {
  nlohmann::json config = QwenConfig("Qwen3ForCausalLM", "qwen3");
  config["tie_word_embeddings"] = true;
  WriteSmall(config, "F32");
  ExpectSameModel();
}

TEST_F(GgufOutputTest, ScaledRope) {
  nlohmann::json config = TinyConfig();
  config["rope_scaling"] = {{"rope_type", "llama3"},
                            {"factor", 8.0},
                            {"low_freq_factor", 1.0},
                            {"high_freq_factor", 4.0},
                            {"original_max_position_embeddings", 32}};
  WriteSmall(config);
  ExpectSameModel();
  std::filesystem::remove(gguf());
  config["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 4.0}};
  WriteSmall(config);
  ExpectSameModel();
  std::filesystem::remove(gguf());
  config["rope_scaling"] = {
      {"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 24}};
  WriteSmall(config);
  ExpectSameModel();
}

TEST_F(GgufOutputTest, BiasesOfLlama) {
  nlohmann::json config = TinyConfig();
  config["attention_bias"] = true;
  WriteSmall(config);
  ExpectSameModel();
}

// Heads and blocks at once; the file's weights are the pooled ones within a step of their block.
TEST_F(GgufOutputTest, PooledHeadsInBlocks) {
  nlohmann::json config = TinyConfig();
  config["hidden_size"] = 256;
  config["intermediate_size"] = 96;
  config["num_key_value_heads"] = 4;
  WriteSmall(config);
  ConversionRequest request = Request();
  request.sharing.kv_heads = 2;
  ASSERT_TRUE(Run(request).ok());
  request.output = gguf();
  for (const WeightFormat format :
       {WeightFormat::kQ8_0, WeightFormat::kQ4_0, WeightFormat::kQ4_K}) {
    SCOPED_TRACE(Info(format).name);
    request.weights = format;
    request.force = true;
    const auto report = Run(request);
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->result.sharing, "gqa");
    const auto file = GgufFile::Open(gguf());
    ASSERT_TRUE(file.ok()) << file.status();
    const auto type = [&](const std::string& name) {
      return std::string(file->Find(name)->info.type.name);
    };
    const std::string wanted = format == WeightFormat::kQ8_0   ? "Q8_0"
                               : format == WeightFormat::kQ4_0 ? "Q4_0"
                                                               : "Q4_K";
    EXPECT_EQ(type("blk.0.attn_v.weight"), wanted);
    EXPECT_EQ(type("blk.0.attn_norm.weight"), "F32");
    EXPECT_EQ(type("token_embd.weight"), "Q8_0");
    EXPECT_EQ(type("output.weight"), "Q8_0");
    // Rows of 96 are no whole blocks of 256.
    EXPECT_EQ(type("blk.0.ffn_down.weight"), format == WeightFormat::kQ4_K ? "Q8_0" : wanted);

    const GgufFile::Tensor& v = *file->Find("blk.3.attn_v.weight");
    std::vector<float> got(16 * 256);
    Dequantize(format, file->Bytes(v).data(), static_cast<int64_t>(got.size()), got.data());
    const std::vector<float> pooled = Values(output(), "model.layers.3.self_attn.v_proj.weight");
    ASSERT_EQ(pooled.size(), got.size());
    double error = 0, size = 0;
    for (size_t i = 0; i < got.size(); ++i) {
      error += std::pow(got[i] - pooled[i], 2);
      size += std::pow(pooled[i], 2);
    }
    EXPECT_LT(std::sqrt(error / size), format == WeightFormat::kQ8_0 ? 0.01 : 0.12);
    EXPECT_FALSE(Logits(gguf()).empty());
  }
}

// The bundled model in Q8_0: its greedy continuation is the golden one.
TEST_F(GgufOutputTest, TheBundledModelGoesOnAsBefore) {
  ConversionRequest request = GgufRequest();
  request.source = Bundled("");
  request.weights = WeightFormat::kQ8_0;
  const auto report = Run(request);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_LT(report->result.weight_bytes, report->source.weight_bytes * 0.6);
  const nlohmann::json golden = nlohmann::json::parse(ReadFile(Bundled("golden.json")));
  const auto& prompt = golden["prompts"][0];
  Model::Options options;
  options.compute_type = ComputeType::kF32;
  const auto model = Model::Load(gguf(), options);
  ASSERT_TRUE(model.ok()) << model.status();
  TestDecoder decoder(model->get(), 256, 128);
  const auto ids = prompt["greedy_ids"].get<std::vector<TokenId>>();
  // Blocks of eight bits are not bf16: the first tokens, whose margins are wide.
  const auto got = decoder.Generate(prompt["ids"].get<std::vector<TokenId>>(), 8);
  EXPECT_EQ(got, std::vector<TokenId>(ids.begin(), ids.begin() + 8));
}

// A tokenizer as SentencePiece models have it.
TEST_F(GgufOutputTest, SentencePieceTokenizersAndChatTemplates) {
  nlohmann::json vocab = {{"<unk>", 0}, {"<s>", 1}, {"</s>", 2}};
  for (int byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof(name), "<0x%02X>", byte);
    vocab[name] = 3 + byte;
  }
  int id = 259;
  for (const char* piece : {"\u2581", "a", "b", "c", "ab", "\u2581ab", "abc", "ca"}) {
    vocab[piece] = id++;
  }
  const auto special = [](int token, const char* text) {
    return nlohmann::json{{"id", token},         {"content", text}, {"special", true},
                          {"normalized", false}, {"lstrip", false}, {"rstrip", false},
                          {"single_word", false}};
  };
  const nlohmann::json tokenizer = {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", {special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")}},
      {"normalizer",
       {{"type", "Sequence"},
        {"normalizers",
         {{{"type", "Prepend"}, {"prepend", "\u2581"}},
          {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\u2581"}}}}}},
      {"pre_tokenizer", nullptr},
      {"post_processor",
       {{"type", "TemplateProcessing"},
        {"single",
         {{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}},
          {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
        {"pair",
         {{{"Sequence", {{"id", "A"}, {"type_id", 0}}}},
          {{"Sequence", {{"id", "B"}, {"type_id", 1}}}}}},
        {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {1}}, {"tokens", {"<s>"}}}}}}}},
      {"decoder",
       {{"type", "Sequence"},
        {"decoders",
         {{{"type", "Replace"}, {"pattern", {{"String", "\u2581"}}}, {"content", " "}},
          {{"type", "ByteFallback"}},
          {{"type", "Fuse"}},
          {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}}}}},
      {"model",
       {{"type", "BPE"},
        {"dropout", nullptr},
        {"unk_token", "<unk>"},
        {"continuing_subword_prefix", nullptr},
        {"end_of_word_suffix", nullptr},
        {"fuse_unk", true},
        {"byte_fallback", true},
        {"ignore_merges", false},
        {"vocab", vocab},
        {"merges", {"a b", "\u2581 ab", "ab c", "c a"}}}}};
  nlohmann::json config = TinyConfig();
  config["vocab_size"] = 270;
  WriteSource(config, "F32");
  source_.Write("tokenizer.json", tokenizer.dump());
  source_.Write("tokenizer_config.json",
                R"({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})");
  source_.Write("chat_template.jinja", "{% for m in messages %}{{ m.content }}{% endfor %}");
  const auto report = Run(GgufRequest());
  ASSERT_TRUE(report.ok()) << report.status();
  const auto text = LoadGgufText(gguf(), "");
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_NE(text->chat_template, nullptr);
  EXPECT_EQ(text->tokenizer->bos_token_id(), 1);
  EXPECT_EQ(text->tokenizer->eos_token_id(), 2);
  EXPECT_THAT(*text->tokenizer->Encode("ab cab", {}),
              ElementsAre(1, 264, 259, 262, 263));  // _ab _ c ab: the earlier merge wins
}

// The patterns of published tokenizer.json files, and what the format calls them.
TEST_F(GgufOutputTest, WaysOfSplittingHaveTheirNames) {
  const std::string contractions = R"((?i:'s|'t|'re|'ve|'m|'ll|'d))";
  const std::string rest = R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  const std::string words = R"(|[^\r\n\p{L}\p{N}]?\p{L}+)";
  const std::string upper = R"([\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])";
  const std::string lower = R"([\p{Ll}\p{Lm}\p{Lo}\p{M}])";
  const std::string begin = R"([^\r\n\p{L}\p{N}]?)";
  const std::string tekken = begin + upper + "*" + lower + "+|" + begin + upper + "+" + lower +
                             R"(*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  struct Case {
    std::string pattern;
    bool ignore_merges;
    std::string name;
  };
  const Case cases[] = {
      {contractions + words + R"(|\p{N}{1,3})" + rest, true, "llama-bpe"},
      {contractions + words + R"(|\p{N}{1,3})" + rest, false, "dbrx"},
      {contractions + words + R"(|\p{N})" + rest, false, "qwen2"},
      {tekken, true, "tekken"},
      {" ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+", false, "bloom"},
  };
  WriteSmall(TinyConfig());
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    nlohmann::json tokenizer = nlohmann::json::parse(ReadFile(Bundled("tokenizer.json")));
    tokenizer["model"]["ignore_merges"] = c.ignore_merges;
    tokenizer["pre_tokenizer"] = {{"type", "Sequence"},
                                  {"pretokenizers",
                                   {{{"type", "Split"},
                                     {"pattern", {{"Regex", c.pattern}}},
                                     {"behavior", "Isolated"},
                                     {"invert", false}},
                                    {{"type", "ByteLevel"},
                                     {"add_prefix_space", false},
                                     {"trim_offsets", true},
                                     {"use_regex", false}}}}};
    source_.Write("tokenizer.json", tokenizer.dump());
    ConversionRequest request = GgufRequest();
    request.force = true;
    const auto report = Run(request);
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(**GgufFile::Open(gguf())->metadata().String("tokenizer.ggml.pre"), c.name);
  }
}

TEST_F(GgufOutputTest, WhatTheFormatCannotSayIsRefused) {
  const auto refused = [&](const std::string& text, const ConversionRequest& request) {
    const auto report = Run(request);
    ASSERT_FALSE(report.ok());
    EXPECT_EQ(report.status().code(), absl::StatusCode::kUnimplemented) << report.status();
    EXPECT_THAT(std::string(report.status().message()), HasSubstr(text));
    EXPECT_THAT(Leftovers(), IsEmpty());
  };
  WriteSmall(TinyConfig());
  ConversionRequest request = GgufRequest();
  request.sharing.cla_factor = 2;
  refused("no layers that share K/V", request);
  request = GgufRequest();

  nlohmann::json config = TinyConfig();
  config["architectures"] = {"HunYuanForCausalLM"};
  WriteSmall(config);
  refused("LlamaForCausalLM, Ministral3ForCausalLM", request);

  config = QwenConfig("MistralForCausalLM", "mistral");
  config["sliding_window"] = 16;
  WriteSmall(config);
  refused("would lose its windows (layer 0)", request);

  WriteSmall(TinyConfig());
  request.shard_bytes = 1000;
  const auto in_shards = Run(request);
  EXPECT_EQ(in_shards.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(in_shards.status().message()), HasSubstr("shard_bytes is 1000"));
  request = GgufRequest();

  WriteSmall(TinyConfig());
  nlohmann::json tokenizer = nlohmann::json::parse(ReadFile(Bundled("tokenizer.json")));
  tokenizer["normalizer"] = {{"type", "Lowercase"}};
  source_.Write("tokenizer.json", tokenizer.dump());
  refused("otherwise", request);
  tokenizer["pre_tokenizer"] = {{"type", "Whitespace"}};
  source_.Write("tokenizer.json", tokenizer.dump());
  refused("way of splitting", request);
  source_.Write("tokenizer.json", R"({"model": {"type": "WordPiece"}})");
  refused("no BPE", request);
}

}  // namespace
}  // namespace kvasir::testing
