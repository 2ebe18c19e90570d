// Where tests find model folders and held-out text. Header only.
//
// The nine golden models live in $KVASIR_MODELS, else in ../shared/models beside the checkout.
// Without them only the bundled model is tested, and every test that misses the others says so
// loudly (GTEST_SKIP).
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

namespace kvasir::testing {

// The checkout: tests run with it as working directory.
inline std::filesystem::path SourceRoot() { return std::filesystem::current_path(); }

inline const char* const kBundledModel = "tale-7m-gqa2";

inline std::filesystem::path ModelsRoot() {
  if (const char* path = std::getenv("KVASIR_MODELS")) return path;
  return SourceRoot() / "../shared/models";
}

// Folder of one model, or an empty path when it is not on this machine.
inline std::string ModelFolder(const std::string& name) {
  for (const auto& root : {ModelsRoot(), SourceRoot() / "deploy/models"}) {
    if (std::filesystem::exists(root / name / "model.safetensors")) return (root / name).string();
  }
  return "";
}

// Folder of the tiny checkpoint of one architecture, or an empty path: of all of them in
// $KVASIR_SHARED/arch, else in ../shared/arch beside the checkout; a few stand in the checkout.
inline std::string ArchitectureFolder(const std::string& name) {
  std::vector<std::filesystem::path> roots = {ModelsRoot() / "../arch",
                                              SourceRoot() / "../shared/arch",
                                              SourceRoot() / "tests/golden/arch"};
  if (const char* shared = std::getenv("KVASIR_SHARED")) {
    roots.insert(roots.begin(), std::filesystem::path(shared) / "arch");
  }
  for (const auto& root : roots) {
    if (std::filesystem::exists(root / name / "model.safetensors")) return (root / name).string();
  }
  return "";
}

inline std::vector<std::string> AllModelNames() {
  return {"tale-7m-mha",      "tale-7m-gqa4",  "tale-7m-gqa2",  "tale-7m-mqa",  "tale-7m-gqa2-cla2",
          "tale-7m-mqa-cla2", "tale-7m-mlkv4", "tale-7m-mlkv2", "tale-7m-mlkv1"};
}

inline std::string CorpusFile(const std::string& name) {
  const auto path = ModelsRoot() / "../corpus" / name;
  return std::filesystem::exists(path) ? path.string() : "";
}

}  // namespace kvasir::testing
