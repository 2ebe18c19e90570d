#include "server/process/model_manager.h"

#include <pthread.h>

#include <algorithm>
#include <new>
#include <optional>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "base/steady_time.h"
#include "kvcache/spill/kv_spill.h"
#include "runtime/engine/refusal.h"
#include "server/config/added_model.h"
#include "server/config/model_path.h"
#include "server/process/hub_models.h"
#include "server/process/model_loading.h"
#include "server/process/startup_checks.h"
#include "server/telemetry/heap_trimmer.h"
#include "server/telemetry/logging.h"

namespace kvasir {
namespace {

// How often an unload looks whether its engine is done. Engines announce idleness to nobody.
constexpr absl::Duration kIdlePoll = absl::Milliseconds(10);

absl::Status Unwanted(const std::string& name) {
  return absl::CancelledError(
      absl::StrCat("model '", name, "' was unloaded before it had been loaded"));
}

// Sessions whose K/V are somewhere.
int64_t SessionsWithKv(const EngineStats& stats) {
  return stats.sessions_busy + stats.sessions_idle + stats.sessions_spilled +
         stats.sessions_restoring;
}

}  // namespace

ModelManager::ModelManager(DaemonConfig checked, config::v1::Config running, Metrics* metrics,
                           ModelRegistry* registry)
    : metrics_(metrics),
      registry_(registry),
      checked_(std::move(checked)),
      running_(std::move(running)),
      policies_(PoliciesOf(checked_.tenants, checked_.authentication)),
      load_thread_([this] { LoadLoop(); }) {
  try {
    unload_thread_ = std::thread([this] { UnloadLoop(); });
  } catch (const std::system_error&) {
    Stop();  // the other one
    throw;
  }
  pthread_setname_np(load_thread_.native_handle(), "model_load");
  pthread_setname_np(unload_thread_.native_handle(), "model_unload");
}

ModelManager::~ModelManager() { Stop(); }

absl::Status ModelManager::Load(const LoadOrder& order, Loaded done) {
  config::v1::Config running;
  {
    absl::MutexLock lock(&mutex_);
    running = running_;
  }
  KVASIR_ASSIGN_OR_RETURN(ModelConfig model,
                          CheckAddedModel(running, order.name, order.path, order.options));
  return LoadChecked(std::move(model), std::move(done));
}

absl::Status ModelManager::LoadChecked(ModelConfig model, Loaded done) {
  absl::MutexLock lock(&mutex_);
  if (draining_) return DrainingError();
  if (loads_.size() >= kMaxPendingLoads) {
    return absl::ResourceExhaustedError(absl::StrCat(
        loads_.size(), " models wait to be loaded, the limit; try again when one is ready"));
  }
  KVASIR_RETURN_IF_ERROR(registry_->BeginLoad(model.name));
  auto job = std::make_shared<LoadJob>();
  job->model = std::move(model);
  job->done = std::move(done);
  loads_.push_back(std::move(job));
  return absl::OkStatus();
}

std::shared_ptr<ModelManager::LoadJob> ModelManager::FindLoad(const std::string& name) const {
  if (loading_ != nullptr && loading_->model.name == name) return loading_;
  for (const auto& job : loads_) {
    if (job->model.name == name) return job;
  }
  return nullptr;
}

absl::Status ModelManager::Unload(const std::string& name, std::optional<absl::Duration> timeout,
                                  Unloaded done) {
  UnloadReport nothing;
  {
    absl::MutexLock lock(&mutex_);
    if (draining_) return DrainingError();
    KVASIR_ASSIGN_OR_RETURN(ModelEntry entry, registry_->BeginUnload(name));
    if (entry.state == ModelState::kLoading) {
      const std::shared_ptr<LoadJob> job = FindLoad(name);
      job->unloaded = std::move(done);
      job->cancelled = true;  // the load thread does the rest
      return absl::OkStatus();
    }
    if (entry.state == ModelState::kReady) {
      UnloadJob job;
      job.name = name;
      job.served = std::move(entry.served);
      job.began = SteadyNow();
      job.deadline = job.began + timeout.value_or(checked_.drain_timeout);
      job.done = std::move(done);
      LogInfo(
          "unloading model",
          {{"model", name}, {"timeout_seconds", absl::ToDoubleSeconds(job.deadline - job.began)}});
      serving_(name, false);
      job.served->engine->StartDrain();
      unloads_.push_back(std::move(job));
      ++unloads_under_way_;
      return absl::OkStatus();
    }
    registry_->Forget(name);  // it had failed to load
  }
  done(nothing);
  return absl::OkStatus();
}

void ModelManager::Announce(Serving serving) {
  absl::MutexLock lock(&mutex_);
  serving_ = std::move(serving);
  for (const ServedModelRef& model : registry_->All()) serving_(model->name, !model->unloading);
}

void ModelManager::Reconfigure(DaemonConfig checked, config::v1::Config running) {
  absl::MutexLock lock(&mutex_);
  checked_ = std::move(checked);
  running_ = std::move(running);
  policies_ = PoliciesOf(checked_.tenants, checked_.authentication);
  for (const ServedModelRef& model : registry_->All()) model->engine->UpdateTenants(policies_);
}

void ModelManager::StartDrain() {
  absl::MutexLock lock(&mutex_);
  draining_ = true;
  if (loading_ != nullptr) loading_->cancelled = true;
  for (const auto& job : loads_) job->cancelled = true;
}

void ModelManager::Stop() {
  StartDrain();
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  if (load_thread_.joinable()) load_thread_.join();
  if (unload_thread_.joinable()) unload_thread_.join();
}

// --- loading ---

void ModelManager::LoadLoop() {
  while (true) {
    std::shared_ptr<LoadJob> job;
    {
      absl::MutexLock lock(&mutex_, absl::Condition(this, &ModelManager::HasLoad));
      if (loads_.empty()) return;  // stopping, and all that was accepted has been ended
      job = loads_.front();
      loads_.pop_front();
      loading_ = job;
    }
    RunLoad(job.get());
  }
}

void ModelManager::RunLoad(LoadJob* job) {
  absl::StatusOr<std::unique_ptr<ServedModel>> loaded = absl::UnknownError("");
  // What a load takes is planned for, but the system may have given it to others meanwhile.
  std::optional<FreeingScope> freeing(std::in_place);  // one that fails frees what it had
  try {
    loaded = LoadModel(job);
  } catch (const std::bad_alloc&) {
    loaded = absl::ResourceExhaustedError(
        absl::StrCat("model '", job->model.name, "': the system gives no memory to load it"));
  } catch (const std::system_error& error) {
    loaded = absl::UnavailableError(absl::StrCat(
        "model '", job->model.name, "': the system gives no thread to load it: ", error.what(),
        "; raise the limit of processes"));
  }
  freeing.reset();
  if (!loaded.ok() && !absl::StrContains(loaded.status().message(), job->model.name)) {
    loaded = absl::Status(loaded.status().code(), absl::StrCat("model '", job->model.name,
                                                               "': ", loaded.status().message()));
  }
  EndLoad(job, std::move(loaded));
}

absl::StatusOr<std::unique_ptr<ServedModel>> ModelManager::LoadModel(LoadJob* job) {
  const std::string& name = job->model.name;
  const auto report = [&](double share, const std::string& what) {
    registry_->ReportLoad(name, share, what);
    return !job->cancelled.load();
  };
  DaemonConfig config;
  config.models = {job->model};
  {
    absl::MutexLock lock(&mutex_);
    config.models[0].engine.tenants = policies_;
  }
  if (!report(0, "looks for its files")) return Unwanted(name);
  KVASIR_RETURN_IF_ERROR(PullHubModels(
      &config, [&](const std::string& status) { report(0, status); }, &job->cancelled));
  const ModelConfig& model = config.models[0];
  if (!report(0, "checks its files")) return Unwanted(name);
  KVASIR_ASSIGN_OR_RETURN(const ModelOutline outline, CheckModelFiles(model));
  KVASIR_RETURN_IF_ERROR(AwaitRoom(model, outline.spec, outline.weight_bytes, job));
  return LoadBesideOthers(
      model, registry_->HeldBytes(),
      [&](double share) { return report(share, "reads its weights"); }, metrics_);
}

absl::Status ModelManager::CheckRoom(const ModelConfig& model, const ModelSpec& spec,
                                     int64_t weight_bytes) const {
  const std::string& folder = model.engine.spill_directory;
  if (!folder.empty()) {
    for (const ServedModelRef& other : registry_->All()) {
      const std::string& others = other->engine->config().spill_directory;
      if (others.empty() || NormalFolder(others) != NormalFolder(folder)) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          "model '", model.name, "': sessions.spill_directory is '", folder, "', which model '",
          other->name, "' uses already; give each model its own folder"));
    }
    KVASIR_RETURN_IF_ERROR(KvSpill::CheckDirectory(folder, model.engine.share_spill_directory));
  }
  return PlanPoolsOf({model}, {&spec}, weight_bytes + registry_->HeldBytes()).status();
}

absl::Status ModelManager::AwaitRoom(const ModelConfig& model, const ModelSpec& spec,
                                     int64_t weight_bytes, LoadJob* job) {
  while (true) {
    int64_t done_before = 0;
    bool under_way = false;
    {
      absl::MutexLock lock(&mutex_);
      done_before = unloads_done_;
      under_way = unloads_under_way_ > 0;
    }
    const absl::Status room = CheckRoom(model, spec, weight_bytes);
    if (room.ok() || !under_way) return room;
    registry_->ReportLoad(model.name, 0, "waits for a model that is being unloaded");
    absl::MutexLock lock(&mutex_);
    const auto changed = [&]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
      return unloads_done_ != done_before || job->cancelled.load();
    };
    mutex_.Await(absl::Condition(&changed));
    if (job->cancelled.load()) return Unwanted(model.name);
  }
}

void ModelManager::EndLoad(LoadJob* job, absl::StatusOr<std::unique_ptr<ServedModel>> loaded) {
  const std::string& name = job->model.name;
  // An error of the system that has no code of its own (EIO): whoever asked may know it.
  if (absl::IsUnknown(loaded.status())) loaded = absl::UnavailableError(loaded.status().message());
  {
    absl::MutexLock lock(&mutex_);
    loading_ = nullptr;
    if (loaded.ok() && !job->cancelled.load()) {
      (*loaded)->engine->UpdateTenants(policies_);
      registry_->FinishLoad(*std::move(loaded));
      serving_(name, true);
      loaded = std::unique_ptr<ServedModel>();
    } else if (loaded.ok()) {
      // It came too late; what follows may take time.
    } else if (!job->cancelled.load()) {
      registry_->FailLoad(name, loaded.status().message());
    }
  }
  if (!job->cancelled.load()) {
    if (loaded.ok()) {
      metrics_->OnModelLoad("ready");
      LogInfo("model is ready", {{"model", name}});
    } else {
      metrics_->OnModelLoad("failed");
      LogError("model could not be loaded",
               {{"model", name}, {"reason", std::string(loaded.status().message())}});
    }
    return job->done(loaded.status());
  }
  metrics_->RemoveModel(name);
  {
    FreeingScope freeing;
    loaded = Unwanted(name);
  }
  Unloaded unloaded;
  {
    absl::MutexLock lock(&mutex_);
    registry_->Forget(name);
    unloaded = std::move(job->unloaded);
  }
  metrics_->OnModelLoad("cancelled");
  LogInfo("load ended before the model was ready", {{"model", name}});
  job->done(unloaded ? loaded.status() : DrainingError());
  if (unloaded) unloaded(UnloadReport());
}

// --- unloading ---

void ModelManager::UnloadLoop() {
  while (true) {
    std::optional<UnloadJob> job;
    {
      absl::MutexLock lock(&mutex_, absl::Condition(this, &ModelManager::HasUnload));
      if (unloads_.empty()) return;  // stopping, and all that was accepted is done
      job = TakeUnload();
    }
    if (!job) {
      absl::SleepFor(kIdlePoll);
      continue;
    }
    const Unloaded done = std::move(job->done);
    const UnloadReport report = RunUnload(*std::move(job));
    {
      absl::MutexLock lock(&mutex_);
      --unloads_under_way_;
      ++unloads_done_;
    }
    done(report);
  }
}

std::optional<ModelManager::UnloadJob> ModelManager::TakeUnload() {
  const absl::Time now = SteadyNow();
  const auto ripe =
      std::find_if(unloads_.begin(), unloads_.end(),
                   [&](const UnloadJob& job) ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
                     return stopping_ || now >= job.deadline || job.served->engine->idle();
                   });
  if (ripe == unloads_.end()) return std::nullopt;
  UnloadJob job = std::move(*ripe);
  unloads_.erase(ripe);
  return job;
}

UnloadReport ModelManager::RunUnload(UnloadJob job) {
  UnloadReport report;
  {
    Engine& engine = *job.served->engine;
    const EngineStats before = engine.stats();
    int requests = 0;
    if (!engine.idle()) engine.ListRequests(TenantScope(), 0, &requests);
    report.requests_aborted = requests;
    engine.Shutdown(absl::StrCat("model '", job.name, "' is being unloaded"));
    const EngineStats after = engine.stats();
    report.sessions_kept = after.sessions_spilled;
    report.sessions_lost = std::max<int64_t>(
        0, std::max(SessionsWithKv(before), SessionsWithKv(after)) - report.sessions_kept);
  }
  job.served = nullptr;
  std::unique_ptr<ServedModel> model = registry_->Retire(job.name);
  metrics_->RemoveModel(job.name);
  {
    FreeingScope freeing;
    model = nullptr;
  }
  {
    absl::MutexLock lock(&mutex_);
    registry_->Forget(job.name);
  }
  report.took = SteadyNow() - job.began;
  if (report.sessions_lost > 0) {
    LogWarning(
        "sessions of the model are not on the disk; their next turns compute them again, if "
        "clients send their history",
        {{"model", job.name}, {"sessions", report.sessions_lost}});
  }
  LogInfo("unloaded model", {{"model", job.name},
                             {"requests_aborted", report.requests_aborted},
                             {"sessions_kept", report.sessions_kept},
                             {"sessions_lost", report.sessions_lost},
                             {"seconds", absl::ToDoubleSeconds(report.took)}});
  return report;
}

}  // namespace kvasir
