// Conversions of small random models in temporary folders. Header only.
#pragma once

#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/conversion/conversion.h"
#include "runtime/conversion/source_model.h"
#include "runtime/model/hf_config.h"
#include "tests/model/checkpoint_writer.h"

namespace kvasir::testing {

class ConversionFixture : public ::testing::Test {
 protected:
  // Writes a model with random weights and the files beside it.
  void WriteSource(const nlohmann::json& config, const std::string& dtype = "F32") {
    const auto spec = ParseHfConfig(config.dump(), "");
    ASSERT_TRUE(spec.ok()) << spec.status();
    tensors_ = RandomTensors(*spec, 5);
    WriteModel(source_, config, Stored(tensors_, dtype));
    source_.Write("tokenizer.json", "{}");
    source_.Write("chat_template.jinja", "{{ messages }}");
    source_.Write("LICENSE", "free");
    source_.Write("pytorch_model.bin", "not wanted");
  }

  std::string output() const { return outputs_.path() + "/result"; }

  ConversionRequest Request() const {
    ConversionRequest request;
    request.source = source_.path();
    request.output = output();
    return request;
  }

  absl::StatusOr<ConversionReport> Run(const ConversionRequest& request) {
    return Convert(request, nullptr);
  }

  // A tensor of the result as f32; fails where it is not there.
  static std::vector<float> Values(const std::string& folder, const std::string& name) {
    const auto checkpoint = Checkpoint::Open(folder);
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    if (!checkpoint.ok()) return {};
    const auto it = (*checkpoint)->tensors().find(name);
    EXPECT_NE(it, (*checkpoint)->tensors().end()) << name;
    if (it == (*checkpoint)->tensors().end()) return {};
    StoredPart part;
    part.name = name;
    part.shape = it->second.entry.shape;
    part.rows = 1;
    for (const int64_t dimension : part.shape) part.rows *= dimension;
    const PartValues got = *(*checkpoint)->Get({}, part);
    std::vector<float> values(static_cast<size_t>(part.rows));
    Dequantize(got.matrix.type, got.matrix.data, part.rows, values.data());
    return values;
  }

  static bool Has(const std::string& folder, const std::string& name) {
    const auto checkpoint = Checkpoint::Open(folder);
    return checkpoint.ok() && (*checkpoint)->Has(name);
  }

  // What stands beside the result, hidden files too.
  std::vector<std::string> Leftovers() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(outputs_.path())) {
      names.push_back(entry.path().filename().string());
    }
    return names;
  }

  TempFolder source_, outputs_;
  FloatTensors tensors_;  // of the source
};

}  // namespace kvasir::testing
