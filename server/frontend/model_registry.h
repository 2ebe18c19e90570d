// The models of this daemon, by name: those that are served, and those that come and go. Owns them.
//
// Thread safe: the set changes while front ends read it. Readers get references that keep a model
// whole (served_model.h); a model that goes is first hidden from them, then waits until the last
// reference is gone, and is destroyed by who took it out, never by a reader.
//
//   BeginLoad -> kLoading -> FinishLoad -> kReady -> BeginUnload -> kUnloading -> Retire -> Forget
//                   '-> FailLoad -> kFailed -> Forget, or the next BeginLoad
//
// One thread at a time (process/model_manager) moves a model along that line.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "server/frontend/served_model.h"
#include "server/identity/caller.h"

namespace kvasir {

enum class ModelState { kLoading, kReady, kUnloading, kFailed };

// One model as lists show it.
struct ModelEntry {
  std::string name;
  ModelState state = ModelState::kReady;
  ServedModelRef served;     // null unless kReady or, until it is retired, kUnloading
  double load_progress = 0;  // of kLoading: share of the weights, 0 to 1
  std::string detail;        // of kLoading: what is being done
  std::string error;         // of kFailed: why
};

class ModelRegistry {
 public:
  // Models of all states together, and failed ones among them: beyond these the oldest failure is
  // forgotten.
  static constexpr size_t kMaxModels = 256;
  static constexpr size_t kMaxFailed = 32;

  // --- for readers ---

  // The model of that name; with an empty name the only one that is ready. A model that the caller
  // may not use does not exist for it. Refusals: NotFound, naming what is served to the caller;
  // Unavailable while it is loaded or unloaded; InvalidArgument when the name is empty and several
  // are served.
  absl::StatusOr<ServedModelRef> Find(absl::string_view name, const Caller& caller) const;

  // In order of name. Those with an engine, which an unloading model may still have: what the
  // caller may use, and all.
  std::vector<ServedModelRef> AllOf(const Caller& caller) const;
  std::vector<ServedModelRef> All() const;

  // In order of name, of every state; kFailed for admins alone.
  std::vector<ModelEntry> Entries(const Caller& caller) const;
  // The same of one. Refusals as those of Find.
  absl::StatusOr<ModelEntry> Describe(absl::string_view name, const Caller& caller) const;

  // --- for who loads and unloads ---

  // A model that is ready. AlreadyExists when the name is taken.
  absl::Status Add(std::unique_ptr<ServedModel> model);

  // AlreadyExists: served or being loaded; FailedPrecondition: being unloaded; ResourceExhausted:
  // kMaxModels.
  absl::Status BeginLoad(const std::string& name);
  void ReportLoad(const std::string& name, double progress, const std::string& detail);
  void FinishLoad(std::unique_ptr<ServedModel> model);
  void FailLoad(const std::string& name, absl::string_view why);

  // What an unload would begin with. NotFound; FailedPrecondition: it is under way already.
  absl::StatusOr<ModelEntry> BeginUnload(const std::string& name);
  // Hides the model and waits for its last reader; null when there is none. It stays listed as
  // unloading, and its bytes as held, until Forget.
  std::unique_ptr<ServedModel> Retire(const std::string& name);
  void Forget(const std::string& name);

  // Memory of all models that are not forgotten: ServedModel::held_bytes.
  int64_t HeldBytes() const;

 private:
  // Owns a model, and knows when nobody reads it any more.
  class Holder;

  struct Entry {
    ModelState state = ModelState::kLoading;
    std::shared_ptr<Holder> holder;  // with `served`
    ServedModelRef served;
    int64_t held_bytes = 0;
    double load_progress = 0;
    std::string detail;
    std::string error;
    uint64_t failure = 0;  // counts up, so that the oldest is known
  };

  static void Hold(std::unique_ptr<ServedModel> model, Entry* entry);
  static ModelEntry Shown(const std::string& name, const Entry& entry);
  std::vector<std::string> ReadyNames(const Caller& caller) const
      ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  // The refusal for a name that is not ready.
  absl::Status NotReady(absl::string_view name, const Caller& caller) const
      ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  void ForgetOldFailures() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable absl::Mutex mutex_;
  std::map<std::string, Entry, std::less<>> models_ ABSL_GUARDED_BY(mutex_);
  uint64_t failures_ ABSL_GUARDED_BY(mutex_) = 0;
};

// What a request is told of a model that is going: at the door, and where the engine found out
// first.
absl::Status UnloadingError(absl::string_view name);

}  // namespace kvasir
