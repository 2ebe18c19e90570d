// The safetensors header as an adversary would write it: every lie is refused with a message that
// names it.

#include "runtime/model/safetensors.h"

#include <random>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/model/checkpoint_writer.h"

namespace kvasir::testing {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<SafetensorsHeader> Parse(const std::string& file) {
  return ParseSafetensorsHeader(
      absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(file.data()), file.size()),
      "model.safetensors");
}

// A file of this header and `data_bytes` zeros.
absl::StatusOr<SafetensorsHeader> ParseHeader(const std::string& header, size_t data_bytes) {
  return Parse(SafetensorsBytes(header, std::string(data_bytes, '\0')));
}

void ExpectError(const absl::StatusOr<SafetensorsHeader>& result, const std::string& message_part) {
  ASSERT_FALSE(result.ok()) << "accepted; expected: " << message_part;
  EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(result.status().message()), HasSubstr(message_part));
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("model.safetensors"));
}

TEST(SafetensorsTest, ReadsTensorsInAnyOrderWithMetadataAndPadding) {
  const auto header = ParseHeader(
      R"({"b":{"dtype":"F32","shape":[2,3],"data_offsets":[8,32]},"__metadata__":{"format":"pt"},)"
      R"("a":{"data_offsets":[0,8],"shape":[4],"dtype":"BF16"},)"
      R"("empty":{"dtype":"F16","shape":[0,7],"data_offsets":[8,8]}}    )",
      32);
  ASSERT_TRUE(header.ok()) << header.status();
  ASSERT_EQ(header->size(), 3u);
  const SafetensorsEntry& b = header->at("b");
  EXPECT_EQ(b.shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(b.weight_type(), WeightFormat::kF32);
  EXPECT_EQ(b.end - b.begin, 24u);
  EXPECT_EQ(header->at("a").weight_type(), WeightFormat::kBf16);
  EXPECT_EQ(header->at("a").end, b.begin);
  EXPECT_EQ(header->at("empty").weight_type(), WeightFormat::kF16);
}

TEST(SafetensorsTest, ListsOtherTypesWithoutOfferingThem) {
  const auto header = ParseHeader(R"({"a":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},)"
                                  R"("b":{"dtype":"F4_FUTURE","shape":[9],"data_offsets":[8,13]}})",
                                  13);
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_EQ(header->at("a").weight_type(), std::nullopt);
  EXPECT_EQ(header->at("b").weight_type(), std::nullopt);
}

TEST(SafetensorsTest, RefusesLyingLengths) {
  ExpectError(Parse(""), "has 0 bytes");
  ExpectError(Parse(std::string(7, '\0')), "has 7 bytes");
  ExpectError(Parse(std::string(8, '\0')), "bad header");
  // Length 2^63 and the format's limit plus one.
  ExpectError(Parse(std::string(7, '\0') + "\x80"), "limit of 100000000");
  std::string over_limit(8, '\0');
  for (int i = 0; i < 4; ++i) over_limit[i] = static_cast<char>(100'000'001u >> (8 * i));
  ExpectError(Parse(over_limit), "claims 100000001 bytes");
  std::string truncated =
      SafetensorsBytes(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", "");
  truncated.resize(truncated.size() - 5);
  ExpectError(Parse(truncated), "truncated");
}

TEST(SafetensorsTest, RefusesWrongStructure) {
  ExpectError(ParseHeader("", 0), "bad header");
  ExpectError(ParseHeader("[]", 0), "a list where none belongs");
  ExpectError(ParseHeader("7", 0), "a number where none belongs");
  ExpectError(ParseHeader("{\"a\"", 0), "bad header");
  ExpectError(ParseHeader("{} {}", 0), "bad header");
  ExpectError(ParseHeader(R"({"a":[1]})", 0), "a list where none belongs");
  ExpectError(ParseHeader(R"({"a":null})", 0), "null");
  ExpectError(ParseHeader(R"({"a":{"dtype":"F32","shape":[1]}})", 4), "three fields");
  ExpectError(ParseHeader(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 4),
              "two numbers");
  ExpectError(ParseHeader(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,4]}})", 4),
              "two numbers");
  ExpectError(ParseHeader(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[[0,4]]}})", 4),
              "list");
  ExpectError(ParseHeader(R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4),
              "negative");
  ExpectError(ParseHeader(R"({"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}})", 4),
              "not an integer");
  ExpectError(ParseHeader(R"({"a":{"dtype":"F32","shape":"1","data_offsets":[0,4]}})", 4),
              "string");
  ExpectError(ParseHeader(R"({"a":{"dtype":32,"shape":[1],"data_offsets":[0,4]}})", 4), "number");
  ExpectError(ParseHeader(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}})", 4),
              "unknown field");
  ExpectError(ParseHeader(R"({"__metadata__":{"a":{}}})", 0), "object");
  ExpectError(
      ParseHeader(R"({"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}})", 4),
      "more than 8 dimensions");
}

TEST(SafetensorsTest, RefusesWhatStandsTwice) {
  const std::string tensor = R"({"dtype":"U8","shape":[4],"data_offsets":[0,4]})";
  ExpectError(ParseHeader("{\"a\":" + tensor + ",\"a\":" + tensor + "}", 4), "\"a\": stands twice");
  ExpectError(ParseHeader(R"({"__metadata__":{},"__metadata__":{}})", 0), "stands twice");
  ExpectError(
      ParseHeader(R"({"a":{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 4),
      "field dtype stands twice");
}

TEST(SafetensorsTest, RefusesOffsetsThatLie) {
  const auto one = [](const std::string& shape, const std::string& offsets, size_t data_bytes) {
    return ParseHeader(
        R"({"w":{"dtype":"F32","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}",
        data_bytes);
  };
  EXPECT_TRUE(one("[2]", "[0,8]", 8).ok());
  EXPECT_TRUE(one("[]", "[0,4]", 4).ok());  // a scalar
  ExpectError(one("[2]", "[0,8]", 7), "holds 7 bytes");
  ExpectError(one("[2]", "[8,0]", 8), "data_offsets [8, 0]");
  ExpectError(one("[3]", "[0,8]", 8), "takes 8 bytes by its data_offsets, but 12 by its dtype F32");
  ExpectError(one("[2]", "[4,12]", 12), "hole");
  ExpectError(one("[2]", "[0,8]", 9), "1 bytes trail");
  ExpectError(one("[2]", "[0,18446744073709551615]", 8), "too large");
  ExpectError(one("[2]", "[0,18446744073709551616]", 8),
              "not an integer");  // 2^64 is read as a float
  // 2^62 * 4 bytes and 2^32 * 2^32 * 4 wrap around to 0 in 64 bits.
  ExpectError(one("[4611686018427387904]", "[0,0]", 0), "more than 2^64");
  ExpectError(one("[4294967296,4294967296]", "[0,0]", 0), "more than 2^64");
}

TEST(SafetensorsTest, RefusesOverlapAndHoles) {
  const auto two = [](const std::string& a, const std::string& b, size_t data_bytes) {
    return ParseHeader(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)" + a +
                           R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)" + b + "}}",
                       data_bytes);
  };
  EXPECT_TRUE(two("[0,4]", "[4,8]", 8).ok());
  EXPECT_TRUE(two("[4,8]", "[0,4]", 8).ok());
  ExpectError(two("[0,4]", "[2,6]", 8), "inside another tensor");
  ExpectError(two("[0,4]", "[0,4]", 4), "inside another tensor");
  ExpectError(two("[0,4]", "[5,9]", 9), "hole");
}

// Every prefix of a good file, and every single flipped byte of its header: refused or read, never
// a crash, and what is read stays inside the file.
TEST(SafetensorsTest, SurvivesTruncationAndFlips) {
  FileTensors tensors;
  tensors["model.norm.weight"] = {"F32", {4}, std::string(16, 'x')};
  tensors["lm_head.weight"] = {"BF16", {3, 2}, std::string(12, 'y')};
  const std::string good = SafetensorsBytes(tensors);
  ASSERT_TRUE(Parse(good).ok());
  for (size_t length = 0; length < good.size(); ++length) {
    EXPECT_FALSE(Parse(good.substr(0, length)).ok()) << length;
  }
  std::mt19937 random(1);
  int accepted = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string bad = good;
    bad[random() % (good.size() - 28)] ^= static_cast<char>(1u << random() % 8);
    const auto header = Parse(bad);
    if (!header.ok()) continue;
    ++accepted;
    for (const auto& [name, entry] : *header) {
      EXPECT_LE(entry.begin, entry.end);
      EXPECT_LE(entry.end, bad.size());
    }
  }
  EXPECT_LT(accepted, 20000);
}

}  // namespace
}  // namespace kvasir::testing
