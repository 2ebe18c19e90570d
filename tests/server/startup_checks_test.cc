#include "server/process/startup_checks.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/cpu_topology.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kvcache/spill/kv_spill.h"
#include "tests/test_models.h"

namespace kvasir {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

// An environment variable while it lives.
class ScopedVariable {
 public:
  ScopedVariable(const char* name, const std::string& value) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before;
    setenv(name, value.c_str(), /*overwrite=*/1);
  }
  ~ScopedVariable() { before_ ? setenv(name_, before_->c_str(), 1) : unsetenv(name_); }

 private:
  const char* const name_;
  std::optional<std::string> before_;
};

class StartupChecksTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = ::testing::TempDir() + "/startup_" +
              ::testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(folder_);
    const std::string source = testing::ModelFolder(testing::kBundledModel);
    ASSERT_FALSE(source.empty());
    std::filesystem::create_directories(folder_);
    for (const char* name : {"config.json", "model.safetensors", "tokenizer.json"}) {
      std::filesystem::copy_file(source + "/" + name, folder_ + "/" + name);
    }
    ModelConfig model;
    model.name = "m";
    model.path = folder_;
    config_.models.push_back(model);
    config_.listen = {"127.0.0.1", 0};
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void Write(const std::string& name, const std::string& contents) {
    std::filesystem::create_directories(folder_);
    std::ofstream(folder_ + "/" + name, std::ios::binary) << contents;
  }

  // The only fault there is; empty when there is none.
  std::string Fault(ExitCode expected) {
    const std::vector<StartupFault> faults = CheckSurroundings(config_);
    if (faults.empty()) return "";
    EXPECT_EQ(faults.size(), 1u) << faults[1].message;
    EXPECT_EQ(faults[0].code, expected) << faults[0].message;
    return faults[0].message;
  }

  std::string folder_;
  DaemonConfig config_;
};

TEST_F(StartupChecksTest, AModelFolderIsFine) {
  EXPECT_THAT(CheckSurroundings(config_), IsEmpty());
}

TEST_F(StartupChecksTest, MissingFolder) {
  config_.models[0].path = "/nonexistent/model";
  EXPECT_THAT(Fault(ExitCode::kModelLoad),
              ::testing::AllOf(HasSubstr("model 'm'"), HasSubstr("/nonexistent/model"),
                               HasSubstr("config.json")));
}

TEST_F(StartupChecksTest, HubIdSaysWhatToDo) {
  config_.models[0].path = "Qwen/Qwen3-0.6B";
  EXPECT_THAT(Fault(ExitCode::kModelLoad),
              HasSubstr("to download it from there, give hf:Qwen/Qwen3-0.6B"));
}

TEST_F(StartupChecksTest, ANameOnAHubIsNotedAndTheRestChecked) {
  const ScopedVariable home("HF_HOME", folder_ + "/hf");
  const ScopedVariable online("HF_HUB_OFFLINE", "0");
  const ScopedVariable no_cache("HF_HUB_CACHE", "");
  config_.models[0].path = "hf:org/repo@v1:Q8_0";
  std::vector<std::string> notes;
  EXPECT_THAT(CheckSurroundings(config_, CheckDepth::kFiles, &notes), IsEmpty());
  EXPECT_THAT(notes, ::testing::ElementsAre(HasSubstr("hf:org/repo@v1:Q8_0 is not in the cache " +
                                                      folder_ + "/hf/hub")));
  config_.models.push_back(config_.models[0]);
  config_.models[1].name = "other";
  config_.models[1].path = "/nonexistent/model";
  EXPECT_THAT(Fault(ExitCode::kModelLoad), HasSubstr("model 'other'"));
  config_.models.pop_back();
  const ScopedVariable offline("HF_HUB_OFFLINE", "1");
  EXPECT_THAT(Fault(ExitCode::kModelLoad), HasSubstr("HF_HUB_OFFLINE is set"));
}

TEST_F(StartupChecksTest, FolderWithoutConfigOrWeights) {
  std::filesystem::remove(folder_ + "/config.json");
  EXPECT_THAT(Fault(ExitCode::kModelLoad),
              ::testing::AllOf(HasSubstr("/config.json"), HasSubstr("a model folder holds")));
  Write("config.json", "{}");
  std::filesystem::rename(folder_ + "/model.safetensors", folder_ + "/pytorch_model.bin");
  EXPECT_THAT(Fault(ExitCode::kModelLoad), HasSubstr("holds no *.safetensors"));
  Write("model.safetensors.index.json", "{}");
  EXPECT_THAT(Fault(ExitCode::kModelLoad), HasSubstr("finish the download"));
}

TEST_F(StartupChecksTest, FolderWithoutTokenizer) {
  std::filesystem::remove(folder_ + "/tokenizer.json");
  EXPECT_THAT(Fault(ExitCode::kModelLoad), HasSubstr("neither tokenizer.json"));
}

// What loading would find minutes later, behind the weights of other models.
TEST_F(StartupChecksTest, ConfigurationsAndTensorsThatDoNotFit) {
  std::filesystem::resize_file(folder_ + "/model.safetensors", 1000);
  EXPECT_THAT(Fault(ExitCode::kModelLoad), HasSubstr("model.safetensors"));
  Write("config.json", "{\"model_type\": \"abacus\"}");
  EXPECT_THAT(Fault(ExitCode::kModelLoad), HasSubstr("abacus"));
}

// The tensors of another model, under a configuration that is sound by itself.
TEST_F(StartupChecksTest, TensorsAreHeldAgainstTheConfiguration) {
  nlohmann::json config = nlohmann::json::parse(std::ifstream(folder_ + "/config.json"));
  const int layers = config["num_hidden_layers"];
  config["num_hidden_layers"] = layers + 1;
  Write("config.json", config.dump());
  EXPECT_THAT(Fault(ExitCode::kModelLoad), HasSubstr(absl::StrCat("layers.", layers, ".")));
  config["num_hidden_layers"] = layers;
  config["intermediate_size"] = static_cast<int>(config["intermediate_size"]) * 2;
  Write("config.json", config.dump());
  EXPECT_THAT(Fault(ExitCode::kModelLoad), HasSubstr("mlp."));
}

TEST_F(StartupChecksTest, ADraftModelIsLookedAtAndCounted) {
  const int64_t alone = CheckModelFiles(config_.models[0])->weight_bytes;
  std::string& draft = config_.models[0].speculation.draft_model;
  draft = folder_;
  const auto both = CheckModelFiles(config_.models[0]);
  ASSERT_TRUE(both.ok()) << both.status();
  EXPECT_EQ(both->weight_bytes, 2 * alone + config_.models[0].engine.draft_kv_capacity_bytes);
  draft = folder_ + "/gone";
  EXPECT_THAT(Fault(ExitCode::kModelLoad),
              ::testing::AllOf(HasSubstr("speculation.draft"), HasSubstr("/gone")));
  std::filesystem::create_directories(draft);
  std::ofstream(draft + "/config.json") << "{}";
  EXPECT_THAT(Fault(ExitCode::kModelLoad),
              ::testing::AllOf(HasSubstr("speculation.draft"), HasSubstr("safetensors")));
}

TEST_F(StartupChecksTest, TextIsReadWhereItIsAskedFor) {
  EXPECT_THAT(CheckSurroundings(config_, CheckDepth::kText), IsEmpty());
  std::filesystem::resize_file(folder_ + "/tokenizer.json", 1000);
  EXPECT_THAT(CheckSurroundings(config_), IsEmpty());
  const auto faults = CheckSurroundings(config_, CheckDepth::kText);
  ASSERT_EQ(faults.size(), 1u);
  EXPECT_EQ(faults[0].code, ExitCode::kModelLoad);
  EXPECT_THAT(faults[0].message,
              ::testing::AllOf(HasSubstr("model 'm'"), HasSubstr("tokenizer.json")));
}

// A model that would not fit as it is stored may fit in four bits.
TEST_F(StartupChecksTest, WeightsAreCountedAsTheyWillBeHeld) {
  const int64_t stored = CheckModelFiles(config_.models[0])->weight_bytes;
  config_.models[0].quantize_to = WeightFormat::kInt4Group32;
  EXPECT_LT(CheckModelFiles(config_.models[0])->weight_bytes, stored * 3 / 4);
}

TEST_F(StartupChecksTest, ChatTemplates) {
  config_.models[0].chat_template_file = folder_ + "/absent.jinja";
  EXPECT_THAT(Fault(ExitCode::kModelLoad), HasSubstr("absent.jinja"));
}

TEST_F(StartupChecksTest, LfsPointersAreNoWeights) {
  Write("model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:00\n");
  EXPECT_THAT(Fault(ExitCode::kModelLoad), HasSubstr("git lfs pull"));
}

TEST_F(StartupChecksTest, FilesMustBeGguf) {
  config_.models[0].path = folder_ + "/model.gguf";
  Write("model.gguf", "PK..");
  EXPECT_THAT(Fault(ExitCode::kModelLoad), HasSubstr("no GGUF"));
  Write("model.gguf", "GGUF....");
  EXPECT_THAT(Fault(ExitCode::kModelLoad), HasSubstr("model.gguf"));
  config_.models[0].path = folder_ + "/model.bin";
  Write("model.bin", "GGUF....");
  EXPECT_THAT(Fault(ExitCode::kModelLoad), HasSubstr("does not end in .gguf"));
}

// Whatever stands where a file should be, looking at it ends.
TEST_F(StartupChecksTest, PipesAndFoldersInPlaceOfFiles) {
  std::filesystem::remove(folder_ + "/config.json");
  ASSERT_EQ(mkfifo((folder_ + "/config.json").c_str(), 0600), 0);
  EXPECT_THAT(Fault(ExitCode::kModelLoad), HasSubstr("not a regular file"));
  std::filesystem::remove(folder_ + "/config.json");
  std::filesystem::create_directory(folder_ + "/config.json");
  EXPECT_THAT(Fault(ExitCode::kModelLoad), HasSubstr("not a regular file"));
  config_.models[0].path = "/dev/null";
  EXPECT_THAT(Fault(ExitCode::kModelLoad), HasSubstr("not a regular file"));
}

// Every file that can be the first for which there is no descriptor.
TEST_F(StartupChecksTest, ALimitOfTheProcessIsNoFaultOfTheConfiguration) {
  const int lowest = open("/dev/null", O_RDONLY | O_CLOEXEC);
  ASSERT_GE(lowest, 0);
  close(lowest);
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  int refused = 0;
  for (int free = 0;; ++free) {
    const rlimit limited{.rlim_cur = static_cast<rlim_t>(lowest + free),
                         .rlim_max = before.rlim_max};
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limited), 0);
    const absl::Status status = CheckModelFiles(config_.models[0]).status();
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
    if (status.ok()) break;
    ++refused;
    EXPECT_TRUE(absl::IsResourceExhausted(status)) << free << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("model 'm'"));
    ASSERT_LT(free, 100);
  }
  EXPECT_GT(refused, 0);
}

TEST_F(StartupChecksTest, PortInUse) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(listen(fd, 1), 0);
  ASSERT_EQ(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size), 0);
  config_.metrics_listen = HostPort{"127.0.0.1", ntohs(address.sin_port)};
  EXPECT_THAT(Fault(ExitCode::kListen), HasSubstr("metrics.listen: cannot listen on 127.0.0.1:"));
  close(fd);
  EXPECT_THAT(CheckSurroundings(config_), IsEmpty());
}

TEST_F(StartupChecksTest, TwoDoorsOnOnePort) {
  config_.listen.unix_path = folder_ + "/door";
  config_.http_listen = config_.listen;
  EXPECT_THAT(Fault(ExitCode::kListen), HasSubstr("http.listen"));
  EXPECT_FALSE(std::filesystem::exists(folder_ + "/door")) << "given back";
}

TEST_F(StartupChecksTest, AddressOfAnotherMachine) {
  config_.listen = {"192.0.2.1", 0};  // of documentation, RFC 5737
  EXPECT_THAT(Fault(ExitCode::kListen), HasSubstr("server.listen: cannot listen on 192.0.2.1:0"));
}

TEST_F(StartupChecksTest, TlsFilesThatAreNoPair) {
  config_.tls.certificate_file = folder_ + "/absent.pem";
  config_.tls.private_key_file = folder_ + "/key.pem";
  EXPECT_THAT(Fault(ExitCode::kListen), HasSubstr("absent.pem"));
}

TEST_F(StartupChecksTest, SpillDirectories) {
  config_.models[0].engine.spill_directory = folder_ + "/spill";
  EXPECT_THAT(CheckSurroundings(config_), IsEmpty());
  EXPECT_FALSE(std::filesystem::exists(folder_ + "/spill")) << "only looked";
  config_.models[0].engine.spill_directory = folder_ + "/no/such/parent";
  EXPECT_THAT(Fault(ExitCode::kModelLoad), HasSubstr("/no/such/parent"));
  config_.models[0].engine.spill_directory = folder_ + "/config.json";
  EXPECT_THAT(Fault(ExitCode::kModelLoad), HasSubstr("config.json"));
  config_.models[0].engine.spill_directory =
      "/proc";  // whoever may do everything makes no file there
  EXPECT_THAT(Fault(ExitCode::kModelLoad), HasSubstr("cannot write to directory /proc"));
  const std::string there = folder_ + "/there";
  std::filesystem::create_directory(there);
  config_.models[0].engine.spill_directory = there;
  EXPECT_THAT(CheckSurroundings(config_), IsEmpty());
  EXPECT_TRUE(std::filesystem::is_empty(there)) << "nothing is left behind";
  // Held by another daemon.
  KvSpillConfig held;
  held.directory = folder_ + "/held";
  held.max_directory_bytes = 1 << 20;
  const auto spill = KvSpill::Open(held);
  ASSERT_TRUE(spill.ok()) << spill.status();
  config_.models[0].engine.spill_directory = held.directory;
  EXPECT_THAT(Fault(ExitCode::kModelLoad), HasSubstr("in use by another process"));
}

TEST_F(StartupChecksTest, AToolFormatThatNobodyKnows) {
  config_.models[0].tool_format = "hermess";
  EXPECT_THAT(Fault(ExitCode::kModelLoad), HasSubstr("hermess"));
  config_.models[0].tool_format = "hermes";
  EXPECT_THAT(CheckSurroundings(config_), IsEmpty());
}

TEST_F(StartupChecksTest, PoolsBeyondTheMachine) {
  config_.models[0].engine.kv_capacity_bytes = static_cast<int64_t>(UsableMemoryBytes()) + 1;
  EXPECT_THAT(Fault(ExitCode::kMemory), HasSubstr("KV pool of model 'm'"));
}

TEST_F(StartupChecksTest, TenantsThatCanBeNobody) {
  TenantConfig tenant;
  tenant.id = "a";
  config_.tenants.push_back(tenant);
  EXPECT_THAT(Fault(ExitCode::kBadConfig), HasSubstr("tenant a can be nobody"));
}

TEST_F(StartupChecksTest, EveryFaultIsTold) {
  config_.models[0].path = "/nonexistent";
  config_.listen = {"192.0.2.1", 0};
  const std::vector<StartupFault> faults = CheckSurroundings(config_);
  ASSERT_EQ(faults.size(), 2u);
  EXPECT_EQ(faults[0].code, ExitCode::kModelLoad);
}

}  // namespace
}  // namespace kvasir
