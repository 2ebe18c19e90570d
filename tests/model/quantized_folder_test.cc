// Folders in the published forms of quantised weights: each weight to the bit what the form's
// arithmetic gives, the model the same as its twin of plain numbers, and every way a folder can be
// wrong told.

#include "tests/model/quantized_folder.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/model/architectures/registry.h"
#include "runtime/model/hf_config.h"
#include "runtime/model/loading/tensor_map.h"
#include "runtime/model/model.h"
#include "runtime/model/quantized/quantization_config.h"
#include "runtime/model/quantized/quantized_tensors.h"
#include "tests/model/test_decoder.h"

namespace kvasir::testing {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

absl::StatusOr<std::unique_ptr<Model>> Load(const TempFolder& folder, ComputeType type) {
  Model::Options options;
  options.compute_type = type;
  return Model::Load(folder.path(), options);
}

// Root of the mean square of the difference, in units of the expected values' own.
double RelativeError(const std::vector<float>& got, const std::vector<float>& expected) {
  double error = 0, size = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    error += std::pow(got[i] - expected[i], 2);
    size += std::pow(expected[i], 2);
  }
  return std::sqrt(error / size);
}

std::vector<std::string> AllForms() {
  std::vector<std::string> names = {"mxfp4"};
  for (const QuantizedForm& form : QuantizedForms()) names.push_back(form.name);
  return names;
}

Twins TwinsOf(const std::string& form) {
  return form == "mxfp4" ? MakeMxfp4Twins() : MakeTwins(FormNamed(form));
}

class QuantizedFolderTest : public ::testing::TestWithParam<std::string> {};

TEST_P(QuantizedFolderTest, HasTheValuesOfItsArithmetic) {
  const Twins twins = TwinsOf(GetParam());
  TempFolder folder;
  WriteModel(folder, twins.config, twins.quantized);
  const auto config = LoadQuantizationConfig(folder.path());
  ASSERT_TRUE(config.ok()) << config.status();
  auto checkpoint = Checkpoint::Open(folder.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto tensors = QuantizedTensors::Create(*config, *std::move(checkpoint));
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  const ModelSpec spec = *ParseHfConfig(twins.config.dump(), "");
  const TensorMap map = *MapTensors(spec, nullptr);
  const bool rounds = GetParam() != "mxfp4" && FormNamed(GetParam()).rounds;
  int blocks = 0;
  for (const auto& [id, weight] : map.weights()) {
    for (const StoredPart& part : weight.parts) {
      const auto got = (*tensors)->Get(id, part);
      ASSERT_TRUE(got.ok()) << got.status();
      const StoredMatrix& matrix = got->matrix;
      if (Info(matrix.type).is_block()) ++blocks;
      const std::vector<float>& plain = twins.plain.at(part.name).values;
      std::vector<float> row(static_cast<size_t>(part.cols));
      for (int64_t r = 0; r < part.rows; ++r) {
        StoredRow(matrix, r, row.data());
        const int64_t stored = part.row_order.empty() ? r : part.row_order[r];
        for (int64_t c = 0; c < part.cols; ++c) {
          const int64_t input = matrix.input_order == nullptr ? c : matrix.input_order[c];
          const float expected =
              plain[part.offset + stored * part.row_stride + input * part.col_stride];
          const float allowed = rounds ? std::abs(expected) * 0x1p-22f : 0;  // else exactly
          ASSERT_NEAR(row[c], expected, allowed)
              << part.name << " " << r << "," << c << ": " << row[c] << " for " << expected;
        }
      }
    }
  }
  const bool in_blocks = GetParam() == "mxfp4" || FormNamed(GetParam()).in_blocks;
  EXPECT_EQ(blocks, GetParam() == "mxfp4" ? 2 * 4 * 3 : in_blocks ? 2 * 7 : 0);
}

TEST_P(QuantizedFolderTest, ComputesWhatThePlainTwinComputes) {
  const Twins twins = TwinsOf(GetParam());
  TempFolder quantized, plain;
  WriteModel(quantized, twins.config, twins.quantized);
  Json config = twins.config;
  config.erase("quantization_config");
  WriteModel(plain, config, Stored(twins.plain, "F32"));
  const auto exact = Load(quantized, ComputeType::kF32);
  ASSERT_TRUE(exact.ok()) << exact.status();
  const auto twin = Load(plain, ComputeType::kF32);
  ASSERT_TRUE(twin.ok()) << twin.status();
  const std::vector<float> expected = LogitsOf(**twin, 40);
  EXPECT_LT(RelativeError(LogitsOf(**exact, 40), expected), 1e-5);
  EXPECT_LT(RelativeError(LogitsOf(**exact, 7), expected), 1e-5);
  const auto fast = Load(quantized, ComputeType::kBf16);
  ASSERT_TRUE(fast.ok()) << fast.status();
  // Experts that are chosen by a hair may change; nothing else may by more than rounding.
  const double allowed = GetParam() == "mxfp4" ? 0.2 : 0.05;
  EXPECT_LT(RelativeError(LogitsOf(**fast, 40), expected), allowed);
  EXPECT_LT(RelativeError(LogitsOf(**fast, 1), expected), allowed);
}

INSTANTIATE_TEST_SUITE_P(All, QuantizedFolderTest, ::testing::ValuesIn(AllForms()),
                         [](const auto& info) { return info.param; });

TEST(QuantizedFolderBytesTest, KeepsTheFilesNumberOfBits) {
  const auto bytes_of = [](const std::string& form) {
    const Twins twins = TwinsOf(form);
    TempFolder folder;
    WriteModel(folder, twins.config, twins.quantized);
    return (*Load(folder, ComputeType::kBf16))->weight_bytes_by_format();
  };
  // Per layer 4 projections of attention, 2 of 160 x 64 and one of 64 x 160.
  constexpr double kValues = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 160);
  EXPECT_LE(static_cast<double>(bytes_of("gptq_32").at("int4_32")), 1.04 * kValues * 4.5 / 8);
  EXPECT_LE(static_cast<double>(bytes_of("awq_32").at("int4_zero_32")), 1.1 * kValues * 4.75 / 8);
  EXPECT_LE(static_cast<double>(bytes_of("gptq_64").at("int4_64")), 1.06 * kValues * 4.25 / 8);
  EXPECT_LE(static_cast<double>(bytes_of("gptq_8_bits_32").at("q8_0")), 1.04 * kValues * 8.5 / 8);
}

// --- What is not served, and what is damaged ---

using Change = std::function<void(Twins*)>;

absl::Status StatusOf(const std::string& form, const Change& change) {
  Twins twins = TwinsOf(form);
  change(&twins);
  TempFolder folder;
  WriteModel(folder, twins.config, twins.quantized);
  return Load(folder, ComputeType::kF32).status();
}

void ExpectRefused(const std::string& form, const Change& change, absl::StatusCode code,
                   const std::vector<std::string>& says) {
  const absl::Status status = StatusOf(form, change);
  EXPECT_EQ(status.code(), code) << form << ": " << status;
  for (const std::string& part : says) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(part)) << form;
  }
}

const std::string kQ = "model.layers.0.self_attn.q_proj";
constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kNotFound = absl::StatusCode::kNotFound;
constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;

// Whether a module's tensor is read: scales of inputs are not.
bool IsRead(const std::string& name) {
  return absl::StartsWith(name, kQ) && !absl::StrContains(name, ".input_");
}

// Every tensor of a module of every form: missing, and of a type and shape that it cannot have.
TEST(QuantizedFolderDamageTest, EveryTensorIsWantedAsItMustBe) {
  const std::vector<std::string> optional = {"g_idx", "weight_g_idx", "weight_zero_point",
                                             "weight_shape"};
  for (const QuantizedForm& form : QuantizedForms()) {
    const Twins twins = MakeTwins(form);
    for (const auto& [name, tensor] : twins.quantized) {
      if (!IsRead(name)) continue;
      SCOPED_TRACE(form.name + ": " + name);
      const std::string key = name;
      const std::string part = key.substr(kQ.size() + 1);
      const bool is_optional = std::find(optional.begin(), optional.end(), part) != optional.end();
      if (!is_optional) {
        ExpectRefused(form.name, [&](Twins* t) { t->quantized.erase(key); }, kNotFound, {kQ});
      }
      if (part == "weight_shape") continue;  // said again by the packed codes
      const absl::Status status = StatusOf(form.name, [&](Twins* t) {
        FileTensor& bad = t->quantized[key];
        bad = {"F64", {3}, std::string(24, '\1')};
      });
      EXPECT_TRUE(absl::IsInvalidArgument(status) || absl::IsUnimplemented(status)) << status;
      EXPECT_THAT(std::string(status.message()), HasSubstr(kQ));
    }
  }
}

// The same tensors with a row less, of their own type.
TEST(QuantizedFolderDamageTest, ShapesMustAgree) {
  for (const QuantizedForm& form : QuantizedForms()) {
    const Twins twins = MakeTwins(form);
    for (const auto& [name, tensor] : twins.quantized) {
      if (!IsRead(name) || name == kQ + ".weight_shape") continue;
      if (tensor.shape.empty() || tensor.shape[0] < 2) continue;  // nothing left
      SCOPED_TRACE(form.name + ": " + name);
      const std::string key = name;
      ExpectRefused(form.name,
                    [&](Twins* t) {
                      FileTensor& bad = t->quantized[key];
                      bad.bytes.resize(bad.bytes.size() / bad.shape[0] * (bad.shape[0] - 1));
                      --bad.shape[0];
                    },
                    kInvalid, {kQ});
    }
  }
}

void SetWord(FileTensor* tensor, size_t index, int32_t value) {
  tensor->bytes.replace(4 * index, 4, reinterpret_cast<const char*>(&value), 4);
}

TEST(QuantizedFolderDamageTest, ValuesThatAreNone) {
  for (const char* const form : {"gptq_act_order", "packed_act_order"}) {
    const std::string name =
        kQ + (std::string(form) == "gptq_act_order" ? ".g_idx" : ".weight_g_idx");
    for (const int32_t group : {-1, 2, 1 << 30}) {
      ExpectRefused(form, [&](Twins* t) { SetWord(&t->quantized[name], 5, group); }, kInvalid,
                    {name, "input 5", std::to_string(group), "groups 0 to 1"});
    }
    ExpectRefused(form,
                  [&](Twins* t) {
                    for (size_t i = 0; i < 64; ++i) SetWord(&t->quantized[name], i, 0);
                  },
                  kInvalid, {name, "gives group 0 64 inputs"});
  }
  ExpectRefused("packed_f32_scales",
                [](Twins* t) { SetWord(&t->quantized[kQ + ".weight_scale"], 3, 0x7fc00000); },
                kInvalid, {kQ + ".weight_scale", "nan", "position 3"});
  for (const char zero : {'\x08', '\x64', '\xf7'}) {
    ExpectRefused("packed_128_zeros",
                  [zero](Twins* t) {
                    const int64_t rows = t->quantized[kQ + ".weight_packed"].shape[0];
                    FileTensor& zeros = t->quantized[kQ + ".weight_zero_point"];
                    const int64_t groups = zeros.shape[1];
                    zeros = {"I8", {rows, groups}, std::string(rows * groups, '\xf8')};
                    zeros.bytes[1] = zero;
                  },
                  kInvalid,
                  {kQ + ".weight_zero_point", std::to_string(static_cast<int8_t>(zero)),
                   "position 1", "-8 to 7"});
  }
  ExpectRefused("packed_nvfp4",
                [](Twins* t) { t->quantized[kQ + ".weight_scale"].bytes[5] = '\x7f'; }, kInvalid,
                {kQ + ".weight", "row 1"});
  for (const int32_t none : {0, 0x7fc00000}) {
    ExpectRefused("packed_nvfp4",
                  [&](Twins* t) { SetWord(&t->quantized[kQ + ".weight_global_scale"], 0, none); },
                  kInvalid, {kQ + ".weight_global_scale"});
  }
  ExpectRefused("fp8_rows", [](Twins* t) { t->quantized[kQ + ".weight"].bytes[65] = '\x7f'; },
                kInvalid, {kQ + ".weight", "row 1"});
  ExpectRefused("mxfp4",
                [](Twins* t) {
                  t->quantized["model.layers.1.mlp.experts.down_proj_scales"].bytes[0] = '\xff';
                },
                kInvalid, {"model.layers.1.mlp.experts.down_proj"});
}

TEST(QuantizedFolderDamageTest, ConfigAndTensorsMustMeet) {
  // Groups of another size than the scales have.
  ExpectRefused("gptq_32", [](Twins* t) { t->config["quantization_config"]["group_size"] = 64; },
                kInvalid, {".scales", "group_size", "64"});
  // Without the order in which it was quantised.
  for (const char* form : {"gptq_act_order", "packed_act_order"}) {
    ExpectRefused(form,
                  [](Twins* t) {
                    t->quantized.erase(kQ + ".g_idx");
                    t->quantized.erase(kQ + ".weight_g_idx");
                  },
                  kInvalid, {kQ, "order of its inputs", "g_idx"});
  }
  // Two settings that the shapes do not tell apart: 160 inputs in two groups.
  ExpectRefused("packed_two_groups", [](Twins* t) { t->quantized.erase(kQ + ".weight_shape"); },
                kInvalid, {kQ + ".weight_packed", "numbers of bits (4, 8)"});
  ExpectRefused("gptq_128",
                [](Twins* t) {
                  t->config["quantization_config"]["dynamic"] = {{"x", {{"group_size", 96}}}};
                },
                kUnimplemented, {"down_proj.scales", "groups of 128 and of 96"});
  // FP8 numbers where int8 is announced.
  ExpectRefused("fp8_rows",
                [](Twins* t) { t->config["quantization_config"] = FormNamed("int8_rows").config; },
                kInvalid, {"F8_E4M3"});
  // The key without any such tensor, and such tensors without the key.
  ExpectRefused("gptq_32", [](Twins* t) { t->quantized = Stored(t->plain, "F32"); }, kInvalid,
                {"quantization_config"});
  ExpectRefused("gptq_32", [](Twins* t) { t->config.erase("quantization_config"); }, kInvalid,
                {"lacks model.layers.0"});
  ExpectRefused("fp8_rows", [](Twins* t) { t->config.erase("quantization_config"); },
                kUnimplemented, {"F8_E4M3"});
  // Both forms of one weight.
  ExpectRefused(
      "gptq_32",
      [](Twins* t) { t->quantized[kQ + ".weight"] = Stored(t->plain, "F32").at(kQ + ".weight"); },
      kInvalid, {kQ + ".weight", kQ + ".qweight"});
  // A tensor that no form has.
  ExpectRefused("awq_32",
                [](Twins* t) {
                  t->quantized[kQ + ".lora_A"] = {"F32", {1}, std::string(4, 0)};
                },
                kInvalid, {kQ + ".lora_A", "has no place"});
  // A shape that config.json does not ask for.
  ExpectRefused("gptq_32", [](Twins* t) { t->config["intermediate_size"] = 96; }, kInvalid,
                {"qweight", "config.json asks for"});
}

TEST(QuantizedFolderTest, ModulesMayBeLeftOut) {
  Twins twins = TwinsOf("gptq_32");
  FileTensors& tensors = twins.quantized;
  const std::string base = "model.layers.1.mlp.down_proj";
  for (const char* const part : {".qweight", ".qzeros", ".scales", ".g_idx"}) {
    tensors.erase(base + part);
  }
  tensors[base + ".weight"] = Stored(twins.plain, "F32").at(base + ".weight");
  // What quantisers leave of activations and of the K/V cache.
  tensors["model.layers.1.self_attn.k_scale"] = {"F32", {1}, std::string(4, '\0')};
  tensors[kQ + ".input_scale"] = {"F32", {1}, std::string(4, '\0')};
  TempFolder folder, plain;
  WriteModel(folder, twins.config, tensors);
  WriteModel(plain, SmallConfig(), Stored(twins.plain, "F32"));
  const auto model = Load(folder, ComputeType::kF32);
  ASSERT_TRUE(model.ok()) << model.status();
  const auto twin = Load(plain, ComputeType::kF32);
  EXPECT_LT(RelativeError(LogitsOf(**model, 40), LogitsOf(**twin, 40)), 1e-5);
}

TEST(QuantizedFolderDamageTest, FilesThatAreNone) {
  const Twins twins = TwinsOf("gptq_32");
  TempFolder folder;
  WriteModel(folder, twins.config, twins.quantized);
  folder.Write("model.safetensors",
               "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n");
  absl::Status status = Load(folder, ComputeType::kF32).status();
  EXPECT_EQ(status.code(), kInvalid) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("Git LFS"));
  folder.Remove("model.safetensors");
  Json index;
  for (const auto& [name, tensor] : twins.quantized) {
    index["weight_map"][name] = "model-00002-of-00002.safetensors";
  }
  folder.Write("model.safetensors.index.json", index.dump());
  status = Load(folder, ComputeType::kF32).status();
  EXPECT_EQ(status.code(), kNotFound) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("model-00002-of-00002.safetensors"));
}

}  // namespace
}  // namespace kvasir::testing
