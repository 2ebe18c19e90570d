#include "server/frontend/model_registry.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "base/check.h"
#include "runtime/engine/refusal.h"

namespace kvasir {
namespace {

// A name comes from outside and has no length limit yet.
absl::string_view ShownName(absl::string_view name) { return name.substr(0, 128); }

absl::Status LoadingError(absl::string_view name, double progress) {
  return RefusalError(
      {.reason = RefusalReason::kModelLoading, .retry_after = absl::Seconds(2)},
      absl::StrCat("model '", ShownName(name), "' is being loaded (",
                   absl::StrFormat("%.0f%%", 100 * progress), " of its weights); try again later"));
}

}  // namespace

absl::Status UnloadingError(absl::string_view name) {
  return RefusalError({.reason = RefusalReason::kModelUnloading},
                      absl::StrCat("model '", ShownName(name),
                                   "' is being unloaded and takes no new requests; try another "
                                   "replica or model"));
}

class ModelRegistry::Holder {
 public:
  explicit Holder(std::unique_ptr<ServedModel> model) : model_(std::move(model)) {}

  // The one reference that all readers' are copies of.
  static ServedModelRef Share(const std::shared_ptr<Holder>& holder) {
    return ServedModelRef(holder->model_.get(),
                          [holder](ServedModel*) { holder->unread_.Notify(); });
  }

  // After the registry has let go of its own copy.
  std::unique_ptr<ServedModel> Take() {
    unread_.WaitForNotification();
    return std::move(model_);
  }

 private:
  std::unique_ptr<ServedModel> model_;
  absl::Notification unread_;
};

void ModelRegistry::Hold(std::unique_ptr<ServedModel> model, Entry* entry) {
  entry->state = ModelState::kReady;
  entry->held_bytes = model->held_bytes;
  entry->holder = std::make_shared<Holder>(std::move(model));
  entry->served = Holder::Share(entry->holder);
}

ModelEntry ModelRegistry::Shown(const std::string& name, const Entry& entry) {
  return {.name = name,
          .state = entry.state,
          .served = entry.served,
          .load_progress = entry.load_progress,
          .detail = entry.detail,
          .error = entry.error};
}

std::vector<std::string> ModelRegistry::ReadyNames(const Caller& caller) const {
  std::vector<std::string> names;
  for (const auto& [name, entry] : models_) {
    if (entry.state == ModelState::kReady && caller.MayUse(name)) names.push_back(name);
  }
  return names;
}

absl::StatusOr<ServedModelRef> ModelRegistry::Find(absl::string_view name,
                                                   const Caller& caller) const {
  absl::ReaderMutexLock lock(&mutex_);
  if (name.empty()) {
    const std::vector<std::string> ready = ReadyNames(caller);
    if (ready.size() == 1) return models_.find(ready[0])->second.served;
  } else if (const auto found = models_.find(name); found != models_.end() &&
                                                    found->second.state == ModelState::kReady &&
                                                    caller.MayUse(found->first)) {
    return found->second.served;
  }
  return NotReady(name, caller);
}

absl::Status ModelRegistry::NotReady(absl::string_view name, const Caller& caller) const {
  const std::vector<std::string> ready = ReadyNames(caller);
  if (name.empty() && ready.size() > 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("the request names no model, but several are served; set model to one of: ",
                     absl::StrJoin(ready, ", ")));
  }
  for (const auto& [each, entry] : models_) {
    if ((!name.empty() && each != name) || !caller.MayUse(each)) continue;
    if (entry.state == ModelState::kLoading) return LoadingError(each, entry.load_progress);
    if (entry.state == ModelState::kUnloading) return UnloadingError(each);
  }
  const Refusal unknown = {.reason = RefusalReason::kUnknownModel};
  if (ready.empty()) return RefusalError(unknown, "no model is served");
  return RefusalError(unknown, absl::StrCat("unknown model '", ShownName(name),
                                            "'; served: ", absl::StrJoin(ready, ", ")));
}

std::vector<ServedModelRef> ModelRegistry::AllOf(const Caller& caller) const {
  std::vector<ServedModelRef> all = All();
  all.erase(
      std::remove_if(all.begin(), all.end(),
                     [&](const ServedModelRef& model) { return !caller.MayUse(model->name); }),
      all.end());
  return all;
}

std::vector<ServedModelRef> ModelRegistry::All() const {
  absl::ReaderMutexLock lock(&mutex_);
  std::vector<ServedModelRef> all;
  for (const auto& [name, entry] : models_) {
    if (entry.served != nullptr) all.push_back(entry.served);
  }
  return all;
}

std::vector<ModelEntry> ModelRegistry::Entries(const Caller& caller) const {
  absl::ReaderMutexLock lock(&mutex_);
  std::vector<ModelEntry> entries;
  for (const auto& [name, entry] : models_) {
    if (!caller.MayUse(name)) continue;
    if (entry.state == ModelState::kFailed && !caller.admin()) continue;
    entries.push_back(Shown(name, entry));
  }
  return entries;
}

absl::StatusOr<ModelEntry> ModelRegistry::Describe(absl::string_view name,
                                                   const Caller& caller) const {
  absl::ReaderMutexLock lock(&mutex_);
  const std::vector<std::string> ready = ReadyNames(caller);
  const auto found =
      models_.find(name.empty() && ready.size() == 1 ? absl::string_view(ready[0]) : name);
  if (found == models_.end() || !caller.MayUse(found->first) ||
      (found->second.state == ModelState::kFailed && !caller.admin())) {
    return NotReady(name, caller);
  }
  return Shown(found->first, found->second);
}

absl::Status ModelRegistry::Add(std::unique_ptr<ServedModel> model) {
  absl::MutexLock lock(&mutex_);
  const auto [place, is_new] = models_.try_emplace(model->name);
  if (!is_new) {
    return absl::AlreadyExistsError(
        absl::StrCat("two models are named '", model->name,
                     "'; give each model of the configuration its own name"));
  }
  Hold(std::move(model), &place->second);
  return absl::OkStatus();
}

absl::Status ModelRegistry::BeginLoad(const std::string& name) {
  absl::MutexLock lock(&mutex_);
  if (const auto found = models_.find(name); found != models_.end()) {
    switch (found->second.state) {
      case ModelState::kReady:
        return absl::AlreadyExistsError(absl::StrCat(
            "model '", name, "' is served already; unload it first, or choose another name"));
      case ModelState::kLoading:
        return absl::AlreadyExistsError(absl::StrCat("model '", name, "' is being loaded already"));
      case ModelState::kUnloading:
        return absl::FailedPreconditionError(
            absl::StrCat("model '", name,
                         "' is being unloaded; load it when that is done, or choose another "
                         "name"));
      case ModelState::kFailed:
        models_.erase(found);
    }
  }
  if (models_.size() >= kMaxModels) {
    return absl::ResourceExhaustedError(
        absl::StrCat("there are ", models_.size(), " models, the limit; unload one first"));
  }
  models_[name].detail = "waits for its turn";
  return absl::OkStatus();
}

void ModelRegistry::ReportLoad(const std::string& name, double progress,
                               const std::string& detail) {
  absl::MutexLock lock(&mutex_);
  Entry& entry = models_.at(name);
  entry.load_progress = progress;
  entry.detail = detail;
}

void ModelRegistry::FinishLoad(std::unique_ptr<ServedModel> model) {
  absl::MutexLock lock(&mutex_);
  Entry& entry = models_.at(model->name);
  KVASIR_CHECK(entry.state == ModelState::kLoading);
  entry = Entry();
  Hold(std::move(model), &entry);
}

void ModelRegistry::FailLoad(const std::string& name, absl::string_view why) {
  absl::MutexLock lock(&mutex_);
  Entry& entry = models_.at(name);
  entry = Entry();
  entry.state = ModelState::kFailed;
  entry.error = std::string(why);
  entry.failure = ++failures_;
  ForgetOldFailures();
}

void ModelRegistry::ForgetOldFailures() {
  auto oldest = models_.end();
  size_t failed = 0;
  for (auto each = models_.begin(); each != models_.end(); ++each) {
    if (each->second.state != ModelState::kFailed) continue;
    ++failed;
    if (oldest == models_.end() || each->second.failure < oldest->second.failure) oldest = each;
  }
  if (failed > kMaxFailed) models_.erase(oldest);
}

absl::StatusOr<ModelEntry> ModelRegistry::BeginUnload(const std::string& name) {
  absl::MutexLock lock(&mutex_);
  const auto found = models_.find(name);
  if (found == models_.end()) {
    return RefusalError({.reason = RefusalReason::kUnknownModel},
                        absl::StrCat("there is no model '", ShownName(name), "' to unload"));
  }
  const ModelEntry before = Shown(name, found->second);
  if (before.state == ModelState::kUnloading) {
    return absl::FailedPreconditionError(
        absl::StrCat("model '", name, "' is being unloaded already"));
  }
  found->second.state = ModelState::kUnloading;
  if (before.served != nullptr) before.served->unloading = true;
  return before;
}

std::unique_ptr<ServedModel> ModelRegistry::Retire(const std::string& name) {
  std::shared_ptr<Holder> holder;
  ServedModelRef own;
  {
    absl::MutexLock lock(&mutex_);
    Entry& entry = models_.at(name);
    holder = std::move(entry.holder);
    own = std::move(entry.served);
    entry.served = nullptr;
  }
  if (holder == nullptr) return nullptr;
  own = nullptr;
  return holder->Take();
}

void ModelRegistry::Forget(const std::string& name) {
  absl::MutexLock lock(&mutex_);
  models_.erase(name);
}

int64_t ModelRegistry::HeldBytes() const {
  absl::ReaderMutexLock lock(&mutex_);
  int64_t bytes = 0;
  for (const auto& [name, entry] : models_) bytes += entry.held_bytes;
  return bytes;
}

}  // namespace kvasir
