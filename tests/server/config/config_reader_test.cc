#include "server/config/config_reader.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kvasir {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

std::string FaultsOf(const std::string& text) {
  const absl::StatusOr<ConfigSource> source = ParseConfig(text, "test.yaml");
  EXPECT_FALSE(source.ok()) << text;
  if (source.ok()) return "";
  EXPECT_EQ(source.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(source.status().message());
}

TEST(ConfigReader, ReadsEveryKindOfField) {
  const absl::StatusOr<ConfigSource> source = ParseConfig(
      "models:\n"
      "  - name: a\n"
      "    path: /models/a\n"
      "    kv_cache: {capacity_bytes: 4GiB, prefix_cache: false}\n"
      "  - path: \"/models/b c\"\n"
      "    sessions:\n"
      "      ttl_seconds: 1.5\n"
      "      max_spill_bytes: 1000\n"
      "threads: 3\n"
      "server: {max_message_bytes: 1MiB}\n"
      "metrics: {listen: off}\n",
      "test.yaml");
  ASSERT_TRUE(source.ok()) << source.status();
  const config::v1::Config& config = source->message;
  ASSERT_EQ(config.models_size(), 2);
  EXPECT_EQ(config.models(0).name(), "a");
  EXPECT_EQ(config.models(0).kv_cache().capacity_bytes(), int64_t{4} << 30);
  EXPECT_TRUE(config.models(0).kv_cache().has_prefix_cache());
  EXPECT_FALSE(config.models(0).kv_cache().prefix_cache());
  EXPECT_EQ(config.models(1).path(), "/models/b c");
  EXPECT_EQ(config.models(1).sessions().ttl_seconds(), 1.5);
  EXPECT_EQ(config.models(1).sessions().max_spill_bytes(), 1000);
  EXPECT_EQ(config.threads(), 3);
  EXPECT_EQ(config.server().max_message_bytes(), 1 << 20);
  EXPECT_EQ(config.metrics().listen(), "off");

  EXPECT_EQ(source->origins.at("models[0].kv_cache.capacity_bytes"), "test.yaml:4");
  EXPECT_EQ(source->origins.at("models[1]"), "test.yaml:5");
  EXPECT_EQ(source->origins.at("threads"), "test.yaml:9");
}

TEST(ConfigReader, ReadsJson) {
  const absl::StatusOr<ConfigSource> source = ParseConfig(
      "{\n\t\"threads\": 2,\n\t\"models\": "
      "[{\"name\":\"a\",\"path\":\"/m\",\"kv_cache\":{\"prefix_cache\":true}}]\n}\n",
      "test.json");
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ(source->message.threads(), 2);
  EXPECT_EQ(source->message.models(0).path(), "/m");
  EXPECT_TRUE(source->message.models(0).kv_cache().prefix_cache());
}

TEST(ConfigReader, EmptyFilesAndEmptySectionsAreEmpty) {
  for (const char* text :
       {"", "# nothing\n", "---\n", "server:\nmodels:\nlogging:\n  # level: info\n", "{}"}) {
    const absl::StatusOr<ConfigSource> source = ParseConfig(text, "test.yaml");
    ASSERT_TRUE(source.ok()) << text << source.status();
    EXPECT_EQ(source->message.models_size(), 0);
  }
}

struct FaultCase {
  const char* text;
  const char* line;
  std::vector<const char*> parts;
};

TEST(ConfigReader, FaultsNameLineValueAndRemedy) {
  const FaultCase cases[] = {
      {"thread: 3\n", "test.yaml:1: ", {"unknown key 'thread'", "did you mean 'threads'?"}},
      {"server:\n  lisen: x\n",
       "test.yaml:2: ",
       {"unknown key 'lisen' in server", "did you mean 'listen'?"}},
      {"models:\n  - path: x\n    kv_cache:\n      block_token: 32\n",
       "test.yaml:4: ",
       {"in models[0].kv_cache", "did you mean 'block_tokens'?"}},
      {"qqqqqq: 1\n",
       "test.yaml:1: ",
       {"unknown key", "known keys: models, server, metrics, logging, threads"}},
      {"threads: 1\n\nthreads: 2\n",
       "test.yaml:3: ",
       {"threads is given twice", "line 1", "remove one"}},
      {"threads: many\n", "test.yaml:1: ", {"threads must be a whole number", "'many'"}},
      {"threads: \"4\"\n", "test.yaml:1: ", {"whole number", "'4' in quotes"}},
      {"threads: 1.5\n", "test.yaml:1: ", {"whole number", "'1.5'"}},
      {"threads: 0x10\n", "test.yaml:1: ", {"whole number", "'0x10'"}},
      {"threads: 99999999999\n",
       "test.yaml:1: ",
       {"between -2147483648 and 2147483647", "'99999999999'"}},
      {"threads:\n", "test.yaml:1: ", {"threads has no value", "remove the key"}},
      {"threads: [1]\n", "test.yaml:1: ", {"single value", "a list"}},
      {"server:\n  reflection: yes\n", "test.yaml:2: ", {"true or false", "'yes'"}},
      {"server:\n  drain_timeout_seconds: nan\n", "test.yaml:2: ", {"finite number", "'nan'"}},
      {"server:\n  drain_timeout_seconds: 30 sec\n",
       "test.yaml:2: ",
       {"finite number", "'30 sec'"}},
      {"server: 5\n",
       "test.yaml:1: ",
       {"server must be a mapping", "a single value", "known keys: listen"}},
      {"models: {path: x}\n", "test.yaml:1: ", {"models must be a list", "a mapping"}},
      {"models:\n  - just-a-path\n",
       "test.yaml:2: ",
       {"models[0] must be a mapping", "a single value"}},
      {"models:\n- path: x\n  kv_cache:\n    capacity_bytes: 4 gigs\n",
       "test.yaml:4: ",
       {"capacity_bytes", "'4 gigs' is not a size", "4GiB"}},
      {"models:\n- path: x\n  kv_cache:\n    capacity_bytes: -1\n", "test.yaml:4: ", {"negative"}},
      {"- a\n- b\n", "test.yaml:1: ", {"the file must be a mapping"}},
      {"a: [1\nb: 2\n", "test.yaml:2: ", {"not valid YAML"}},
      {"threads: 1\n\tserver: {}\n", "test.yaml:2: ", {"not valid YAML"}},
      {"threads: *none\n", "test.yaml:1: ", {"not valid YAML", "anchor"}},
      {"threads: 1\n---\nthreads: 2\n",
       "test.yaml:2: ",
       {"follows the end of the document", "remove it"}},
      {"? [a, b]\n: 1\n", "test.yaml:1: ", {"key must be a word"}},
  };
  for (const FaultCase& fault : cases) {
    const std::string message = FaultsOf(fault.text);
    EXPECT_THAT(message, ::testing::StartsWith(fault.line)) << fault.text;
    for (const char* part : fault.parts) EXPECT_THAT(message, HasSubstr(part)) << fault.text;
  }
}

TEST(ConfigReader, TellsAllFaultsAtOnce) {
  EXPECT_THAT(FaultsOf("thread: 3\nserver:\n  listen: x\n  reflection: 7\n"),
              AllOf(HasSubstr("test.yaml:1: "), HasSubstr("test.yaml:4: "),
                    Not(HasSubstr("test.yaml:3: "))));
}

TEST(ConfigReader, HostileFilesAreRefused) {
  FaultsOf(std::string(100000, '['));
  FaultsOf(std::string(100000, '{'));
  FaultsOf(std::string(kMaxConfigBytes + 1, ' '));
  // yaml-cpp alone would read these for ever.
  FaultsOf(",m");
  FaultsOf("threads: 1\n...\n]");
  // A list that contains itself.
  FaultsOf("models: &m\n  - *m\n");
  // A key of many bytes is not repeated in whole.
  EXPECT_LT(FaultsOf(std::string(1000, 'k') + ": 1\n").size(), 300u);
}

TEST(ConfigReader, MissingFilesAndDirectoriesAreRefused) {
  EXPECT_EQ(ReadConfigFile("/nonexistent/kvasird.yaml").status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(ReadConfigFile("/tmp").status().message()), HasSubstr("a folder"));
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
