// quantization_config of folders: where it is found, and everything in it that is not served told.

#include "runtime/model/quantized/quantization_config.h"

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/model/quantized_folder.h"

namespace kvasir::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using Json = nlohmann::json;

TEST(QuantizationConfigTest, RefusesWhatIsNotServed) {
  constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  const Json gptq = FormNamed("gptq_32").config, awq = FormNamed("awq_32").config;
  const Json packed = FormNamed("packed_32").config, bytes = FormNamed("int8_rows").config;
  const Json fp8 = FormNamed("fp8_blocks").config;
  const auto weights = [](Json* config) -> Json& {
    return (*config)["config_groups"]["group_0"]["weights"];
  };
  struct Case {
    Json config;
    std::function<void(Json*)> change;
    absl::StatusCode code;
    std::vector<std::string> says;
  };
  const Case cases[] = {
      {gptq,
       [](Json* c) { (*c)["quant_method"] = "bitsandbytes"; },
       kUnimplemented,
       {"quant_method", "bitsandbytes", "gptq, awq, compressed-tensors, fp8", "GGUF"}},
      {gptq, [](Json* c) { c->erase("quant_method"); }, kUnimplemented, {"quant_method"}},
      {gptq, [](Json* c) { (*c)["bits"] = 5; }, kUnimplemented, {"bits is 5", "2, 3, 4, 8 bits"}},
      {gptq, [](Json* c) { (*c)["bits"] = "four"; }, kInvalid, {"bits"}},
      {gptq, [](Json* c) { (*c)["group_size"] = 0; }, kInvalid, {"group_size is 0"}},
      {gptq, [](Json* c) { (*c)["group_size"] = 48; }, kUnimplemented, {"group_size is 48"}},
      {gptq, [](Json* c) { c->erase("group_size"); }, kInvalid, {"group_size is missing"}},
      {gptq,
       [](Json* c) { (*c)["checkpoint_format"] = "marlin"; },
       kUnimplemented,
       {"checkpoint_format", "marlin", "gptq_v2"}},
      {gptq,
       [](Json* c) {
         (*c)["dynamic"] = {{"+:.*down.*", {{"bits", 6}}}};
       },
       kUnimplemented,
       {"dynamic: +:.*down.*", "bits is 6"}},
      {gptq, [](Json* c) { (*c)["dynamic"] = 3; }, kInvalid, {"dynamic is 3"}},
      {gptq,
       [](Json* c) {
         (*c)["adapter"] = {{"name", "lora"}};
       },
       kUnimplemented,
       {"adapter", "merge it first"}},
      {gptq, [](Json* c) { (*c)["pack_dtype"] = "int16"; }, kUnimplemented, {"pack_dtype"}},
      {gptq, [](Json* c) { (*c)["format"] = "bitblas"; }, kUnimplemented, {"format", "bitblas"}},
      {gptq,
       [](Json* c) {
         (*c)["format"] = "gptq_v2";
         (*c)["checkpoint_format"] = "gptq";
       },
       kInvalid,
       {"format", "checkpoint_format is \"gptq\""}},
      {gptq,
       [](Json* c) { (*c)["is_marlin_format"] = true; },
       kUnimplemented,
       {"is_marlin_format"}},
      {awq, [](Json* c) { (*c)["format"] = "gemv_fast"; }, kUnimplemented, {"format", "gemv_fast"}},
      {gptq,
       [](Json* c) {
         *c = {{"quant_method", "modelopt"}, {"quant_algo", "NVFP4_AWQ"}};
       },
       kUnimplemented,
       {"quant_algo", "NVFP4_AWQ", "FP8 and NVFP4"}},
      {FormNamed("modelopt_nvfp4").config,
       [](Json* c) { (*c)["group_size"] = 32; },
       kUnimplemented,
       {"group_size is 32"}},
      {FormNamed("packed_nvfp4").config,
       [&](Json* c) { weights(c)["group_size"] = 32; },
       kUnimplemented,
       {"group_size is 32"}},
      {packed,
       [&](Json* c) { weights(c)["actorder"] = "random"; },
       kUnimplemented,
       {"actorder", "random"}},
      {packed,
       [](Json* c) {
         (*c)["transform_config"] = {{"config_groups", {{"R1", 1}}}};
       },
       kUnimplemented,
       {"transform_config"}},
      {FormNamed("packed_mxfp4").config,
       [&](Json* c) { weights(c)["group_size"] = 64; },
       kUnimplemented,
       {"group_size is 64"}},
      {awq, [](Json* c) { (*c)["version"] = "gemv"; }, kUnimplemented, {"version", "gemv", "gemm"}},
      {awq, [](Json* c) { (*c)["bits"] = 8; }, kUnimplemented, {"bits is 8"}},
      {packed,
       [](Json* c) { (*c)["format"] = "marlin-24"; },
       kUnimplemented,
       {"format", "marlin-24", "pack-quantized"}},
      {packed,
       [](Json* c) { (*c)["quantization_status"] = "frozen"; },
       kUnimplemented,
       {"quantization_status", "frozen"}},
      {packed, [](Json* c) { c->erase("config_groups"); }, kInvalid, {"config_groups is missing"}},
      {packed, [](Json* c) { (*c)["config_groups"]["group_0"] = 1; }, kInvalid, {"group_0"}},
      {packed,
       [](Json* c) { (*c)["config_groups"]["group_0"].erase("weights"); },
       kInvalid,
       {"group_0", "weights is missing"}},
      {packed,
       [&](Json* c) { weights(c)["num_bits"] = 3; },
       kUnimplemented,
       {"group_0", "num_bits is 3"}},
      {packed,
       [&](Json* c) { weights(c)["strategy"] = "token"; },
       kUnimplemented,
       {"strategy", "token"}},
      {packed,
       [](Json* c) {
         (*c)["sparsity_config"] = {{"format", "sparse-24-bitmask"}};
       },
       kUnimplemented,
       {"sparsity_config", "sparse-24-bitmask"}},
      {bytes, [&](Json* c) { weights(c)["symmetric"] = false; }, kUnimplemented, {"symmetric"}},
      {bytes, [&](Json* c) { weights(c)["num_bits"] = 4; }, kUnimplemented, {"num_bits is 4"}},
      {fp8, [](Json* c) { (*c)["fmt"] = "e5m2"; }, kUnimplemented, {"fmt", "e5m2"}},
      {fp8,
       [](Json* c) {
         (*c)["weight_block_size"] = {128, 100};
       },
       kUnimplemented,
       {"weight_block_size"}},
      {fp8, [](Json* c) { (*c)["weight_block_size"] = {128}; }, kInvalid, {"weight_block_size"}},
  };
  for (const Case& c : cases) {
    Json config = SmallConfig();
    config["quantization_config"] = c.config;
    c.change(&config["quantization_config"]);
    const absl::Status status = ParseQuantizationConfig(config).status();
    EXPECT_EQ(status.code(), c.code) << config["quantization_config"] << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("config.json: quantization_config"));
    for (const std::string& part : c.says) {
      EXPECT_THAT(std::string(status.message()), HasSubstr(part));
    }
  }
  for (const Json& no_object : {Json("gptq"), Json(4), Json::array()}) {
    Json config = SmallConfig();
    config["quantization_config"] = no_object;
    EXPECT_EQ(ParseQuantizationConfig(config).status().code(), kInvalid) << no_object;
  }
}

TEST(QuantizationConfigTest, IsFoundWhereWritersPutIt) {
  using Method = QuantizationConfig::Method;
  Json config = SmallConfig();
  EXPECT_EQ(ParseQuantizationConfig(config)->method, Method::kNone);
  config["quantization_config"] = nullptr;
  EXPECT_EQ(ParseQuantizationConfig(config)->method, Method::kNone);
  config["text_config"]["quantization_config"] = FormNamed("awq_32").config;
  EXPECT_EQ(ParseQuantizationConfig(config)->method, Method::kAwq);
  config["compression_config"] = FormNamed("packed_32").config;
  EXPECT_EQ(ParseQuantizationConfig(config)->method, Method::kAwq);  // the first key counts
  TempFolder folder;
  folder.Write("config.json", SmallConfig().dump());
  folder.Write("quantize_config.json", R"({"bits": 4, "group_size": 128, "desc_act": false})");
  EXPECT_EQ(LoadQuantizationConfig(folder.path())->method, Method::kGptq);
  TempFolder model_opt;
  model_opt.Write("config.json", SmallConfig().dump());
  const auto has = [&](const char* text) {
    model_opt.Write("hf_quant_config.json", text);
    return LoadQuantizationConfig(model_opt.path());
  };
  EXPECT_EQ(has(R"({"producer": {"name": "modelopt"},
                    "quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8",
                                     "group_size": 16, "exclude_modules": ["lm_head"]}})")
                ->method,
            Method::kNvfp4);
  EXPECT_EQ(has(R"({"quantization": {"quant_algo": "FP8"}})")->method, Method::kScaledBytes);
  EXPECT_THAT(
      std::string(has(R"({"quantization": {"quant_algo": "W4A8_AWQ"}})").status().message()),
      AllOf(HasSubstr("hf_quant_config.json"), HasSubstr("W4A8_AWQ")));
  EXPECT_TRUE(absl::IsInvalidArgument(has("{}").status()));
}

}  // namespace
}  // namespace kvasir::testing
