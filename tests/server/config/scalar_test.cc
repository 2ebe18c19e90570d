#include "server/config/scalar.h"

#include <cstdint>
#include <string>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvasir/config/v1/config.pb.h"
#include "server/config/config_reader.h"

namespace kvasir {
namespace {

using ::testing::HasSubstr;

// What SetScalar says of a field of the whole configuration; "" when it takes the text.
std::string FaultOf(const char* field, const char* text, bool is_quoted = false) {
  config::v1::Config config;
  const absl::Status status =
      SetScalar(*config.GetDescriptor()->FindFieldByName(field), text, is_quoted, &config);
  return std::string(status.message());
}

TEST(Scalar, TextInQuotesIsNoNumber) {
  EXPECT_EQ(FaultOf("threads", "3"), "");
  EXPECT_EQ(FaultOf("threads", "3", /*is_quoted=*/true),
            " must be a whole number, but is '3' in quotes");
  EXPECT_EQ(FaultOf("threads", "x\n"), " must be a whole number, but is 'x\\n'");
  EXPECT_THAT(FaultOf("threads", "2147483648"), HasSubstr("between -2147483648 and 2147483647"));
  EXPECT_EQ(FaultOf("cpu_target", "3", /*is_quoted=*/true), "");
}

TEST(ByteSize, UnknownUnitsAreAnsweredWithTheKnownOnes) {
  for (const char* text : {"8G", "500m", "8gib", "8KB"}) {
    EXPECT_THAT(std::string(ParseByteSize(text).status().message()),
                testing::AllOf(HasSubstr("unknown unit"), HasSubstr("Gi"), HasSubstr("GB")))
        << text;
  }
}

TEST(Seconds, UnitsAsPeopleWriteThem) {
  const std::pair<const char*, double> cases[] = {
      {"0", 0},     {"30", 30},    {"30s", 30},  {"500ms", 0.5}, {"0.25", 0.25}, {"1.5m", 90},
      {"2h", 7200}, {"1d", 86400}, {" 5 s ", 5}, {"-1", -1},     {"1e3", 1000},  {"10ms", 0.01}};
  for (const auto& [text, seconds] : cases) {
    const absl::StatusOr<double> parsed = ParseSeconds(text);
    ASSERT_TRUE(parsed.ok()) << text << parsed.status();
    EXPECT_EQ(*parsed, seconds) << text;
  }
  for (const char* text :
       {"", "s", "ms", "inf", "nan", "5 minutes", "5us", "1h30m", "0x10", "1e999", "5 5", "5S"}) {
    EXPECT_THAT(std::string(ParseSeconds(text).status().message()), HasSubstr("m (minutes)"))
        << text;
  }
}

TEST(Seconds, FieldsOfTimeTakeUnits) {
  const auto parsed = ParseConfig(
      "server:\n  drain_timeout_seconds: 500ms\n  drain_grace_seconds: \"2m\"\n", "f.yaml");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->message.server().drain_timeout_seconds(), 0.5);
  EXPECT_EQ(parsed->message.server().drain_grace_seconds(), 120);
  const auto wrong = ParseConfig("server:\n  drain_timeout_seconds: soon\n", "f.yaml");
  EXPECT_THAT(std::string(wrong.status().message()),
              testing::AllOf(HasSubstr("f.yaml:2"), HasSubstr("drain_timeout_seconds"),
                             HasSubstr("m (minutes)")));
}

TEST(ByteSize, ParsesAndFormats) {
  const std::pair<const char*, int64_t> cases[] = {{"0", 0},
                                                   {"4096", 4096},
                                                   {"1KiB", 1024},
                                                   {"1.5GiB", 1610612736},
                                                   {" 2 MiB ", 2 << 20},
                                                   {"10kB", 10000},
                                                   {"1MB", 1000000},
                                                   {"3TB", 3000000000000},
                                                   {"8Gi", int64_t{8} << 30},
                                                   {"512Mi", 512 << 20},
                                                   {"1.5Ki", 1536},
                                                   {"7B", 7},
                                                   {"9223372036854775807", INT64_MAX},
                                                   {"8388607TiB", int64_t{8388607} << 40}};
  for (const auto& [text, bytes] : cases) {
    const absl::StatusOr<int64_t> parsed = ParseByteSize(text);
    ASSERT_TRUE(parsed.ok()) << text << parsed.status();
    EXPECT_EQ(*parsed, bytes) << text;
    EXPECT_EQ(*ParseByteSize(FormatByteSize(bytes)), bytes);
  }
  for (const char* text : {"",
                           "GiB",
                           "-1",
                           "-1GiB",
                           "1e9",
                           "inf",
                           "nan",
                           "0x10",
                           "1.2.3",
                           ".",
                           "4gib",
                           "1 2",
                           "8388608TiB",
                           "9223372036854775808",
                           "99999999999999999999999GiB",
                           "+5",
                           "8G",
                           "500m",
                           "8g",
                           "8KB",
                           "1Gib"}) {
    EXPECT_FALSE(ParseByteSize(text).ok()) << text;
  }
  EXPECT_EQ(FormatByteSize(1536), "1536");
  EXPECT_EQ(FormatByteSize(int64_t{4} << 30), "4GiB");
  EXPECT_EQ(FormatByteSize(0), "0");
}

}  // namespace
}  // namespace kvasir
