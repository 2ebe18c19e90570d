#include "server/config/server_config.h"

#include <string>
#include <vector>

#include "base/thread_placement.h"
#include "gmock/gmock.h"
#include "google/protobuf/util/message_differencer.h"
#include "gtest/gtest.h"
#include "server/config/config_writer.h"
#include "tests/server/config/checked_config.h"

namespace kvasir {
namespace {

using ::testing::HasSubstr;

TEST(ServerConfig, FillsDefaults) {
  const absl::StatusOr<DaemonConfig> config = Check("models: [{path: /models/tale-7m/}]\n");
  ASSERT_TRUE(config.ok()) << config.status();
  ASSERT_EQ(config->models.size(), 1u);
  const ModelConfig& model = config->models[0];
  EXPECT_EQ(model.name, "tale-7m");
  EXPECT_EQ(model.compute_type, ComputeType::kBf16);
  EXPECT_EQ(model.default_max_tokens, 256);
  EXPECT_EQ(model.engine.model_name, "tale-7m");
  EXPECT_EQ(model.engine.kv_element_type, KvElementType::kBf16);
  EXPECT_EQ(model.engine.block_tokens, 32);
  EXPECT_EQ(model.engine.kv_capacity_bytes, 0);  // automatic
  EXPECT_EQ(model.engine.max_context_tokens, 0);
  EXPECT_TRUE(model.engine.prefix_cache);
  EXPECT_EQ(model.engine.max_waiting, 1024);
  EXPECT_EQ(model.grammar.max_compiled, 16);
  EXPECT_EQ(model.engine.stall_limit, absl::Seconds(30));
  EXPECT_EQ(model.engine.session_ttl, absl::Hours(1));
  EXPECT_EQ(model.engine.threads, PlanThreads().threads);
  EXPECT_EQ(config->listen.ToString(), "127.0.0.1:50051");
  EXPECT_EQ(config->metrics_listen->ToString(), "127.0.0.1:9464");
  EXPECT_EQ(config->drain_timeout, absl::Seconds(30));
  EXPECT_TRUE(config->reflection);
  EXPECT_EQ(config->max_message_bytes, 4 << 20);
}

TEST(ServerConfig, TheOracleKeepsItsCacheInF32) {
  EXPECT_EQ(Check("models: [{path: /a, compute_type: f32}]\n")->models[0].engine.kv_element_type,
            KvElementType::kF32);
  EXPECT_EQ(Check("models: [{path: /a, compute_type: f32, kv_cache: {element_type: bf16}}]\n")
                ->models[0]
                .engine.kv_element_type,
            KvElementType::kBf16);
}

TEST(ServerConfig, FollowsTheFile) {
  const absl::StatusOr<DaemonConfig> config = Check(
      "threads: 1\n"
      "models:\n"
      "- {name: a, path: /a, compute_type: int8, max_context_tokens: 99, kv_cache: {element_type: "
      "f16}}\n"
      "- {name: b, path: /b, weights: int4, scheduler: {max_step_tokens: 8}}\n"
      "server: {listen: '[::1]:0', drain_grace_seconds: 0.5}\n"
      "metrics: {listen: off}\n"
      "logging: {level: debug, format: json}\n");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->models[0].compute_type, ComputeType::kInt8);
  EXPECT_FALSE(config->models[0].quantize_to.has_value());
  EXPECT_EQ(config->models[1].quantize_to, WeightFormat::kInt4Zero32);
  EXPECT_EQ(config->models[0].engine.max_context_tokens, 99);
  EXPECT_EQ(config->models[0].engine.kv_element_type, KvElementType::kF16);
  // A small step alone is a complete statement: what belongs inside a step follows it.
  EXPECT_EQ(config->models[1].engine.prefill_chunk_tokens, 8);
  EXPECT_EQ(config->models[1].engine.max_running, 8);
  EXPECT_EQ(config->models[1].engine.threads, 1);
  EXPECT_EQ(config->listen.host, "::1");
  EXPECT_EQ(config->listen.ToString(), "[::1]:0");
  EXPECT_EQ(config->drain_grace, absl::Milliseconds(500));
  EXPECT_FALSE(config->metrics_listen.has_value());
  EXPECT_EQ(config->log_level, LogLevel::kDebug);
  EXPECT_EQ(config->log_format, LogFormat::kJson);
}

struct FaultCase {
  const char* text;
  std::vector<const char*> parts;  // line, value, limit, remedy
};

TEST(ServerConfig, FaultsNameLineValueLimitAndRemedy) {
  const FaultCase cases[] = {
      {"threads: 1\n", {"models is empty", "--model NAME=DIR"}},
      {"models:\n- name: a\n", {"test.yaml:2: models[0] has no path", "config.json"}},
      {"models:\n- path: /a\n  name: 'a b'\n",
       {"test.yaml:3: ", "'a b'", "1 to 128", "[A-Za-z0-9._/-]"}},
      {"models:\n- path: /a\n- path: /b/a\n",
       {"test.yaml:3: ", "'a'", "models[0] has already", "its own name"}},
      {"models:\n- path: /a\n  compute_type: fp32\n",
       {"test.yaml:3: ", "'fp32'", "bf16, f32, int8", "did you mean 'f32'?"}},
      {"models:\n- path: /a\n  max_context_tokens: 0\n",
       {"test.yaml:3: ", "is 0", "between 1 and", "remove it"}},
      {"models:\n- path: /a\n  default_max_tokens: -1\n",
       {"test.yaml:3: ", "is -1", "between 1 and"}},
      {"models:\n- path: /a\n  kv_cache:\n    block_tokens: 20\n",
       {"test.yaml:4: ", "is 20", "multiple of 16", "32 is the next"}},
      {"models:\n- path: /a\n  kv_cache: {block_tokens: 1024}\n",
       {"test.yaml:3: ", "1024", "between 16 and 512"}},
      {"models:\n- path: /a\n  kv_cache: {element_type: fp8}\n",
       {"test.yaml:3: ", "'fp8'", "bf16, f32, f16, int8"}},
      {"models:\n- path: /a\n  kv_cache: {capacity_bytes: 0}\n",
       {"test.yaml:3: ", "is 0", "between 1 and", "remove it"}},
      {"models:\n- path: /a\n  scheduler: {max_step_tokens: 0}\n",
       {"test.yaml:3: ", "is 0", "between 1 and 65536"}},
      {"models:\n- path: /a\n  scheduler:\n    max_step_tokens: 64\n    prefill_chunk_tokens: 65\n",
       {"test.yaml:5: ", "is 65", "between 1 and 64", "max_step_tokens"}},
      {"models:\n- path: /a\n  scheduler:\n    max_step_tokens: 16\n    max_running: 17\n",
       {"test.yaml:5: ", "is 17", "between 1 and 16", "in each step"}},
      {"models:\n- path: /a\n  scheduler: {max_running: 5000}\n", {"5000", "between 1 and 512"}},
      {"models:\n- path: /a\n  grammar: {max_compiled: -1}\n",
       {"test.yaml:3: ", "is -1", "between 0 and 4096"}},
      {"models:\n- path: /a\n  scheduler: {max_waiting: 0}\n",
       {"test.yaml:3: ", "is 0", "between 1 and 1000000"}},
      {"models:\n- path: /a\n  scheduler: {stream_outbox: 1}\n",
       {"test.yaml:3: ", "is 1", "between 2 and 65536"}},
      {"models:\n- path: /a\n  scheduler: {stall_limit_seconds: 0}\n",
       {"test.yaml:3: ", "is 0", "between 0.001"}},
      {"models:\n- path: /a\n  scheduler: {output_token_price: 0}\n",
       {"test.yaml:3: ", "output_token_price is 0", "between 0.01 and 100"}},
      {"models:\n- path: /a\n  sessions: {ttl_seconds: -5}\n",
       {"test.yaml:3: ", "is -5", "between 0.001"}},
      {"models:\n- path: /a\n  sessions: {share_spill_directory: true}\n",
       {"test.yaml:3: ", "share_spill_directory", "without a directory", "set spill_directory"}},
      {"models:\n- {path: /a, sessions: {spill_directory: /s}}\n- {path: /b, sessions: "
       "{spill_directory: /s/}}\n",
       {"test.yaml:3: ", "'/s/'", "models[0]", "its own folder"}},
      {"models: [{path: /a}]\nserver:\n  listen: localhost\n",
       {"test.yaml:3: ", "'localhost'", "no port", "127.0.0.1:50051"}},
      {"models: [{path: /a}]\nserver:\n  listen: '127.0.0.1:65536'\n",
       {"test.yaml:3: ", "65536", "between 0 and 65535"}},
      {"models: [{path: /a}]\nserver:\n  listen: '::1:80'\n",
       {"test.yaml:3: ", "brackets", "[::1]:50051"}},
      {"models: [{path: /a}]\nserver:\n  drain_timeout_seconds: -1\n",
       {"test.yaml:3: ", "is -1", "between 0 and"}},
      {"models: [{path: /a}]\nserver:\n  max_message_bytes: 10\n",
       {"test.yaml:3: ", "is 10", "between 1024 and"}},
      {"models: [{path: /a}]\nserver: {listen: 'h:1'}\nmetrics: {listen: 'h:1'}\n",
       {"test.yaml:3: ", "server.listen has already"}},
      {"models: [{path: /a}]\nlogging:\n  level: verbose\n",
       {"test.yaml:3: ", "'verbose'", "info, debug, warning, error"}},
      {"models: [{path: /a}]\nthreads: 0\n",
       {"test.yaml:2: ", "threads is 0", "between 1 and 1024", "CPUs"}},
  };
  for (const FaultCase& fault : cases) {
    const absl::StatusOr<DaemonConfig> config = Check(fault.text);
    ASSERT_FALSE(config.ok()) << fault.text;
    EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument);
    for (const char* part : fault.parts)
      EXPECT_THAT(std::string(config.status().message()), HasSubstr(part)) << fault.text;
  }
}

TEST(ServerConfig, SeveralFaultsComeTogether) {
  const absl::StatusOr<DaemonConfig> config =
      Check("models: [{path: /a}]\nthreads: 0\nserver: {listen: x}\nlogging: {level: loud}\n");
  ASSERT_FALSE(config.ok());
  for (const char* part : {"test.yaml:2: ", "test.yaml:3: ", "test.yaml:4: "}) {
    EXPECT_THAT(std::string(config.status().message()), HasSubstr(part));
  }
}

TEST(HostPort, ParsesAndRefuses) {
  EXPECT_EQ(ParseHostPort("localhost:0")->ToString(), "localhost:0");
  EXPECT_EQ(ParseHostPort("[fe80::1%eth0]:80")->ToString(), "[fe80::1%eth0]:80");
  EXPECT_EQ(ParseHostPort("unix:///run/a b.sock")->ToString(), "unix:///run/a b.sock");
  for (const char* text :
       {"", ":", ":80", "[]:80", "a:", "a:b", "a:-1", "a:+1", "a: 1", "a:1 ", "a b:1", "a,b:1",
        "a:70000", "unix:", "unix:a", "unix:///", "unix://a/b", "unix:///a/"}) {
    EXPECT_FALSE(ParseHostPort(text).ok()) << text;
  }
}

// What --print_config shows is a file that means the same.
TEST(ConfigWriter, RoundTrips) {
  const char* const texts[] = {
      "models: [{path: /a}]\n",
      "models:\n"
      "- {name: a/b-c.d_e, path: '/dir with \"quotes\" and \\ and ünïcode', compute_type: f32, "
      "max_context_tokens: 7}\n"
      "- {name: '7', path: 'null', kv_cache: {capacity_bytes: 1.5GiB, prefix_cache: false}}\n"
      "- {name: 'true', path: \"tab\\there\", sessions: {spill_directory: '~', ttl_seconds: 0.1, "
      "max_idle_bytes: 12345}}\n"
      "threads: 5\n"
      "server: {listen: '[::1]:0', drain_timeout_seconds: 1234.5678, reflection: false}\n"
      "metrics: {listen: off}\n",
  };
  for (const char* text : texts) {
    absl::StatusOr<ConfigSource> source = ParseConfig(text, "test.yaml");
    ASSERT_TRUE(source.ok()) << source.status();
    FillDefaults(&source->message);
    const std::string printed = WriteConfig(source->message);
    const absl::StatusOr<ConfigSource> again = ParseConfig(printed, "printed.yaml");
    ASSERT_TRUE(again.ok()) << again.status() << "\n" << printed;
    EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(source->message, again->message))
        << printed;
    config::v1::Config filled_again = again->message;
    FillDefaults(&filled_again);
    EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(filled_again, again->message));
  }
}

TEST(ConfigWriter, SaysWhatIsAutomatic) {
  config::v1::Config config;
  config.add_models()->set_path("/a");
  FillDefaults(&config);
  const std::string printed = WriteConfig(config);
  for (const char* line :
       {"# capacity_bytes: automatic", "# threads: automatic", "# max_context_tokens: automatic",
        "max_spill_bytes: 8GiB", "max_message_bytes: 4MiB", "  - name: a\n",
        "listen: \"127.0.0.1:50051\""}) {
    EXPECT_THAT(printed, HasSubstr(line));
  }
}

}  // namespace
}  // namespace kvasir
