// GGUF files of every architecture that the format knows: the small checkpoints of
// $KVASIR_SHARED/arch are written, read again and compute the same; where llama.cpp's own converter
// has made a file of one ($KVASIR_SHARED/gguf), metadata and tensors are those of that file.
// Without the folders the tests say so and are skipped.

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <map>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "runtime/formats/dequantize.h"
#include "runtime/formats/gguf_file.h"
#include "runtime/model/model.h"
#include "tests/conversion/conversion_fixture.h"
#include "tests/model/test_decoder.h"
#include "tests/test_models.h"

namespace kvasir::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::filesystem::path SharedRoot() {
  if (const char* path = std::getenv("KVASIR_SHARED")) return path;
  return ModelsRoot() / "..";
}

struct Case {
  std::string folder;               // of arch
  nlohmann::json change = nullptr;  // of its config.json
  std::string refusal = "";         // a part of the message; empty: it is written
  std::string what = "";            // of the case's name

  std::string Name() const {
    std::string name = what.empty() ? folder : folder + "_" + what;
    for (char& c : name) c = c == '-' || c == '.' ? '_' : c;
    return name;
  }
};

std::vector<Case> Cases() {
  const char* const none = "of the architectures";
  std::vector<Case> cases;
  for (const char* folder :
       {"bloom",       "cohere",     "cohere2",       "exaone4",       "falcon-40b",
        "falcon-7b",   "gemma",      "gemma3",        "glm4",          "glm4-moe",
        "gpt-bigcode", "gpt-neox",   "gpt2",          "gpt-oss",       "granite",
        "granite-moe", "lfm2",       "hunyuan-dense", "llama-linear",  "llama-yarn",
        "llama3-rope", "ministral3", "mixtral",       "nemotron",      "olmo2",
        "olmo3",       "phi",        "phi3",          "phi3-longrope", "qwen2",
        "qwen3",       "qwen3-moe",  "stablelm",      "starcoder2"}) {
    cases.push_back({folder});
  }
  for (const char* folder : {"deepseek-v2", "deepseek-v3", "gemma3n", "gemma4", "gptj",
                             "hunyuan-cla2", "opt", "qwen3-next", "qwen3.5"}) {
    cases.push_back({folder, nullptr, none});
  }
  cases.push_back({"pythia-mlkv2", nullptr, "no layers that share K/V"});
  // What the format leaves to its readers' constants.
  cases.push_back({"gemma2", nullptr, "the scale of scores"});
  cases.push_back({"gemma2", {{"query_pre_attn_scalar", 16}}, "", "usual_scale"});
  cases.push_back({"gemma2",
                   {{"query_pre_attn_scalar", 16}, {"final_logit_softcapping", nullptr}},
                   "the cap of its logits",
                   "no_cap"});
  cases.push_back({"smollm3", nullptr, "which layers are rotated"});
  cases.push_back({"smollm3", {{"no_rope_layers", {1, 1, 1, 0}}}, "", "usual_layers"});
  cases.push_back({"gpt-neox-sequential", nullptr, "its feed-forward"});  // gelu_fast
  cases.push_back({"gpt-neox-sequential", {{"hidden_act", "gelu"}}, "", "usual_activation"});
  cases.push_back({"mistral-window", nullptr, "its windows"});
  cases.push_back({"mistral-window", {{"sliding_window", nullptr}}, "", "open"});
  cases.push_back({"gpt-oss", {{"swiglu_limit", 5.0}}, "its experts", "other_limit"});
  // What it has a key for.
  cases.push_back(
      {"gemma3",
       {{"layer_types", {"full_attention", "full_attention", "full_attention", "full_attention"}},
        {"final_logit_softcapping", 20.0}},
       "",
       "no_windows"});
  cases.push_back({"phi3", {{"sliding_window", 24}}, "", "window"});
  cases.push_back({"gpt-oss",
                   {{"layer_types",
                     {"full_attention", "full_attention", "sliding_attention", "full_attention"}}},
                   "",
                   "other_layers"});
  return cases;
}

std::string ReadFile(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

class GgufArchitectureTest : public ConversionFixture, public ::testing::WithParamInterface<Case> {
 protected:
  void SetUp() override {
    const auto folder = SharedRoot() / "arch" / GetParam().folder;
    if (!std::filesystem::exists(folder)) {
      GTEST_SKIP() << folder << " IS NOT ON THIS MACHINE; set KVASIR_SHARED";
    }
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      const auto name = entry.path().filename();
      if (name == "config.json") continue;
      std::filesystem::create_symlink(entry.path(), std::filesystem::path(source_.path()) / name);
    }
    nlohmann::json config = nlohmann::json::parse(ReadFile(folder / "config.json"));
    if (GetParam().change.is_object()) config.update(GetParam().change);
    source_.Write("config.json", config.dump());
  }

  std::string gguf() const { return outputs_.path() + "/result.gguf"; }

  static std::unique_ptr<Model> Load(const std::string& path) {
    Model::Options options;
    options.compute_type = ComputeType::kF32;
    auto model = Model::Load(path, options);
    EXPECT_TRUE(model.ok()) << model.status();
    return model.ok() ? *std::move(model) : nullptr;
  }
};

TEST_P(GgufArchitectureTest, IsTheSameModelOrRefused) {
  ConversionRequest request = Request();
  request.output = gguf();
  const auto report = Run(request);
  if (!GetParam().refusal.empty()) {
    EXPECT_EQ(report.status().code(), absl::StatusCode::kUnimplemented) << report.status();
    EXPECT_THAT(std::string(report.status().message()), HasSubstr(GetParam().refusal));
    EXPECT_THAT(Leftovers(), IsEmpty());
    return;
  }
  ASSERT_TRUE(report.ok()) << report.status();
  const auto folder = Load(source_.path()), file = Load(gguf());
  ASSERT_TRUE(folder && file);
  std::vector<TokenId> prompt;
  for (int i = 0; i < 48; ++i) prompt.push_back(2 + i * 37 % 300);
  TestDecoder first(folder.get(), 512, 64), second(file.get(), 512, 64);
  TestSequence a = first.NewSequence(), b = second.NewSequence();
  const auto expected = first.Append(&a, prompt, 48, true);
  const auto got = second.Append(&b, prompt, 48, true);
  ASSERT_EQ(expected.size(), got.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    for (size_t v = 0; v < expected[i].size(); ++v) {
      ASSERT_NEAR(expected[i][v], got[i][v], 1e-4) << i << " " << v;
    }
  }
  EXPECT_EQ(first.Generate(prompt, 24), second.Generate(prompt, 24));
}

INSTANTIATE_TEST_SUITE_P(All, GgufArchitectureTest, ::testing::ValuesIn(Cases()),
                         [](const auto& info) { return info.param.Name(); });

// --- Against the files of llama.cpp's converter ---

std::string Text(const GgufValue& value) {
  if (const auto* array = std::get_if<GgufArray>(&value)) {
    return absl::StrCat(
        "array of type ", static_cast<int>(array->type), ": ",
        std::string(reinterpret_cast<const char*>(array->bytes.data()), array->bytes.size()));
  }
  if (const auto* text = std::get_if<absl::string_view>(&value)) return std::string(*text);
  if (const auto* number = std::get_if<double>(&value)) return absl::StrCat("f", *number);
  if (const auto* number = std::get_if<uint64_t>(&value)) return absl::StrCat("u", *number);
  if (const auto* number = std::get_if<int64_t>(&value)) return absl::StrCat("i", *number);
  return absl::StrCat("b", std::get<bool>(value));
}

class GgufTwinTest : public GgufArchitectureTest {};

TEST_P(GgufTwinTest, HasTheMetadataAndTensorsOfTheOtherConverter) {
  const auto twin_path = SharedRoot() / "gguf" / (GetParam().folder + "-bf16.gguf");
  if (!std::filesystem::exists(twin_path)) {
    GTEST_SKIP() << twin_path << " IS NOT ON THIS MACHINE; set KVASIR_SHARED";
  }
  ConversionRequest request = Request();
  request.output = gguf();
  const auto report = Run(request);
  ASSERT_TRUE(report.ok()) << report.status();
  const auto twin = GgufFile::Open(twin_path.string()), ours = GgufFile::Open(gguf());
  ASSERT_TRUE(twin.ok() && ours.ok());
  // The model's name and a label of its size; of Bloom, whose context nothing limits, the other
  // converter writes the hidden size.
  const std::set<std::string> apart = {"general.name", "general.size_label",
                                       "bloom.context_length"};
  for (const auto& [key, value] : twin->metadata().values()) {
    if (apart.count(std::string(key)) > 0) continue;
    const GgufValue* own = ours->metadata().Find(key);
    ASSERT_NE(own, nullptr) << key;
    EXPECT_EQ(Text(*own), Text(value)) << key;
  }
  EXPECT_EQ(twin->tensors().size(), ours->tensors().size());
  for (const auto& [name, tensor] : twin->tensors()) {
    const GgufFile::Tensor* own = ours->Find(std::string(name));
    ASSERT_NE(own, nullptr) << name;
    EXPECT_EQ(own->info.shape, tensor.info.shape) << name;
    ASSERT_EQ(own->info.type.type, tensor.info.type.type) << name;
    const auto a = ours->Bytes(*own), b = twin->Bytes(tensor);
    ASSERT_EQ(a.size(), b.size());
    if (name != "rope_freqs.weight") {
      EXPECT_TRUE(a == b) << name;
      continue;
    }
    std::vector<float> x(a.size() / 4), y(x.size());
    Dequantize(WeightFormat::kF32, a.data(), static_cast<int64_t>(x.size()), x.data());
    Dequantize(WeightFormat::kF32, b.data(), static_cast<int64_t>(x.size()), y.data());
    for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(x[i], y[i], 1e-6 * y[i]);
  }
}

std::vector<Case> Twins() {
  std::vector<Case> cases;
  for (const char* folder : {"bloom", "gemma", "glm4", "gpt-oss", "lfm2", "llama3-rope", "mixtral",
                             "olmo2", "qwen3", "qwen3-moe", "starcoder2"}) {
    cases.push_back({folder});
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(All, GgufTwinTest, ::testing::ValuesIn(Twins()),
                         [](const auto& info) { return info.param.Name(); });

}  // namespace
}  // namespace kvasir::testing
