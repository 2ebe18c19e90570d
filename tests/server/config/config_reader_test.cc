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

}  // namespace
}  // namespace kvasir
