#include "server/config/command_line.h"

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/config/server_config.h"

namespace kvasir {
namespace {

using ::testing::HasSubstr;

EnvironmentLookup Environment(std::map<std::string, std::string> variables) {
  return [variables](const std::string& name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    if (found == variables.end()) return std::nullopt;
    return found->second;
  };
}

absl::StatusOr<ConfigSource> Resolve(const std::vector<std::string>& arguments,
                                     std::map<std::string, std::string> environment = {}) {
  absl::StatusOr<Invocation> command_line =
      ParseCommandLine(arguments, Environment(std::move(environment)));
  if (!command_line.ok()) return command_line.status();
  return ResolveConfig(*command_line);
}

std::string FaultOf(const std::vector<std::string>& arguments,
                    std::map<std::string, std::string> environment = {}) {
  absl::StatusOr<ConfigSource> source = Resolve(arguments, std::move(environment));
  absl::Status status =
      source.ok() ? Validate(source->message, source->origins).status() : source.status();
  EXPECT_FALSE(status.ok());
  return std::string(status.message());
}

class FileTest : public ::testing::Test {
 protected:
  FileTest() {
    path_ = std::filesystem::path(::testing::TempDir()) / "kvasir_command_line_test.yaml";
    std::ofstream(path_) << "models:\n"
                            "- {name: a, path: /file/a, compute_type: int8}\n"
                            "threads: 2\n"
                            "server: {listen: '127.0.0.1:1', drain_timeout_seconds: 5}\n"
                            "logging: {level: error}\n";
  }
  ~FileTest() override { std::filesystem::remove(path_); }

  std::filesystem::path path_;
};

TEST_F(FileTest, FlagBeatsEnvironmentBeatsFileBeatsDefault) {
  const absl::StatusOr<ConfigSource> source = Resolve(
      {"--config", path_.string(), "--listen=127.0.0.1:3"},
      {{"KVASIR_LISTEN", "127.0.0.1:2"}, {"KVASIR_THREADS", "7"}, {"KVASIR_LOG_FORMAT", "json"}});
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ(source->message.server().listen(), "127.0.0.1:3");      // flag
  EXPECT_EQ(source->message.threads(), 7);                          // environment
  EXPECT_EQ(source->message.logging().format(), "json");            // environment, not in the file
  EXPECT_EQ(source->message.server().drain_timeout_seconds(), 5);   // file
  EXPECT_EQ(source->message.logging().level(), "error");            // file
  EXPECT_EQ(source->message.metrics().listen(), "127.0.0.1:9464");  // default
  EXPECT_EQ(source->origins.at("server.listen"), "flag --listen");
  EXPECT_EQ(source->origins.at("threads"), "environment variable KVASIR_THREADS");
}

TEST_F(FileTest, TheFileMayComeFromTheEnvironment) {
  const absl::StatusOr<ConfigSource> source = Resolve({}, {{"KVASIR_CONFIG", path_.string()}});
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ(source->message.models(0).path(), "/file/a");
  EXPECT_FALSE(Resolve({"--config", "/nonexistent"}, {{"KVASIR_CONFIG", path_.string()}}).ok());
}

TEST_F(FileTest, ModelFlagsMoveAndAddModels) {
  const absl::StatusOr<ConfigSource> source =
      Resolve({"--config", path_.string(), "--model", "a=/flag/a", "--model=/flag/plain",
               "--kv_capacity_bytes", "2MiB"});
  ASSERT_TRUE(source.ok()) << source.status();
  ASSERT_EQ(source->message.models_size(), 2);
  EXPECT_EQ(source->message.models(0).path(), "/flag/a");
  EXPECT_EQ(source->message.models(0).compute_type(), "int8");  // the file's other settings stay
  EXPECT_EQ(source->message.models(1).name(), "plain");
  for (const auto& model : source->message.models())
    EXPECT_EQ(model.kv_cache().capacity_bytes(), 2 << 20);
}

TEST(CommandLine, FlagsForEveryModelApplyWhereverTheyStand) {
  const absl::StatusOr<ConfigSource> source = Resolve(
      {"--compute-type", "f32", "--max_context_tokens=64", "--model", "a=/a", "--model", "b=/b"});
  ASSERT_TRUE(source.ok()) << source.status();
  for (const auto& model : source->message.models()) {
    EXPECT_EQ(model.compute_type(), "f32");
    EXPECT_EQ(model.max_context_tokens(), 64);
  }
}

TEST(CommandLine, ModelsFromTheEnvironmentAreCommaSeparatedAndFlagsReplaceThem) {
  EXPECT_EQ(Resolve({}, {{"KVASIR_MODEL", "a=/a,/b"}})->message.models_size(), 2);
  const absl::StatusOr<ConfigSource> source =
      Resolve({"--model", "/c"}, {{"KVASIR_MODEL", "a=/a,/b"}});
  ASSERT_EQ(source->message.models_size(), 1);
  EXPECT_EQ(source->message.models(0).name(), "c");
}

TEST(CommandLine, ANameOnAHubIsAPath) {
  const auto model = [](const std::string& value) {
    const absl::StatusOr<ConfigSource> source = Resolve({"--model", value});
    return source->message.models(0).name() + " " + source->message.models(0).path();
  };
  EXPECT_EQ(model("q=hf:org/Repo@v1:Q8_0"), "q hf:org/Repo@v1:Q8_0");
  EXPECT_EQ(model("hf:org/Repo@refs/pr/1:a=b*.gguf"), "Repo hf:org/Repo@refs/pr/1:a=b*.gguf");
  EXPECT_THAT(FaultOf({"--model", "q=hf:org/../x"}),
              AllOf(HasSubstr("models[0].path"), HasSubstr("the form is hf:ORG/REPO")));
}

TEST(CommandLine, EmptyVariablesAreUnset) {
  EXPECT_EQ(Resolve({"--model", "/c"}, {{"KVASIR_LISTEN", ""}})->message.server().listen(),
            "127.0.0.1:50051");
}

TEST(CommandLine, Actions) {
  using Action = Invocation::Action;
  const auto action = [](const std::vector<std::string>& arguments) {
    return ParseCommandLine(arguments, Environment({}))->action;
  };
  EXPECT_EQ(action({}), Action::kServe);
  EXPECT_EQ(action({"--check_config"}), Action::kCheckConfig);
  EXPECT_EQ(action({"--check-config"}), Action::kCheckConfig);
  EXPECT_EQ(action({"--print_config"}), Action::kPrintConfig);
  EXPECT_EQ(action({"-h"}), Action::kHelp);
  EXPECT_EQ(action({"--version"}), Action::kVersion);
}

TEST(CommandLine, FaultsNameTheirOriginValueAndRemedy) {
  EXPECT_THAT(FaultOf({"--lisen", "x"}),
              AllOf(HasSubstr("unknown flag '--lisen'"), HasSubstr("did you mean '--listen'?")));
  EXPECT_THAT(FaultOf({"--model"}), HasSubstr("--model: 1 required NAME=DIR|DIR missing"));
  EXPECT_THAT(FaultOf({"/models/a"}),
              AllOf(HasSubstr("'/models/a' is not a flag"), HasSubstr("--model /models/a")));
  EXPECT_THAT(FaultOf({"--threads", "1", "--threads", "2"}), HasSubstr("--threads is given twice"));
  EXPECT_THAT(FaultOf({"--hlp"}), HasSubstr("unknown flag '--hlp'"));
  EXPECT_THAT(FaultOf({"--threads", "two"}),
              HasSubstr("flag --threads must be a whole number, but is 'two'"));
  EXPECT_THAT(FaultOf({"--model", "=dir"}), HasSubstr("NAME=DIR or DIR"));
  EXPECT_THAT(FaultOf({"--model", "/a", "--kv_capacity_bytes", "lots"}),
              AllOf(HasSubstr("flag --kv_capacity_bytes"), HasSubstr("'lots' is not a size")));
  EXPECT_THAT(FaultOf({"--model", "/a", "--drain_timeout_seconds", "soon"}),
              HasSubstr("number of seconds"));
  // Faults of range are found later and still name the flag or variable.
  EXPECT_THAT(FaultOf({"--model", "/a", "--threads", "0"}),
              HasSubstr("flag --threads: threads is 0"));
  EXPECT_THAT(FaultOf({"--model", "/a"}, {{"KVASIR_COMPUTE_TYPE", "bf6"}}),
              AllOf(HasSubstr("environment variable KVASIR_COMPUTE_TYPE: "),
                    HasSubstr("did you mean 'bf16'?")));
  EXPECT_THAT(FaultOf({"--model", "a b=/a"}), HasSubstr("flag --model: models[0].name is 'a b'"));
}

TEST(CommandLine, HelpNamesEveryFlagWithItsVariable) {
  const std::string help = HelpText();
  for (const char* flag :
       {"config", "model", "listen", "metrics_listen", "compute_type", "kv_capacity_bytes",
        "weights", "threads", "max_context_tokens", "drain_timeout_seconds", "log_level",
        "log_format", "check_config", "print_config", "report_lost_sessions", "help", "version"}) {
    EXPECT_THAT(help, HasSubstr(std::string("--") + flag));
  }
  EXPECT_THAT(help, HasSubstr("KVASIR_KV_CAPACITY_BYTES"));
  EXPECT_THAT(help, HasSubstr("default: 127.0.0.1:50051"));
}

}  // namespace
}  // namespace kvasir
