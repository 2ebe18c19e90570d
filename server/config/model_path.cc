#include "server/config/model_path.h"

#include <filesystem>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "hub/hub_reference.h"

namespace kvasir {

std::string DefaultModelName(const std::string& path) {
  if (IsHubReference(path)) {
    const absl::StatusOr<HubReference> reference = ParseHubReference(path);
    return reference.ok() ? reference->ModelName() : path;
  }
  // "dir/" has an empty last component.
  const std::filesystem::path folder = std::filesystem::path(path).lexically_normal();
  return (folder.has_filename() ? folder : folder.parent_path()).filename().string();
}

void CheckModelPath(const std::string& field, const std::string& path, ConfigChecker* check) {
  if (!IsHubReference(path)) return;
  const absl::StatusOr<HubReference> reference = ParseHubReference(path);
  if (!reference.ok()) check->Fault(field, absl::StrCat("is ", reference.status().message()));
}

std::string NormalFolder(const std::string& path) {
  std::string folder = std::filesystem::path(path).lexically_normal().string();
  if (folder.size() > 1 && folder.back() == '/') folder.pop_back();
  return folder;
}

}  // namespace kvasir
