#include "server/config/added_model.h"

#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/quoted.h"
#include "base/status_macros.h"

namespace kvasir {
namespace {

std::set<std::string> NamesOf(const config::v1::Config& config) {
  std::set<std::string> names;
  for (const config::v1::ModelConfig& model : config.models()) names.insert(model.name());
  return names;
}

std::vector<std::string> NotIn(const std::set<std::string>& names,
                               const config::v1::Config& config) {
  std::vector<std::string> missing;
  for (const config::v1::ModelConfig& model : config.models()) {
    if (names.count(model.name()) == 0) missing.push_back(model.name());
  }
  return missing;
}

}  // namespace

absl::StatusOr<ModelConfig> CheckAddedModel(const config::v1::Config& running,
                                            const std::string& name, const std::string& path,
                                            const std::string& options) {
  if (name.empty()) {
    return absl::InvalidArgumentError("name is empty; give the model the name that requests use");
  }
  if (path.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "path of model ", Quoted(name), " is empty; give a folder, a .gguf file or hf:ORG/REPO"));
  }
  if (path.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("path of model ", Quoted(name), " has a zero byte"));
  }
  KVASIR_ASSIGN_OR_RETURN(ModelSource source, ParseModelOptions(options));
  if (!source.message.name().empty() || !source.message.path().empty()) {
    return absl::InvalidArgumentError(
        "options say name or path, which have fields of their own; remove them from options");
  }
  source.message.set_name(name);
  source.message.set_path(path);

  config::v1::Config config = running;
  config.clear_models();
  *config.add_models() = std::move(source.message);
  // Which models a tenant may use was checked against those of the configuration.
  for (config::v1::TenantConfig& tenant : *config.mutable_tenants()) tenant.clear_models();
  FillDefaults(&config);
  ConfigOrigins origins;
  for (const auto& [field, origin] : source.origins) {
    origins[absl::StrCat("models[0].", field)] = origin;
  }
  const absl::StatusOr<DaemonConfig> checked = Validate(config, origins);
  if (!checked.ok()) {
    return absl::Status(checked.status().code(),
                        absl::StrReplaceAll(checked.status().message(), {{"models[0].", ""}}));
  }
  return checked->models.front();
}

ModelChanges ChangesOfModels(const config::v1::Config& running, const config::v1::Config& wanted) {
  return {.added = NotIn(NamesOf(running), wanted), .removed = NotIn(NamesOf(wanted), running)};
}

}  // namespace kvasir
