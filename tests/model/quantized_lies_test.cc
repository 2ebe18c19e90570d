// Folders whose quantization_config lies, field by field: each is loaded or refused by name, and
// nothing else happens.

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/model/model.h"
#include "tests/model/quantized_folder.h"

namespace kvasir::testing {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;
using Json = nlohmann::json;

// Every field, the objects and lists among them too.
void ListFields(const Json& json, const Json::json_pointer& at,
                std::vector<Json::json_pointer>* fields) {
  if (!json.is_structured()) return;
  for (const auto& [key, value] : json.items()) {
    const Json::json_pointer field =
        json.is_array() ? at / static_cast<size_t>(std::stoul(key)) : at / key;
    fields->push_back(field);
    ListFields(value, field, fields);
  }
}

class QuantizedLiesTest : public ::testing::TestWithParam<std::string> {};

TEST_P(QuantizedLiesTest, AreRefusedByNameOrHarmless) {
  const Twins twins = MakeTwins(FormNamed(GetParam()));
  const Json lies[] = {nullptr,
                       "",
                       "x",
                       -1,
                       0,
                       1,
                       3,
                       int64_t{1} << 40,
                       1e300,
                       0.5,
                       true,
                       false,
                       Json::array(),
                       Json::object(),
                       Json::array({Json::object()}),
                       std::string(5000, 'y')};
  std::vector<Json::json_pointer> fields;
  ListFields(twins.config["quantization_config"], Json::json_pointer(), &fields);
  ASSERT_GE(fields.size(), 2);
  TempFolder folder;
  WriteModel(folder, twins.config, twins.quantized);
  Model::Options options;
  options.compute_type = ComputeType::kF32;
  for (const Json::json_pointer& field : fields) {
    for (const Json& lie : lies) {
      Json config = twins.config;
      config["quantization_config"][field] = lie;
      folder.Write("config.json", config.dump());
      const absl::Status status = Model::Load(folder.path(), options).status();
      if (status.ok()) continue;
      EXPECT_THAT(status.code(),
                  AnyOf(absl::StatusCode::kInvalidArgument, absl::StatusCode::kUnimplemented,
                        absl::StatusCode::kNotFound))
          << field << " = " << lie << ": " << status;
      EXPECT_THAT(std::string(status.message()),
                  AnyOf(HasSubstr("quantization_config"), HasSubstr("model.layers.")))
          << field << " = " << lie;
      EXPECT_LT(status.message().size(), 1000) << field << " = " << lie;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, QuantizedLiesTest,
                         ::testing::Values("gptq_act_order", "gptq_rules", "awq_32",
                                           "packed_two_groups", "packed_act_order", "packed_mxfp4",
                                           "packed_nvfp4", "modelopt_nvfp4", "int8_rows",
                                           "fp8_blocks", "modelopt_fp8"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace kvasir::testing
