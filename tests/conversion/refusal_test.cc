// What is not converted: one clear error each, and nothing left behind.

#include <fcntl.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <optional>

#include "base/mapped_pages.h"
#include "gmock/gmock.h"
#include "runtime/formats/dequantize.h"
#include "tests/conversion/conversion_fixture.h"

namespace kvasir::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

class RefusalTest : public ConversionFixture {
 protected:
  void Refused(const ConversionRequest& request, absl::StatusCode code, const std::string& text) {
    const auto report = Run(request);
    ASSERT_FALSE(report.ok());
    EXPECT_EQ(report.status().code(), code) << report.status();
    EXPECT_THAT(std::string(report.status().message()), HasSubstr(text));
    EXPECT_THAT(Leftovers(), IsEmpty());
  }
  void RefusedHeads(int kv_heads, absl::StatusCode code, const std::string& text) {
    ConversionRequest request = Request();
    request.sharing.kv_heads = kv_heads;
    Refused(request, code, text);
  }
};

using enum absl::StatusCode;

TEST_F(RefusalTest, MissingAndBrokenSources) {
  ConversionRequest request = Request();
  request.sharing.kv_heads = 1;
  request.source = "/nowhere/at/all";
  Refused(request, kNotFound, "there is no model at /nowhere/at/all");
  request.source = source_.path();
  Refused(request, kNotFound, "config.json");
  source_.Write("config.json", "{");
  Refused(request, kInvalidArgument, "config.json");
  source_.Write("config.json", TinyConfig().dump());
  Refused(request, kNotFound, "model.safetensors");
  source_.Write("model.safetensors", "short");
  Refused(request, kInvalidArgument, "model.safetensors");
  request.source = source_.path() + "/model.safetensors";
  Refused(request, kInvalidArgument, "is no folder");
}

TEST_F(RefusalTest, UnreadableFiles) {
  if (geteuid() == 0) GTEST_SKIP() << "root reads everything";
  WriteSource(TinyConfig());
  ConversionRequest request = Request();
  request.sharing.kv_heads = 1;
  std::filesystem::permissions(source_.path() + "/tokenizer.json", std::filesystem::perms::none);
  Refused(request, kPermissionDenied, "tokenizer.json");
}

// Tensors that the kernel reads where they are mapped, and such that are computed from.
TEST_F(RefusalTest, ASourceThatBecomesShorterMeanwhile) {
  SurviveLostReads();
  for (const std::optional<WeightFormat> weights :
       {std::optional<WeightFormat>(), std::optional(WeightFormat::kBf16)}) {
    WriteSource(TinyConfig());
    ConversionRequest request = Request();
    request.sharing.kv_heads = 1;
    request.weights = weights;
    const auto report = Convert(request, [&](int64_t, int64_t) {
      std::filesystem::resize_file(source_.path() + "/model.safetensors", 0);
      return true;
    });
    ASSERT_FALSE(report.ok());
    EXPECT_EQ(report.status().code(), kFailedPrecondition) << report.status();
    EXPECT_THAT(std::string(report.status().message()), HasSubstr("became shorter"));
    EXPECT_THAT(Leftovers(), IsEmpty());
  }
}

TEST_F(RefusalTest, LinksToNothing) {
  WriteSource(TinyConfig());
  std::filesystem::create_symlink("blobs/gone", source_.path() + "/merges.txt");
  RefusedHeads(1, kNotFound, "merges.txt is a link to a file that is missing");
}

TEST_F(RefusalTest, FactorsThatDoNotFit) {
  nlohmann::json config = TinyConfig();
  config["num_attention_heads"] = 12;
  config["num_key_value_heads"] = 6;
  WriteSource(config);
  RefusedHeads(4, kInvalidArgument, "kv_heads is 4, but must divide the 6 K/V heads");
  RefusedHeads(12, kInvalidArgument, "has only 6 K/V heads");
  RefusedHeads(0, kInvalidArgument, "kv_heads is 0");
  RefusedHeads(-3, kInvalidArgument, "kv_heads is -3");
  RefusedHeads(6, kInvalidArgument, "there is nothing to convert");
  ConversionRequest request = Request();
  Refused(request, kInvalidArgument, "nothing to convert");
  request.sharing.layers = LayerRecipe::kMean;
  request.sharing.kv_heads = 3;
  Refused(request, kInvalidArgument, "needs cla or mlkv");
  request = Request();
  for (const int factor : {-1, 0, 1, 5}) {
    request.sharing.cla_factor = factor;
    Refused(request, kInvalidArgument, "from 2 to its 4 layers");
  }
  request = Request();
  for (const int layers : {-1, 0, 4, 5}) {
    request.sharing.mlkv_layers = layers;
    Refused(request, kInvalidArgument, "from 1 to 3");
  }
  request.sharing.mlkv_layers = 2;
  request.sharing.cla_factor = 2;
  Refused(request, kInvalidArgument, "exclude each other");
  request = Request();
  request.weights = WeightFormat::kQ4_K;
  Refused(request, kInvalidArgument, "exist in GGUF files only");
  request = Request();
  request.integer_bits = 4;
  Refused(request, kUnimplemented, "no multiple of 32");  // rows of 24
  request.output += ".gguf";
  Refused(request, kInvalidArgument, "are written into folders");
}

TEST_F(RefusalTest, SharingThatCannotBeTornApart) {
  nlohmann::json config = TinyConfig();
  config["use_cla"] = true;
  config["cla_share_factor"] = 2;
  WriteSource(config);
  ConversionRequest request = Request();
  request.sharing.cla_factor = 3;
  Refused(request, kInvalidArgument, "tear apart");
  request.sharing.cla_factor = 2;
  Refused(request, kInvalidArgument, "there is nothing to convert");
}

TEST_F(RefusalTest, ArchitecturesThatHaveNothingToPool) {
  const auto refused = [&](const nlohmann::json& config, const std::string& text) {
    WriteSource(config);
    RefusedHeads(1, kUnimplemented, text);
  };
  nlohmann::json config = TinyConfig();
  config["head_dim"] = 6;
  config["rotary_pct"] = 1.0;
  config["num_key_value_heads"] = 4;
  config["architectures"] = {"GPTNeoXForCausalLM"};
  refused(config, "is no matrix of its own");
  config["architectures"] = {"Olmo2ForCausalLM"};
  refused(config, "the norm of K spans all its heads");
  config["architectures"] = {"OPTForCausalLM"};
  config["word_embed_proj_dim"] = 24;
  config["ffn_dim"] = 40;
  refused(config, "its config has no num_key_value_heads");
  config["architectures"] = {"LfM2ForCausalLM"};
  source_.Write("config.json", config.dump());
  RefusedHeads(1, kUnimplemented, "is not supported");
}

TEST_F(RefusalTest, QuantizedSourcesAndOtherMedia) {
  WriteSource(TinyConfig());
  nlohmann::json config = TinyConfig();
  for (const char* key : {"quantization_config", "compression_config"}) {
    config = TinyConfig();
    config[key] = {{"quant_method", "gptq"}};
    source_.Write("config.json", config.dump());
    RefusedHeads(1, kUnimplemented, "quantization_config");
  }
  source_.Write("config.json", TinyConfig().dump());
  source_.Write("hf_quant_config.json", R"({"quantization": {"quant_algo": "NVFP4"}})");
  RefusedHeads(1, kUnimplemented, "quantization_config");
  source_.Write("quantize_config.json", R"({"bits": 4, "group_size": 128})");
  RefusedHeads(1, kUnimplemented, "quantization_config");
}

// Layers with windows and layers without cannot read the same K/V.
TEST_F(RefusalTest, LayersThatDiffer) {
  nlohmann::json config = TinyConfig();
  config["architectures"] = {"MistralForCausalLM"};
  config["model_type"] = "mistral";
  config["sliding_window"] = 16;
  config["layer_types"] = {"sliding_attention", "full_attention", "sliding_attention",
                           "full_attention"};
  WriteSource(config);
  ConversionRequest request = Request();
  request.sharing.cla_factor = 2;
  const auto report = Run(request);
  ASSERT_FALSE(report.ok());
  EXPECT_THAT(std::string(report.status().message()), HasSubstr("window"));
  EXPECT_THAT(Leftovers(), IsEmpty());
}

TEST_F(RefusalTest, FullDisk) {
  WriteSource(TinyConfig());
  const std::string disk = outputs_.path() + "/disk";
  std::filesystem::create_directory(disk);
  if (mount("none", disk.c_str(), "tmpfs", 0, "size=64k") != 0) {
    GTEST_SKIP() << "no small file system can be mounted here: " << std::strerror(errno);
  }
  ConversionRequest request = Request();
  request.sharing.kv_heads = 1;
  request.output = disk + "/result";
  const auto report = Run(request);
  const bool empty = std::filesystem::is_empty(disk);
  umount(disk.c_str());
  EXPECT_EQ(report.status().code(), kResourceExhausted) << report.status();
  EXPECT_THAT(std::string(report.status().message()), HasSubstr("free; make room"));
  EXPECT_TRUE(empty);
}

}  // namespace
}  // namespace kvasir::testing
