// Has models come and go while others serve, by order of an operator (AdminService) or of a reload
// of the configuration.
//
// Two threads: one loads, one model at a time, the other unloads, all that are asked for at once.
// A model that is to be loaded passes the checks of the start: its configuration at once, then its
// files, its spill folder and the memory beside what the others hold. Where only models that are on
// their way out are in the way, it waits for them, so that one can take another's place. An unload
// refuses new requests, lets those that run finish for a while, ends the rest, has sessions
// spilled, and gives memory, threads, files, series of metrics and the health entry back.
//
// Thread safe. Owns nothing of the models: they are the registry's.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "server/config/server_config.h"
#include "server/frontend/model_control.h"
#include "server/frontend/model_registry.h"
#include "server/telemetry/metrics.h"

namespace kvasir {

class ModelManager final : public ModelControl {
 public:
  // Loads that may wait for their turn.
  static constexpr size_t kMaxPendingLoads = 16;

  // Told when a model begins and ends to take requests; must not wait, nor call back.
  using Serving = std::function<void(const std::string& model, bool serving)>;

  // `checked` is made from `running`. Registry and metrics outlive this. Models that are in the
  // registry already are taken as they are.
  ModelManager(DaemonConfig checked, config::v1::Config running, Metrics* metrics,
               ModelRegistry* registry);
  // As Stop.
  ~ModelManager() override;

  absl::Status Load(const LoadOrder& order, Loaded done) override;
  absl::Status Unload(const std::string& name, std::optional<absl::Duration> timeout,
                      Unloaded done) override;

  // A model whose configuration has been checked. The errors of Load but for that.
  absl::Status LoadChecked(ModelConfig model, Loaded done);

  // Tells `serving` of every model that takes requests, and of changes from then on.
  void Announce(Serving serving);

  // What a reload brought: tenants, for the models that are there and those that come, and the
  // configuration that models loaded later are checked with.
  void Reconfigure(DaemonConfig checked, config::v1::Config running);

  // From now on orders are refused with Unavailable; loads that wait or run are ended. Does not
  // wait.
  void StartDrain();
  // StartDrain, ends all unloads without further patience, and waits for all. Every `done` has been
  // called when this returns.
  void Stop();

 private:
  struct LoadJob {
    ModelConfig model;
    Loaded done;
    // Also by Unload: then `unloaded` is told when nothing is left of it.
    std::atomic<bool> cancelled{false};
    Unloaded unloaded;
  };
  struct UnloadJob {
    std::string name;
    ServedModelRef served;
    absl::Time began;
    absl::Time deadline;
    Unloaded done;
  };

  void LoadLoop();
  void RunLoad(LoadJob* job);
  absl::StatusOr<std::unique_ptr<ServedModel>> LoadModel(LoadJob* job);
  // Waits until memory and spill folder are free of models that go; the error when others have
  // them.
  absl::Status AwaitRoom(const ModelConfig& model, const ModelSpec& spec, int64_t weight_bytes,
                         LoadJob* job);
  absl::Status CheckRoom(const ModelConfig& model, const ModelSpec& spec,
                         int64_t weight_bytes) const;
  void EndLoad(LoadJob* job, absl::StatusOr<std::unique_ptr<ServedModel>> loaded);

  void UnloadLoop();
  // The first that need not wait any longer; none: nullopt.
  std::optional<UnloadJob> TakeUnload() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  UnloadReport RunUnload(UnloadJob job);

  std::shared_ptr<LoadJob> FindLoad(const std::string& name) const
      ABSL_SHARED_LOCKS_REQUIRED(mutex_);
  bool HasLoad() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return stopping_ || !loads_.empty(); }
  bool HasUnload() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return stopping_ || !unloads_.empty();
  }

  Metrics* const metrics_;
  ModelRegistry* const registry_;

  // Every step of a model's state is taken under it, but nothing that takes time.
  absl::Mutex mutex_;
  DaemonConfig checked_ ABSL_GUARDED_BY(mutex_);
  config::v1::Config running_ ABSL_GUARDED_BY(mutex_);
  TenantPolicies policies_ ABSL_GUARDED_BY(mutex_);
  Serving serving_ ABSL_GUARDED_BY(mutex_) = [](const std::string&, bool) {};
  std::deque<std::shared_ptr<LoadJob>> loads_ ABSL_GUARDED_BY(mutex_);  // without `loading_`
  std::shared_ptr<LoadJob> loading_ ABSL_GUARDED_BY(mutex_);
  std::vector<UnloadJob> unloads_ ABSL_GUARDED_BY(mutex_);  // those that still wait
  int unloads_under_way_ ABSL_GUARDED_BY(mutex_) = 0;       // these and those being ended
  int64_t unloads_done_ ABSL_GUARDED_BY(mutex_) = 0;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;

  std::thread load_thread_;  // these two last: they use all of the above
  std::thread unload_thread_;
};

}  // namespace kvasir
