#include "server/frontend/model_registry.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "runtime/engine/refusal.h"

namespace kvasir {
namespace {

// "alpha, beta", for messages.
std::string Names(const std::vector<ServedModel*>& models) {
  return absl::StrJoin(models, ", ", [](std::string* out, const ServedModel* model) {
    absl::StrAppend(out, model->name);
  });
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

absl::StatusOr<ServedModel*> ModelRegistry::Find(absl::string_view name,
                                                 const Caller& caller) const {
  if (!name.empty()) {
    const auto found = models_.find(name);
    if (found != models_.end() && caller.MayUse(name)) return found->second.get();
  }
  const std::vector<ServedModel*> served = AllOf(caller);
  if (served.empty())
    return RefusalError({.reason = RefusalReason::kUnknownModel}, "no model is served");
  if (name.empty()) {
    if (served.size() == 1) return served[0];
    return absl::InvalidArgumentError(
        absl::StrCat("the request names no model, but several are served; set model to one of: ",
                     Names(served)));
  }
  // The name comes from outside and has no length limit yet.
  constexpr size_t kShownBytes = 128;
  return RefusalError(
      {.reason = RefusalReason::kUnknownModel},
      absl::StrCat("unknown model '", name.substr(0, kShownBytes), "'; served: ", Names(served)));
}

std::vector<ServedModel*> ModelRegistry::AllOf(const Caller& caller) const {
  std::vector<ServedModel*> all = All();
  all.erase(std::remove_if(all.begin(), all.end(),
                           [&](const ServedModel* model) { return !caller.MayUse(model->name); }),
            all.end());
  return all;
}

std::vector<ServedModel*> ModelRegistry::All() const {
  std::vector<ServedModel*> all;
  all.reserve(models_.size());
  for (const auto& [name, model] : models_) all.push_back(model.get());
  return all;
}

}  // namespace kvasir
