#include "hub/file_selection.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kvasir {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::IsSupersetOf;

std::vector<RepoFile> Files(std::vector<std::string> paths) {
  std::vector<RepoFile> files;
  int64_t size = 1;
  for (std::string& path : paths) files.push_back({std::move(path), size *= 2, ""});
  return files;
}

absl::StatusOr<FileSelection> Select(std::vector<std::string> paths,
                                     const std::string& pattern = "",
                                     const std::string& index = "") {
  return SelectFiles("o/r", Files(std::move(paths)), pattern,
                     [&](const RepoFile&) -> absl::StatusOr<std::string> { return index; });
}

std::vector<std::string> Paths(const absl::StatusOr<FileSelection>& selection) {
  std::vector<std::string> paths;
  if (!selection.ok()) return {std::string(selection.status().message())};
  for (const RepoFile& file : selection->files) paths.push_back(file.path);
  return paths;
}

TEST(FileSelectionTest, SafetensorsComeBeforeAllElse) {
  const auto selection =
      Select({"README.md", "model.gguf", "model.safetensors", "config.json", "pytorch_model.bin",
              "tokenizer.model", "fp16/model.safetensors", "model.safetensors.index.json"});
  EXPECT_THAT(Paths(selection), ElementsAre("config.json", "tokenizer.model", "model.safetensors"));
  EXPECT_EQ(selection->weight_bytes, 8);
  EXPECT_EQ(selection->gguf, "");
}

TEST(FileSelectionTest, WhatSaysHowWeightsAreQuantisedComesToo) {
  EXPECT_THAT(Paths(Select({"config.json", "tokenizer.json", "model.safetensors",
                            "quantize_config.json", "hf_quant_config.json"})),
              IsSupersetOf({"quantize_config.json", "hf_quant_config.json"}));
}

TEST(FileSelectionTest, TheIndexSaysWhichShards) {
  const std::vector<std::string> paths = {"config.json",   "tokenizer.json",
                                          "a.safetensors", "b.safetensors",
                                          "c.safetensors", "model.safetensors.index.json"};
  EXPECT_THAT(
      Paths(Select(
          paths, "",
          R"({"weight_map":{"x":"c.safetensors","y":"a.safetensors","z":"a.safetensors"}})")),
      ElementsAre("config.json", "tokenizer.json", "model.safetensors.index.json", "a.safetensors",
                  "c.safetensors"));
  // What an index must not do.
  for (const char* index :
       {"", "[]", "{}", R"({"weight_map":[]})", R"({"weight_map":{}})", R"({"weight_map":{"x":1}})",
        R"({"weight_map":{"x":"../a.safetensors"}})", R"({"weight_map":{"x":"d.safetensors"}})"}) {
    EXPECT_FALSE(Select(paths, "", index).ok()) << index;
  }
  EXPECT_FALSE(Select(paths, "", std::string(100'000, '[')).ok());
}

TEST(FileSelectionTest, AWordOfTheNameChoosesAGguf) {
  const std::vector<std::string> paths = {"m-Q4_K.gguf", "m-Q4_K_M.gguf", "m.Q8_0.gguf",
                                          "UD/m-UD-Q4_K_XL.gguf"};
  EXPECT_THAT(Paths(Select(paths, "Q4_K")), ElementsAre("m-Q4_K.gguf"));
  EXPECT_THAT(Paths(Select(paths, "q4_k_m")), ElementsAre("m-Q4_K_M.gguf"));
  EXPECT_THAT(Paths(Select(paths, "Q8_0")), ElementsAre("m.Q8_0.gguf"));
  EXPECT_THAT(Paths(Select(paths, "UD-Q4_K_XL")), ElementsAre("UD/m-UD-Q4_K_XL.gguf"));
  EXPECT_THAT(Paths(Select(paths, "UD/*")), ElementsAre("UD/m-UD-Q4_K_XL.gguf"));
  EXPECT_THAT(Paths(Select(paths, "m-Q4_K.gguf")), ElementsAre("m-Q4_K.gguf"));
  EXPECT_TRUE(absl::IsInvalidArgument(Select(paths, "m*").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(Select(paths, "m").status()));
  EXPECT_TRUE(absl::IsNotFound(Select(paths, "Q4").status()));
  // Also beside safetensors, when it is asked for.
  EXPECT_THAT(
      Paths(Select({"config.json", "tokenizer.json", "model.safetensors", "x-Q8_0.gguf"}, "Q8_0")),
      ElementsAre("x-Q8_0.gguf"));
}

TEST(FileSelectionTest, WithoutAPatternTheOnlyGgufOrQ4KM) {
  EXPECT_THAT(Paths(Select({"x.gguf", "mmproj-f16.gguf", "imatrix.gguf"})), ElementsAre("x.gguf"));
  const auto chosen = Select({"x-F16.gguf", "x-Q4_K_M.gguf", "x-Q2_K.gguf"});
  EXPECT_THAT(Paths(chosen), ElementsAre("x-Q4_K_M.gguf"));
  EXPECT_THAT(chosen->others, ElementsAre("x-F16.gguf", "x-Q2_K.gguf"));
  const auto none = Select({"x-F16.gguf", "x-Q2_K.gguf"});
  EXPECT_THAT(std::string(none.status().message()),
              HasSubstr("it has x-F16.gguf, x-Q2_K.gguf; choose one, as in hf:o/r:x-F16.gguf"));
}

TEST(FileSelectionTest, PartsGoTogether) {
  const auto all =
      Select({"m-00001-of-00003.gguf", "m-00003-of-00003.gguf", "m-00002-of-00003.gguf"});
  EXPECT_THAT(Paths(all), ElementsAre("m-00001-of-00003.gguf", "m-00002-of-00003.gguf",
                                      "m-00003-of-00003.gguf"));
  EXPECT_EQ(all->gguf, "m-00001-of-00003.gguf");
  EXPECT_EQ(all->weight_bytes, 14);
  EXPECT_TRUE(absl::IsNotFound(Select({"m-00001-of-00002.gguf"}).status()));
}

TEST(FileSelectionTest, SaysWhatIsMissing) {
  EXPECT_TRUE(absl::IsNotFound(Select({}).status()));
  EXPECT_THAT(Paths(Select({"pytorch_model.bin", "x.onnx"})),
              ElementsAre(HasSubstr("but *.bin, *.onnx")));
  EXPECT_THAT(Paths(Select({"model.safetensors"})), ElementsAre(HasSubstr("no config.json")));
  EXPECT_THAT(Paths(Select({"model.safetensors", "config.json", "vocab.json"})),
              ElementsAre(HasSubstr("neither tokenizer.json nor tokenizer.model")));
}

}  // namespace
}  // namespace kvasir
