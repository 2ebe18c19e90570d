// Opening GGUF files: split ones as a whole, and a clear word for those that hold no model.

#include "runtime/formats/gguf_file.h"

#include <filesystem>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/formats/gguf_writer.h"
#include "tests/kvcache/temporary_directory.h"

namespace kvasir::testing {
namespace {

using ::testing::HasSubstr;

std::string FloatBytes(float value) { return GgufWriter::Raw(value); }

class GgufFileTest : public ::testing::Test {
 protected:
  std::string Path(const std::string& name) const { return (folder_.path() / name).string(); }

  // Part `number` (from 0) of `count`, with one tensor w<number> of that value.
  GgufWriter Part(int number, int count) const {
    GgufWriter writer;
    if (number == 0) writer.AddString("general.architecture", "llama");
    return writer.Add("split.no", GgufValueType::kU16, GgufWriter::Raw<uint16_t>(number))
        .Add("split.count", GgufValueType::kU16, GgufWriter::Raw<uint16_t>(count))
        .Add("split.tensors.count", GgufValueType::kI32, GgufWriter::Raw<int32_t>(count))
        .AddTensor(absl::StrCat("w", number), {1}, TensorType::kF32, FloatBytes(number));
  }

  void ExpectError(const std::string& name, absl::StatusCode code, const std::string& message) {
    const auto file = GgufFile::Open(Path(name));
    ASSERT_FALSE(file.ok());
    EXPECT_EQ(file.status().code(), code) << file.status();
    EXPECT_THAT(std::string(file.status().message()), HasSubstr(message));
  }

  TemporaryDirectory folder_;
};

TEST_F(GgufFileTest, OpensASingleFile) {
  GgufWriter()
      .AddString("general.architecture", "llama")
      .AddTensor("w", {1}, TensorType::kF32, FloatBytes(7))
      .Write(Path("m.gguf"));
  const auto file = GgufFile::Open(Path("m.gguf"));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->architecture(), "llama");
  ASSERT_NE(file->Find("w"), nullptr);
  EXPECT_EQ(file->Find("v"), nullptr);
  EXPECT_EQ(file->Bytes(*file->Find("w")).size(), 4u);
  EXPECT_EQ(file->file_bytes(), std::filesystem::file_size(Path("m.gguf")));
}

TEST_F(GgufFileTest, OpensEveryPartWhicheverIsGiven) {
  for (int i = 0; i < 3; ++i) {
    Part(i, 3).Write(Path(absl::StrCat("m-0000", i + 1, "-of-00003.gguf")));
  }
  for (const char* name : {"m-00001-of-00003.gguf", "m-00003-of-00003.gguf"}) {
    const auto file = GgufFile::Open(Path(name));
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_EQ(file->num_parts(), 3u);
    EXPECT_EQ(file->architecture(), "llama");
    for (int i = 0; i < 3; ++i) {
      const GgufFile::Tensor* tensor = file->Find(absl::StrCat("w", i));
      ASSERT_NE(tensor, nullptr);
      EXPECT_EQ(*reinterpret_cast<const float*>(file->Bytes(*tensor).data()), i);
      file->Release(*tensor);
    }
  }
}

TEST_F(GgufFileTest, RefusesPartsThatDoNotBelongTogether) {
  const auto invalid = absl::StatusCode::kInvalidArgument;
  Part(0, 2).Write(Path("m-00001-of-00002.gguf"));
  ExpectError("m-00001-of-00002.gguf", absl::StatusCode::kNotFound, "part 2 of 2 is missing");
  Part(0, 2).Write(Path("m-00002-of-00002.gguf"));
  ExpectError("m-00001-of-00002.gguf", absl::StatusCode::kAlreadyExists, "earlier part");
  GgufWriter()
      .Add("split.no", GgufValueType::kU16, GgufWriter::Raw<uint16_t>(1))
      .Add("split.count", GgufValueType::kU16, GgufWriter::Raw<uint16_t>(3))
      .AddTensor("w1", {1}, TensorType::kF32, FloatBytes(1))
      .Write(Path("m-00002-of-00002.gguf"));
  ExpectError("m-00001-of-00002.gguf", invalid, "one of 3 parts");
  GgufWriter()
      .Add("split.no", GgufValueType::kU16, GgufWriter::Raw<uint16_t>(1))
      .Add("split.count", GgufValueType::kU16, GgufWriter::Raw<uint16_t>(2))
      .Write(Path("m-00002-of-00002.gguf"));
  ExpectError("m-00001-of-00002.gguf", invalid, "all parts hold 2 tensors; they hold 1");
  Part(0, 2).Write(Path("renamed.gguf"));
  ExpectError("renamed.gguf", invalid, "one of 2 parts, but its name says 1");
}

TEST_F(GgufFileTest, RefusesFilesThatHoldNoModel) {
  const auto typed = [&](const std::string& type, const std::string& architecture) {
    GgufWriter()
        .AddString("general.type", type)
        .AddString("general.architecture", architecture)
        .Write(Path("m.gguf"));
  };
  const auto unimplemented = absl::StatusCode::kUnimplemented;
  typed("adapter", "llama");
  ExpectError("m.gguf", unimplemented, "LoRA");
  typed("mmproj", "clip");
  ExpectError("m.gguf", unimplemented, "projector");
  typed("model", "clip");
  ExpectError("m.gguf", unimplemented, "projector");
  typed("imatrix", "llama");
  ExpectError("m.gguf", unimplemented, "importance matrix");
  typed("vocabulary", "llama");
  ExpectError("m.gguf", unimplemented, "only models");
  typed("model", "");
  ExpectError("m.gguf", absl::StatusCode::kInvalidArgument, "general.architecture");
  ExpectError("absent.gguf", absl::StatusCode::kNotFound, "absent.gguf");
}

}  // namespace
}  // namespace kvasir::testing
