#include "server/model_registry.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace kvasir {
namespace {

// "alpha, beta", for messages.
std::string Names(const std::map<std::string, std::unique_ptr<ServedModel>, std::less<>>& models) {
  return absl::StrJoin(
      models, ", ", [](std::string* out, const auto& entry) { absl::StrAppend(out, entry.first); });
}

}  // namespace

absl::Status ModelRegistry::Add(std::unique_ptr<ServedModel> model) {
  std::string name = model->name;
  if (!models_.try_emplace(name, std::move(model)).second) {
    return absl::AlreadyExistsError(absl::StrCat(
        "two models are named '", name, "'; give each model of the configuration its own name"));
  }
  return absl::OkStatus();
}

absl::StatusOr<ServedModel*> ModelRegistry::Find(absl::string_view name) const {
  if (models_.empty()) return absl::NotFoundError("no model is served");
  if (name.empty()) {
    if (models_.size() == 1) return models_.begin()->second.get();
    return absl::InvalidArgumentError(
        absl::StrCat("the request names no model, but several are served; set model to one of: ",
                     Names(models_)));
  }
  const auto found = models_.find(std::string(name));
  if (found == models_.end()) {
    // The name comes from outside and has no length limit yet.
    constexpr size_t kShownBytes = 128;
    return absl::NotFoundError(absl::StrCat("unknown model '", name.substr(0, kShownBytes),
                                            "'; served: ", Names(models_)));
  }
  return found->second.get();
}

std::vector<ServedModel*> ModelRegistry::All() const {
  std::vector<ServedModel*> all;
  all.reserve(models_.size());
  for (const auto& [name, model] : models_) all.push_back(model.get());
  return all;
}

}  // namespace kvasir
