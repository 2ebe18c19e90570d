// Factors beside tensors of type NVFP4: of all values, of each expert's; and what may stand there.

#include "runtime/model/gguf/gguf_tensors.h"

#include <cmath>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/formats/gguf_writer.h"
#include "tests/kvcache/temporary_directory.h"
#include "tests/reference/random_blocks.h"

namespace kvasir {
namespace {

using reference::RandomBlocks;
using ::testing::AllOf;
using testing::GgufWriter;
using ::testing::HasSubstr;

constexpr int64_t kRows = 24, kCols = 128, kExperts = 3;
constexpr float kFactor = 0.37f;
constexpr float kExpertFactors[] = {0.5f, 1.7f, -3.0f};

std::string Floats(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

class GgufTensorsTest : public ::testing::Test {
 protected:
  GgufTensorsTest()
      : dense_(WeightFormat::kNVFP4, kRows, kCols, 1),
        experts_(WeightFormat::kNVFP4, kExperts * kRows, kCols, 2) {}

  static std::string Bytes(const RandomBlocks& blocks) {
    const StoredMatrix& m = blocks.stored();
    return {static_cast<const char*>(m.data),
            static_cast<size_t>(m.rows * RowBytes(m.type, m.cols))};
  }

  GgufWriter Weights() const {
    GgufWriter writer;
    writer.AddString("general.architecture", "llama")
        .AddTensor("blk.0.ffn_down.weight", {kRows, kCols}, TensorType::kNVFP4, Bytes(dense_))
        .AddTensor("blk.0.ffn_up_exps.weight", {kExperts, kRows, kCols}, TensorType::kNVFP4,
                   Bytes(experts_))
        .AddTensor("blk.0.ffn_gate_inp.weight", {1, 2}, TensorType::kF32, Floats({1, 2}));
    return writer;
  }
  GgufWriter All() const {
    GgufWriter writer = Weights();
    const std::vector<float> of_experts(std::begin(kExpertFactors), std::end(kExpertFactors));
    writer.AddTensor("blk.0.ffn_down.scale", {1}, TensorType::kF32, Floats({kFactor}))
        .AddTensor("blk.0.ffn_down.input_scale", {1}, TensorType::kF32, Floats({9}))
        .AddTensor("blk.0.ffn_up_exps.scale", {kExperts}, TensorType::kF32, Floats(of_experts))
        .AddTensor("blk.0.ffn_gate_inp.scale", {2}, TensorType::kF32, Floats({3, 4}));
    return writer;
  }

  std::unique_ptr<GgufTensors> Open(const GgufWriter& writer) {
    const std::string path = (directory_.path() / "model.gguf").string();
    writer.Write(path);
    auto file = GgufFile::Open(path);
    EXPECT_TRUE(file.ok()) << file.status();
    return std::make_unique<GgufTensors>(*std::move(file));
  }

  static StoredPart Down() {
    StoredPart part;
    part.name = "blk.0.ffn_down.weight";
    part.shape = {kRows, kCols};
    part.rows = kRows;
    part.cols = kCols;
    part.row_stride = kCols;
    return part;
  }
  static StoredPart Expert(int64_t expert) {
    StoredPart part = Down();
    part.name = "blk.0.ffn_up_exps.weight";
    part.shape = {kExperts, kRows, kCols};
    part.offset = expert * kRows * kCols;
    return part;
  }

  // value(r, c) is what the part's must be.
  template <typename Value>
  static void ExpectValues(GgufTensors* tensors, const StoredPart& part, const Value& value) {
    const auto got = tensors->Get({}, part);
    ASSERT_TRUE(got.ok()) << got.status();
    ASSERT_EQ(got->matrix.rows, part.rows);
    std::vector<float> row(static_cast<size_t>(part.cols));
    for (int64_t r = 0; r < part.rows; ++r) {
      StoredRow(got->matrix, r, row.data());
      for (int64_t c = 0; c < part.cols; ++c) ASSERT_EQ(row[c], value(r, c)) << r << "," << c;
    }
  }

  testing::TemporaryDirectory directory_;
  const RandomBlocks dense_;
  const RandomBlocks experts_;
};

TEST_F(GgufTensorsTest, FactorsAreNoTensorsOfTheModel) {
  EXPECT_THAT(Open(All())->Names(), ::testing::UnorderedElementsAre(
                                        "blk.0.ffn_down.weight", "blk.0.ffn_up_exps.weight",
                                        "blk.0.ffn_gate_inp.weight", "blk.0.ffn_gate_inp.scale"));
}

TEST_F(GgufTensorsTest, ValuesHaveTheirFactor) {
  const auto tensors = Open(All());
  ExpectValues(tensors.get(), Down(),
               [&](int64_t r, int64_t c) { return dense_.values.at(r, c) * kFactor; });
  StoredPart turned = Down();  // rows in another order
  turned.row_order.resize(kRows);
  std::iota(turned.row_order.rbegin(), turned.row_order.rend(), 0);
  ExpectValues(tensors.get(), turned,
               [&](int64_t r, int64_t c) { return dense_.values.at(kRows - 1 - r, c) * kFactor; });
  StoredPart across = Down();  // columns as rows: no blocks any more
  across.rows = kCols;
  across.cols = kRows;
  across.row_stride = 1;
  across.col_stride = kCols;
  ExpectValues(tensors.get(), across,
               [&](int64_t r, int64_t c) { return dense_.values.at(c, r) * kFactor; });
  for (int64_t e = 0; e < kExperts; ++e) {
    ExpectValues(tensors.get(), Expert(e), [&](int64_t r, int64_t c) {
      return experts_.values.at(e * kRows + r, c) * kExpertFactors[e];
    });
  }
}

TEST_F(GgufTensorsTest, WithoutFactorsValuesAreTheBlocks) {
  const auto tensors = Open(Weights());
  ExpectValues(tensors.get(), Down(), [&](int64_t r, int64_t c) { return dense_.values.at(r, c); });
  ExpectValues(tensors.get(), Expert(2),
               [&](int64_t r, int64_t c) { return experts_.values.at(2 * kRows + r, c); });
}

TEST_F(GgufTensorsTest, OneFactorMayServeAllExperts) {
  GgufWriter writer = Weights();
  writer.AddTensor("blk.0.ffn_up_exps.scale", {1}, TensorType::kF32, Floats({kFactor}));
  const auto tensors = Open(writer);
  ExpectValues(tensors.get(), Expert(2), [&](int64_t r, int64_t c) {
    return experts_.values.at(2 * kRows + r, c) * kFactor;
  });
}

TEST_F(GgufTensorsTest, FactorsThatCannotBe) {
  const auto refuses = [&](const std::vector<int64_t>& shape, TensorType type,
                           const std::string& data, const char* says) {
    GgufWriter writer = Weights();
    writer.AddTensor("blk.0.ffn_up_exps.scale", shape, type, data);
    const auto tensors = Open(writer);
    const StoredPart part = Expert(kExperts - 1);
    for (const absl::Status& status :
         {tensors->Check(part.name, part.shape), tensors->Get({}, part).status()}) {
      EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
      EXPECT_THAT(std::string(status.message()),
                  AllOf(HasSubstr("blk.0.ffn_up_exps.scale"), HasSubstr(says)));
    }
  };
  refuses({2}, TensorType::kF32, Floats({1, 2}), "must be F32 [1] or [3]");
  refuses({1, 3}, TensorType::kF32, Floats({1, 2, 3}), "must be F32 [1] or [3]");
  refuses({3}, TensorType::kF16, std::string(6, '\0'), "must be F32 [1] or [3]");
  refuses({3}, TensorType::kF32, Floats({1, 2, NAN}), "the factor nan");
}

}  // namespace
}  // namespace kvasir
