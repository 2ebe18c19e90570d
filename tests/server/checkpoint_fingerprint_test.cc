#include "server/process/checkpoint_fingerprint.h"

#include <filesystem>
#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/model/loading/checkpoint_files.h"
#include "tests/kvcache/temporary_directory.h"

namespace kvasir {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::TemporaryDirectory;

class CheckpointFilesTest : public ::testing::Test {
 protected:
  std::string Write(const std::string& name, const std::string& contents) {
    std::ofstream(folder_ + "/" + name, std::ios::binary) << contents;
    return folder_ + "/" + name;
  }
  std::string Fingerprint(const std::string& path, const std::string& variant = "bf16") {
    const auto digest = CheckpointFingerprint(path, variant);
    EXPECT_TRUE(digest.ok()) << digest.status();
    return digest.value_or("");
  }

  const TemporaryDirectory directory_;
  const std::string folder_ = directory_.path().string();
};

TEST_F(CheckpointFilesTest, OfAFolderWhatALoadReads) {
  for (const char* name : {"model-00002-of-00002.safetensors", "config.json", "README.md",
                           "chat_template.jinja", "tokenizer.model", "pytorch_model.bin"}) {
    Write(name, "x");
  }
  const auto files = CheckpointFiles(folder_);
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_THAT(*files, ElementsAre(folder_ + "/chat_template.jinja", folder_ + "/config.json",
                                  folder_ + "/model-00002-of-00002.safetensors",
                                  folder_ + "/tokenizer.model"));
  EXPECT_THAT(std::string(CheckpointFiles("/nowhere/at/all").status().message()),
              HasSubstr("/nowhere/at/all"));
}

TEST_F(CheckpointFilesTest, OfAGgufFileAllParts) {
  EXPECT_THAT(*CheckpointFiles("a/b.gguf"), ElementsAre("a/b.gguf"));
  EXPECT_THAT(
      *CheckpointFiles("a/b-00002-of-00003.gguf"),
      ElementsAre("a/b-00001-of-00003.gguf", "a/b-00002-of-00003.gguf", "a/b-00003-of-00003.gguf"));
  for (const char* no_part : {"a/b-00000-of-00003.gguf", "a/b-00004-of-00003.gguf",
                              "a/b-00001-of-99999.gguf", "-of-00003.gguf"}) {
    EXPECT_THAT(*CheckpointFiles(no_part), ElementsAre(no_part));
  }
}

TEST_F(CheckpointFilesTest, FingerprintsTellWeightsApart) {
  EXPECT_EQ(CheckpointFingerprint(folder_, "bf16").status().code(), absl::StatusCode::kNotFound);
  Write("config.json", "{}");
  Write("model.safetensors", std::string(10 << 20, 'a'));
  const std::string before = Fingerprint(folder_);
  EXPECT_EQ(Fingerprint(folder_), before);
  EXPECT_NE(Fingerprint(folder_, "f32"), before);
  Write("README.md", "Nothing that computes reads this.");
  Write("tokenizer.json", "{}");
  EXPECT_EQ(Fingerprint(folder_), before);
  for (const char* const name : {"quantize_config.json", "hf_quant_config.json"}) {
    const std::string path = Write(name, "{}");
    EXPECT_NE(Fingerprint(folder_), before) << name;
    std::filesystem::remove(path);
  }
  EXPECT_EQ(Fingerprint(folder_), before);
  Write("model.safetensors", std::string(10 << 20, 'b'));
  EXPECT_NE(Fingerprint(folder_), before);
}

// The first part may hold the vocabulary alone, which two models may have in common.
TEST_F(CheckpointFilesTest, FingerprintsReadEveryPart) {
  const std::string first = Write("m-00001-of-00002.gguf", "metadata");
  EXPECT_FALSE(CheckpointFingerprint(first, "bf16").ok()) << "a part is missing";
  const std::string second = Write("m-00002-of-00002.gguf", "weights");
  const std::string before = Fingerprint(first);
  EXPECT_EQ(Fingerprint(second), before);
  Write("m-00002-of-00002.gguf", "wEights");
  EXPECT_NE(Fingerprint(first), before);
}

}  // namespace
}  // namespace kvasir
