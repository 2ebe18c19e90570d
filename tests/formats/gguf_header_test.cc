// The GGUF header as an adversary would write it: every lie is refused with a message that names
// the file and the lie.

#include "runtime/formats/gguf_header.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/formats/gguf_writer.h"

namespace kvasir::testing {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<GgufHeader> Parse(const std::string& file) {
  return ParseGgufHeader(
      absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(file.data()), file.size()),
      "model.gguf");
}

void ExpectError(const std::string& file, const std::string& message_part,
                 absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
  const auto result = Parse(file);
  ASSERT_FALSE(result.ok()) << "accepted; expected: " << message_part;
  EXPECT_EQ(result.status().code(), code) << result.status();
  EXPECT_THAT(std::string(result.status().message()), HasSubstr(message_part));
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("model.gguf"));
}

void ExpectError(const GgufWriter& writer, const std::string& message_part,
                 absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
  ExpectError(writer.Bytes(), message_part, code);
}

std::string Zeros(size_t count) { return std::string(count, '\0'); }

// One key of each type, and three tensors: padded, of blocks, of three dimensions.
GgufWriter Sample() {
  GgufWriter writer;
  writer.AddString("general.architecture", "llama")
      .Add("u8", GgufValueType::kU8, GgufWriter::Raw<uint8_t>(200))
      .Add("i8", GgufValueType::kI8, GgufWriter::Raw<int8_t>(-100))
      .Add("u16", GgufValueType::kU16, GgufWriter::Raw<uint16_t>(60000))
      .Add("i16", GgufValueType::kI16, GgufWriter::Raw<int16_t>(-30000))
      .AddU32("u32", 4000000000u)
      .Add("i32", GgufValueType::kI32, GgufWriter::Raw<int32_t>(-2000000000))
      .AddF32("f32", 0.5f)
      .AddBool("bool", true)
      .Add("u64", GgufValueType::kU64, GgufWriter::Raw<uint64_t>(UINT64_MAX))
      .Add("i64", GgufValueType::kI64, GgufWriter::Raw<int64_t>(INT64_MIN))
      .Add("f64", GgufValueType::kF64, GgufWriter::Raw(-2.25))
      .AddStrings("strings", {"a", "", "bc"})
      .AddNumbers<float>("floats", GgufValueType::kF32, {1.5f, -2.0f})
      .AddNumbers<int32_t>("ints", GgufValueType::kI32, {1, -7})
      .AddNumbers<uint8_t>("bools", GgufValueType::kBool, {1, 0})
      .AddTensor("norm", {3}, TensorType::kF32, Zeros(12))
      .AddTensor("q4", {2, 64}, TensorType::kQ4_0, Zeros(72))
      .AddTensor("experts", {2, 3, 4}, TensorType::kBF16, Zeros(48));
  return writer;
}

TEST(GgufHeaderTest, ReadsKeysOfEveryTypeAndTensors) {
  const std::string file = Sample().Bytes();
  const auto header = Parse(file);
  ASSERT_TRUE(header.ok()) << header.status();
  const GgufMetadata& keys = header->metadata;
  const auto integer = [&](absl::string_view key) {
    return **keys.Integer(key, INT64_MIN, INT64_MAX);
  };
  EXPECT_EQ(integer("u8"), 200);
  EXPECT_EQ(integer("i8"), -100);
  EXPECT_EQ(integer("u16"), 60000);
  EXPECT_EQ(integer("i16"), -30000);
  EXPECT_EQ(integer("u32"), 4000000000);
  EXPECT_EQ(integer("i32"), -2000000000);
  EXPECT_EQ(integer("i64"), INT64_MIN);
  EXPECT_FALSE(keys.Integer("u64", 0, INT64_MAX).ok());
  EXPECT_EQ(**keys.Number("f32"), 0.5);
  EXPECT_EQ(**keys.Number("f64"), -2.25);
  EXPECT_EQ(**keys.Number("i8"), -100);
  EXPECT_TRUE(**keys.Bool("bool"));
  EXPECT_EQ(**keys.String("general.architecture"), "llama");
  EXPECT_EQ(**keys.Strings("strings"), (std::vector<absl::string_view>{"a", "", "bc"}));
  EXPECT_EQ(**keys.Floats("floats"), (std::vector<float>{1.5f, -2.0f}));
  EXPECT_EQ(**keys.Integers("ints"), (std::vector<int64_t>{1, -7}));
  EXPECT_EQ(**keys.Integers("bools"), (std::vector<int64_t>{1, 0}));
  EXPECT_EQ(*keys.Integer("absent", 0, 1), std::nullopt);

  ASSERT_EQ(header->tensors.size(), 3u);
  EXPECT_EQ(header->tensors[1].name, "q4");
  EXPECT_EQ(header->tensors[1].bytes, 72u);
  EXPECT_EQ(header->tensors[1].begin, header->tensors[0].begin + 32);
  EXPECT_EQ(header->tensors[2].shape, (std::vector<int64_t>{2, 3, 4}));
  EXPECT_EQ(header->tensors[2].begin, header->tensors[1].begin + 96);
}

TEST(GgufHeaderTest, GettersNameTheKeyAndWhatIsWrong) {
  const std::string file = Sample().Bytes();
  const auto header = Parse(file);
  ASSERT_TRUE(header.ok()) << header.status();
  const GgufMetadata& keys = header->metadata;
  EXPECT_THAT(std::string(keys.Integer("u8", 1, 100).status().message()),
              HasSubstr("\"u8\" is 200; want 1 to 100"));
  EXPECT_THAT(std::string(keys.Integer("f32", 1, 100).status().message()),
              HasSubstr("\"f32\" is not an integer"));
  EXPECT_FALSE(keys.Strings("ints").ok());
  EXPECT_FALSE(keys.Integers("strings").ok());
  EXPECT_FALSE(keys.Integers("floats").ok());
  EXPECT_FALSE(keys.Floats("ints").ok());
  EXPECT_FALSE(keys.String("u8").ok());
  EXPECT_FALSE(keys.Bool("u8").ok());
  EXPECT_FALSE(keys.Number("strings").ok());
}

// Eight bytes of memory for each byte of the file would be a gigabyte for a file of 128 MB.
TEST(GgufHeaderTest, NumbersOfOneKeyAreBounded) {
  constexpr uint64_t kMost = uint64_t{1} << 22;
  for (const uint64_t count : {kMost, kMost + 1}) {
    const std::string file =
        GgufWriter().AddArray("list", GgufValueType::kU8, count, Zeros(count)).Bytes();
    const auto header = Parse(file);
    ASSERT_TRUE(header.ok()) << header.status();
    const auto numbers = header->metadata.Integers("list");
    EXPECT_EQ(numbers.ok(), count == kMost);
    if (!numbers.ok()) {
      EXPECT_THAT(std::string(numbers.status().message()), HasSubstr("at most 4194304"));
    }
  }
}

TEST(GgufHeaderTest, ReadsVersion2AndOtherAlignments) {
  const auto parsed = Parse(Sample().SetVersion(2).Bytes());
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  GgufWriter wide;
  wide.SetAlignment(256)
      .AddTensor("a", {1}, TensorType::kF32, Zeros(4))
      .AddTensor("b", {1}, TensorType::kF32, Zeros(4));
  const std::string file = wide.Bytes();
  const auto header = Parse(file);
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_EQ(header->tensors[1].begin - header->tensors[0].begin, 256u);
  // The last tensor's padding may be missing.
  EXPECT_TRUE(Parse(file.substr(0, file.size() - 252)).ok());
}

TEST(GgufHeaderTest, SaysWhatOtherFilesAre) {
  ExpectError(std::string("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"),
              "Git LFS pointer");
  ExpectError(std::string(), "no GGUF file");
  ExpectError(std::string("GG"), "no GGUF file");
  ExpectError(std::string("<!DOCTYPE html>"), "no GGUF file");
  ExpectError(std::string("tjgg and more"), "before GGUF", absl::StatusCode::kUnimplemented);
  const auto unimplemented = absl::StatusCode::kUnimplemented;
  ExpectError(Sample().SetVersion(0x03000000), "big-endian", unimplemented);
  ExpectError("FUGG" + Zeros(64), "big-endian", unimplemented);
  ExpectError(Sample().SetVersion(1), "version 1", unimplemented);
  ExpectError(Sample().SetVersion(4), "version 4", unimplemented);
  ExpectError(Sample().SetVersion(0), "version 0", unimplemented);
}

TEST(GgufHeaderTest, RefusesCountsThatTheFileCannotHold) {
  ExpectError(Sample().ClaimKeys(INT64_MAX), "keys, more than");
  ExpectError(Sample().ClaimKeys(-1), "claims -1 keys");
  ExpectError(Sample().ClaimTensors(INT64_MAX), "tensors, more than");
  ExpectError(Sample().ClaimTensors(-1), "claims -1 tensors");
  // One tensor fewer: its entry is taken for data, and the rest trails.
  ExpectError(Sample().ClaimTensors(2), "trail");
  const GgufWriter one_key = GgufWriter().AddU32("a", 1);
  ExpectError(GgufWriter(one_key).ClaimKeys(2), "empty name");  // the padding
}

TEST(GgufHeaderTest, RefusesLiesAboutStringsAndArrays) {
  const auto huge = GgufWriter::Raw(UINT64_MAX);
  ExpectError(GgufWriter().Add("a", GgufValueType::kString, huge), "claims 18446744073709551615");
  ExpectError(GgufWriter().Add("a", GgufValueType::kString, GgufWriter::Raw<uint64_t>(1000)),
              "truncated");
  const auto claims = [](GgufValueType type, uint64_t count, const std::string& raw) {
    return GgufWriter().AddArray("list", type, count, raw);
  };
  ExpectError(claims(GgufValueType::kU8, UINT64_MAX, "x"), "claims 18446744073709551615 elements");
  ExpectError(claims(GgufValueType::kF64, uint64_t{1} << 30, "x"), "truncated");
  ExpectError(claims(GgufValueType::kString, uint64_t{1} << 30, GgufWriter::Text("x")), "list");
  ExpectError(claims(GgufValueType::kArray, 1, Zeros(12)), "arrays of arrays");
  ExpectError(claims(static_cast<GgufValueType>(13), 1, Zeros(12)), "type 13");
  ExpectError(GgufWriter().Add("a", static_cast<GgufValueType>(99), Zeros(8)), "type 99");
  ExpectError(GgufWriter().Add("flag", GgufValueType::kBool, "\x02"), "bool of value 2");
  ExpectError(GgufWriter().AddU32(std::string(70000, 'k'), 1), "at most 65535");
}

TEST(GgufHeaderTest, RefusesDoubles) {
  const auto exists = absl::StatusCode::kAlreadyExists;
  ExpectError(Sample().AddU32("u32", 1), "\"u32\" stands twice", exists);
  ExpectError(Sample().AddTensor("norm", {3}, TensorType::kF32, Zeros(12)), "\"norm\" stands twice",
              exists);
}

TEST(GgufHeaderTest, RefusesImpossibleTensors) {
  const auto tensor = [](const std::vector<int64_t>& shape, uint32_t type) {
    return GgufWriter().AddTensorAt("w", shape, type, 0, Zeros(64));
  };
  const auto f32 = static_cast<uint32_t>(TensorType::kF32);
  ExpectError(tensor({}, f32), "0 dimensions");
  ExpectError(tensor({1, 1, 1, 1, 1}, f32), "5 dimensions");
  ExpectError(tensor({0}, f32), "dimension of 0");
  ExpectError(tensor({4, -4}, f32), "dimension of -4");
  ExpectError(tensor({int64_t{1} << 32, int64_t{1} << 32}, f32), "2^63");
  ExpectError(tensor({int64_t{1} << 61}, static_cast<uint32_t>(TensorType::kF64)), "2^63");
  ExpectError(tensor({2, 40}, static_cast<uint32_t>(TensorType::kQ8_0)), "rows of 40 elements");
  ExpectError(tensor({1000}, f32), "truncated");
  ExpectError(GgufWriter().AddTensor(std::string(128, 'n'), {1}, TensorType::kF32, Zeros(4)),
              "at most 127");
  ExpectError(GgufWriter().AddTensor("", {1}, TensorType::kF32, Zeros(4)), "empty name");
}

TEST(GgufHeaderTest, RefusesTypesWithTheirReason) {
  const auto typed = [](uint32_t type) {
    return GgufWriter().AddTensorAt("w", {256}, type, 0, Zeros(1024));
  };
  const auto unimplemented = absl::StatusCode::kUnimplemented;
  for (const uint32_t id : {4, 5, 31, 32, 33, 36, 37, 38}) {
    ExpectError(typed(id), "withdrawn", unimplemented);
  }
  for (const uint32_t id : {133, 140, 157, 202, 399}) {
    ExpectError(typed(id), "ik_llama.cpp only", unimplemented);
  }
  for (const uint32_t id : {43u, 100u, 1000u, UINT32_MAX}) ExpectError(typed(id), "is unknown");
}

TEST(GgufHeaderTest, RefusesTensorsOutOfPlace) {
  const auto second_at = [](uint64_t offset) {
    return GgufWriter()
        .AddTensor("a", {16}, TensorType::kF32, Zeros(64))
        .AddTensorAt("b", {16}, 0, offset, Zeros(64));
  };
  EXPECT_TRUE(Parse(second_at(64).Bytes()).ok());
  ExpectError(second_at(0), "inside another tensor");
  ExpectError(second_at(32), "inside another tensor");
  ExpectError(second_at(96), "behind a hole");
  ExpectError(second_at(65), "behind a hole");
  ExpectError(second_at(UINT64_MAX), "behind a hole");
  const std::string file = second_at(64).Bytes();
  ExpectError(file.substr(0, file.size() - 1), "truncated");
  ExpectError(file + Zeros(1), "trail");
  ExpectError(
      GgufWriter().AddU32("general.alignment", 24).AddTensor("a", {1}, TensorType::kF32, Zeros(4)),
      "power of two");
  ExpectError(GgufWriter().AddU32("general.alignment", 0), "general.alignment");
  ExpectError(GgufWriter().AddU32("general.alignment", 1u << 31), "general.alignment");
}

// Whatever is cut off or overwritten, the parser neither crashes nor reads beyond the end (under
// the address sanitizer), and what it accepts lies inside the file.
TEST(GgufHeaderTest, SurvivesEveryCutAndEveryByte) {
  const std::string file = Sample().Bytes();
  const auto inside = [](const std::string& bytes) {
    const auto header = Parse(bytes);
    if (!header.ok()) return false;
    for (const GgufTensor& tensor : header->tensors) {
      EXPECT_LE(tensor.begin + tensor.bytes, bytes.size());
    }
    return true;
  };
  // Only the padding of the last tensor (48 of 64 bytes) may be missing.
  for (size_t size = 0; size < file.size(); ++size) {
    EXPECT_EQ(inside(std::string(file.data(), size)), size + 16 >= file.size()) << size;
  }
  for (size_t i = 0; i < file.size(); ++i) {
    for (const int value : {0, 1, 0x7f, 0x80, 0xff}) {
      std::string changed = file;
      changed[i] = static_cast<char>(value);
      inside(changed);
    }
  }
}

}  // namespace
}  // namespace kvasir::testing
