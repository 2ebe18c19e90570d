#include "server/process/daemon.h"

#include <algorithm>
#include <cstdio>
#include <limits>
#include <new>
#include <string>
#include <utility>

#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "base/cpu_topology.h"
#include "base/status_macros.h"
#include "base/steady_time.h"
#include "base/thread_placement.h"
#include "runtime/engine/refusal.h"
#include "server/config/added_model.h"
#include "server/config/config_difference.h"
#include "server/frontend/service_environment.h"
#include "server/grpc/admin_service.h"
#include "server/grpc/generation_service.h"
#include "server/grpc/neighbours/engine_service.h"
#include "server/grpc/neighbours/kserve_service.h"
#include "server/grpc/neighbours/vllm_service.h"
#include "server/grpc/session_service.h"
#include "server/process/file_stamps.h"
#include "server/process/hub_models.h"
#include "server/process/kv_pool_plan.h"
#include "server/process/model_loading.h"
#include "server/process/startup_checks.h"
#include "server/telemetry/logging.h"

namespace kvasir {
namespace {

// Calls of the query worker that may wait. Each takes at most a step; an operator who asks more
// often than this is refused rather than queued for minutes.
constexpr size_t kMaxPendingQueries = 256;

// How often draining looks whether it is done. Engines announce idleness to nobody, and nobody
// notices 10 ms.
constexpr absl::Duration kDrainPoll = absl::Milliseconds(10);

// A file that a reload reads must have been left alone for this long: who writes it in place may be
// in the middle. Longer pauses of a writer are not seen: rotations should rename.
constexpr absl::Duration kQuiet = absl::Milliseconds(300);
constexpr int kReloadAttempts = 20;

// How long cancelled streams get to deliver their status to clients.
constexpr absl::Duration kFlushTime = absl::Seconds(2);

// How long calls that are no streams of ours (health watches, reflection) get to end.
constexpr absl::Duration kCallEndTime = absl::Milliseconds(100);

ExitCode Fail(ExitCode code, const absl::Status& status) {
  LogError("cannot start",
           {{"reason", std::string(status.message())}, {"exit_code", static_cast<int>(code)}});
  return code;
}

ExitCode ExitCodeOfEngineError(const absl::Status& status) {
  if (absl::IsResourceExhausted(status)) return ExitCode::kMemory;
  return absl::IsInvalidArgument(status) ? ExitCode::kBadConfig : ExitCode::kModelLoad;
}

}  // namespace

Daemon::Daemon(Configuration configuration, std::string config_file,
               std::shared_ptr<const TenantDirectory> tenants, ReadConfig read_config)
    : config_(std::move(configuration.checked)),
      running_(std::move(configuration.written)),
      config_file_(std::move(config_file)),
      read_config_(std::move(read_config)),
      authenticator_(config_.authentication, tenants),
      metrics_(tenants->Ids(), config_.vllm_metric_names),
      stream_writer_("stream_writer", std::numeric_limits<size_t>::max()),
      query_worker_("query_worker", kMaxPendingQueries),
      text_workers_(config_.text),
      notifier_(ServiceNotifier::TargetFromEnvironment()) {}

Daemon::~Daemon() {
  // It answers calls, so it ends while there is a server to send the answers.
  if (model_manager_ != nullptr) model_manager_->Stop();
}

ExitCode Daemon::Run() {
  // Before anything asks what the CPU can do.
  if (absl::Status status = LimitCpuTarget(config_.cpu_target); !status.ok()) {
    return Fail(ExitCode::kBadConfig, status);
  }
  // Minutes of loading must not end in a port that is taken.
  if (const ExitCode code = Check(config_); code != ExitCode::kClean) return code;
  if (const ExitCode code = Pull(); code != ExitCode::kClean) return code;
  if (const ExitCode code = Load(); code != ExitCode::kClean) return code;
  if (const ExitCode code = Listen(); code != ExitCode::kClean) return code;
  while (AwaitRequest()) Reload();
  return Drain();
}

bool Daemon::AwaitRequest() {
  absl::MutexLock lock(&mutex_);
  const auto requested = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return drain_requested_ || reload_requested_;
  };
  mutex_.Await(absl::Condition(&requested));
  reload_requested_ = false;
  return !drain_requested_;
}

void Daemon::RequestReload() {
  absl::MutexLock lock(&mutex_);
  reload_requested_ = true;
}

void Daemon::Reload() {
  const auto keep = [this](absl::string_view reason) {
    metrics_.OnReload("configuration", false);
    LogError("reload failed; tenants and models stay as they were",
             {{"reason", std::string(reason)}});
  };
  std::vector<std::string> files;
  if (!config_file_.empty()) files.push_back(config_file_);
  for (const TenantConfig& tenant : config_.tenants) {
    if (!tenant.key_file.empty()) files.push_back(tenant.key_file);
  }
  absl::StatusOr<Reloaded> reloaded = absl::UnknownError("");
  for (int attempt = 0;; ++attempt) {
    const std::vector<std::string> looked_at = files;
    const FileStamps before(looked_at);
    try {
      reloaded = ReadAgain(&files);
    } catch (const std::bad_alloc&) {  // files are as large as somebody made them
      reloaded = absl::ResourceExhaustedError("the system gives no memory to read the files");
    }
    // Half of a file may be a whole one with fewer tenants, or none at all.
    if (looked_at == files && FileStamps(files) == before &&
        !before.ChangedWithin(kQuiet, absl::Now())) {
      break;
    }
    if (attempt == kReloadAttempts) return keep("the files are still being written");
    if (looked_at == files) Pause(kQuiet);
  }
  if (!reloaded.ok()) return keep(reloaded.status().message());
  const DaemonConfig* const config = &reloaded->configuration.checked;
  if (config->tenants.empty() != config_.tenants.empty()) {
    // Half of a file must not open the daemon to everyone, and the pool is scrubbed from the start
    // or not at all.
    return keep("a reload cannot change between having tenants and having none; restart for that");
  }
  const std::vector<std::string> changed =
      FieldsThatNeedARestart(running_, reloaded->configuration.written);
  if (!changed.empty()) {
    LogWarning(
        "fields changed that a reload does not take; restart for them, or unload and load the "
        "model "
        "that they belong to",
        {{"fields", absl::StrJoin(changed, ", ")}});
  }
  const std::shared_ptr<const TenantDirectory> tenants = reloaded->tenants;
  const TenantPolicies policies = PoliciesOf(config->tenants, config->authentication);
  metrics_.AddTenants(tenants->Ids());
  metrics_.SetQuotas(policies);
  *running_.mutable_tenants() = reloaded->configuration.written.tenants();
  *running_.mutable_server()->mutable_authentication() =
      reloaded->configuration.written.server().authentication();
  model_manager_->Reconfigure(*config, running_);
  authenticator_.Replace(config->authentication, tenants);
  metrics_.OnReload("configuration", true);
  LogInfo("reloaded tenants", {{"tenants", static_cast<int64_t>(tenants->tenants().size())}});
  ReloadModels(reloaded->configuration);
}

void Daemon::ReloadModels(const Configuration& wanted) {
  auto* const running = running_.mutable_models();
  const auto remove = [running](const std::string& name) {
    running->erase(std::remove_if(running->begin(), running->end(),
                                  [&](const auto& model) { return model.name() == name; }),
                   running->end());
  };
  std::set<std::string> failed;
  {
    absl::MutexLock lock(&mutex_);
    failed.swap(failed_models_);
  }
  for (const std::string& name : failed) remove(name);

  const ModelChanges changes = ChangesOfModels(running_, wanted.written);
  for (const std::string& name : changes.removed) {
    remove(name);
    const absl::Status status =
        model_manager_->Unload(name, std::nullopt, [](const absl::StatusOr<UnloadReport>&) {});
    if (!status.ok()) {
      LogWarning("model that the configuration names no more was not unloaded",
                 {{"model", name}, {"reason", std::string(status.message())}});
    }
  }
  for (const std::string& name : changes.added) {
    for (int i = 0; i < wanted.written.models_size(); ++i) {
      if (wanted.written.models(i).name() != name) continue;
      *running->Add() = wanted.written.models(i);
      LoadConfigured(wanted.checked.models[static_cast<size_t>(i)]);
    }
  }
}

void Daemon::LoadConfigured(const ModelConfig& model) {
  const std::string& name = model.name;
  const auto failed = [this, name] {
    absl::MutexLock lock(&mutex_);
    failed_models_.insert(name);
  };
  const absl::Status status =
      model_manager_->LoadChecked(model, [failed](const absl::Status& loaded) {
        // Who unloads it meanwhile wants it no more.
        if (!loaded.ok() && !absl::IsCancelled(loaded)) failed();
      });
  if (status.ok()) return LogInfo("the configuration names one more model", {{"model", name}});
  LogWarning("model that came into the configuration is not loaded",
             {{"model", name}, {"reason", std::string(status.message())}});
  if (!absl::IsAlreadyExists(status)) failed();
}

absl::StatusOr<Daemon::Reloaded> Daemon::ReadAgain(std::vector<std::string>* files) const {
  KVASIR_ASSIGN_OR_RETURN(Configuration configuration, read_config_());
  files->clear();
  if (!config_file_.empty()) files->push_back(config_file_);
  for (const TenantConfig& tenant : configuration.checked.tenants) {
    if (!tenant.key_file.empty()) files->push_back(tenant.key_file);
  }
  KVASIR_ASSIGN_OR_RETURN(std::shared_ptr<const TenantDirectory> tenants,
                          TenantDirectory::Load(configuration.checked.tenants));
  return Reloaded{std::move(configuration), std::move(tenants)};
}

bool Daemon::StopRequested() const {
  absl::MutexLock lock(&mutex_);
  return stop_requested_;
}

void Daemon::Pause(absl::Duration pause) {
  WaitUntil([] { return false; }, SteadyNow() + pause, /*ignore_stop=*/false);
}

void Daemon::RequestDrain() {
  absl::MutexLock lock(&mutex_);
  drain_requested_ = true;
}

void Daemon::RequestStop() {
  absl::MutexLock lock(&mutex_);
  drain_requested_ = true;
  stop_requested_ = true;
}

ExitCode Daemon::Check(const DaemonConfig& config) {
  const std::vector<StartupFault> faults = CheckSurroundings(config);
  for (const StartupFault& fault : faults) Fail(fault.code, absl::UnknownError(fault.message));
  return faults.empty() ? ExitCode::kClean : faults.front().code;
}

ExitCode Daemon::Pull() {
  local_ = config_;
  if (!NamesHubModels(local_)) return ExitCode::kClean;
  const auto moving = [this](const std::string& status) { notifier_.Starting(status); };
  if (absl::Status status = PullHubModels(&local_, moving); !status.ok()) {
    return Fail(absl::IsUnavailable(status) ? ExitCode::kHubAway : ExitCode::kModelLoad, status);
  }
  return Check(local_);  // what is in them now
}

ExitCode Daemon::Load() {
  metrics_.SetQuotas(PoliciesOf(config_.tenants, config_.authentication));
  const ThreadPlan machine = PlanThreads();
  LogInfo("computing with", {{"threads", config_.threads},
                             {"cores", machine.cores},
                             {"memory_nodes", static_cast<int>(machine.nodes.size())},
                             {"instructions", DescribeCpuTarget()}});
  absl::StatusOr<ServedModels> models = LoadCheckpoints(local_);
  if (!models.ok()) return Fail(ExitCode::kModelLoad, models.status());
  std::vector<ModelConfig> configs = local_.models;
  if (absl::Status status = SizeKvPools(*models, &configs); !status.ok()) {
    return Fail(ExitCodeOfEngineError(status), status);
  }
  if (absl::Status status = StartEngines(configs, *std::move(models), &metrics_, &models_);
      !status.ok()) {
    return Fail(ExitCodeOfEngineError(status), status);
  }
  return ExitCode::kClean;
}

ExitCode Daemon::Listen() {
  ServiceEnvironment environment;
  model_manager_ = std::make_unique<ModelManager>(local_, running_, &metrics_, &models_);
  environment.models = &models_;
  environment.model_control = model_manager_.get();
  environment.authenticator = &authenticator_;
  environment.observer = &call_log_;
  environment.draining = &draining_;
  environment.stream_writer = &stream_writer_;
  environment.query_worker = &query_worker_;
  environment.text_workers = &text_workers_;
  std::vector<NamedService> services;
  const auto serve = [&](const char* name, std::unique_ptr<grpc::Service> service) {
    services.push_back({service.get(), name});
    services_.push_back(std::move(service));
  };
  serve(v1::GenerationService::service_full_name(),
        std::make_unique<GenerationService>(environment));
  serve(v1::SessionService::service_full_name(), std::make_unique<SessionService>(environment));
  serve(v1::AdminService::service_full_name(),
        std::make_unique<AdminService>(environment, KVASIR_VERSION, [this] { RequestDrain(); }));
  serve(::vllm::Inference::service_full_name(),
        std::make_unique<VllmInferenceService>(environment));
  serve(::vllm::Control::service_full_name(),
        std::make_unique<VllmControlService>(environment, KVASIR_VERSION));
  serve(VllmEngineBase::service_full_name(),
        std::make_unique<VllmEngineService>(environment, KVASIR_VERSION));
  serve(KserveBase::service_full_name(),
        std::make_unique<KserveService>(environment, KVASIR_VERSION));

  // Metrics first: whoever finds gRPC open finds them as well.
  if (config_.metrics_listen.has_value()) {
    absl::StatusOr<std::unique_ptr<MetricsEndpoint>> endpoint = MetricsEndpoint::Start(
        *config_.metrics_listen,
        {[this] { return metrics_.Exposition(); }, [this] { return healthy_.load(); }}, &call_log_);
    if (!endpoint.ok()) return Fail(ExitCode::kListen, endpoint.status());
    metrics_endpoint_ = *std::move(endpoint);
  }
  if (absl::Status status = ListenForHttp(environment); !status.ok()) {
    return Fail(ExitCode::kListen, status);
  }
  absl::StatusOr<std::unique_ptr<GrpcServer>> server = GrpcServer::Start(
      config_, services, KvHeadroomBytes(static_cast<int64_t>(UsableMemoryBytes())), &call_log_);
  if (!server.ok()) return Fail(ExitCode::kListen, server.status());
  grpc_server_ = *std::move(server);
  model_manager_->Announce([this](const std::string& model, bool serving) {
    grpc_server_->SetModelServing(model, serving);
  });
  healthy_ = true;
  listening_ = true;

  if (config_.authentication.allow_anonymous &&
      (!config_.tenants.empty() || !config_.listen.IsLocal() ||
       (config_.http_listen && !config_.http_listen->IsLocal()))) {
    LogWarning("calls without a credential are accepted",
               {{"listen", grpc_server_->address().ToString()},
                {"remedy", "configure tenants, or server.authentication.anonymous: refuse"}});
  }
  const std::string grpc_address = grpc_server_->address().ToString();
  const std::string metrics_address =
      metrics_endpoint_ == nullptr ? "off" : metrics_endpoint_->address().ToString();
  const std::string http_address =
      http_server_ == nullptr ? "off" : http_server_->address().ToString();
  LogInfo("listening", {{"grpc", grpc_address},
                        {"metrics", metrics_address},
                        {"http", http_address},
                        {"version", KVASIR_VERSION}});
  std::printf("listening grpc=%s metrics=%s http=%s\n", grpc_address.c_str(),
              metrics_address.c_str(), http_address.c_str());
  std::fflush(stdout);
  notifier_.Ready("serving", [this] { AwaitProgress(); });
  return ExitCode::kClean;
}

absl::Status Daemon::ListenForHttp(const ServiceEnvironment& environment) {
  if (!config_.http_listen) return absl::OkStatus();
  openai_service_ = std::make_unique<OpenAiService>(
      environment, OpenAiPages{.metrics = [this] { return metrics_.Exposition(); },
                               .healthy = [this] { return healthy_.load(); },
                               .version = KVASIR_VERSION,
                               .cors_origins = config_.http_cors_origins});
  page_service_ = std::make_unique<PageService>(environment, KVASIR_VERSION, openai_service_.get());
  HttpLimits limits;
  limits.max_connections = config_.http_max_connections;
  limits.max_header_bytes = static_cast<size_t>(config_.max_metadata_bytes);
  limits.max_body_bytes = static_cast<size_t>(config_.http_max_body_bytes);
  limits.max_total_body_bytes = std::max(limits.max_total_body_bytes, 4 * limits.max_body_bytes);
  limits.idle_timeout = config_.http_idle_timeout;
  limits.handshake_timeout = config_.handshake_timeout;
  KVASIR_ASSIGN_OR_RETURN(
      http_server_, HttpServer::Start(*config_.http_listen, config_.tls, limits, "http_listen",
                                      page_service_.get(), &call_log_));
  return absl::OkStatus();
}

ExitCode Daemon::Drain() {
  LogInfo("draining", {{"grace_seconds", absl::ToDoubleSeconds(config_.drain_grace)},
                       {"timeout_seconds", absl::ToDoubleSeconds(config_.drain_timeout)}});
  notifier_.Stopping("draining");
  healthy_ = false;
  model_manager_->StartDrain();
  grpc_server_->SetServing(false);
  Pause(config_.drain_grace);  // load balancers notice, and still find this replica willing
  draining_ = true;
  if (http_server_ != nullptr) http_server_->StartDrain();
  const absl::Time deadline = SteadyNow() + config_.drain_timeout;
  // Engines refuse from then on, and what is being read came before.
  WaitUntil([this] { return text_workers_.idle(); }, deadline, /*ignore_stop=*/false);
  for (const ServedModelRef& model : models_.All()) model->engine->StartDrain();

  if (!WaitUntilEmpty(deadline, /*ignore_stop=*/false)) {
    int64_t unfinished = 0;
    for (const ServedModelRef& model : models_.All()) {
      const EngineStats stats = model->engine->stats();
      unfinished += stats.running + stats.waiting;
    }
    LogWarning("cancelling unfinished requests", {{"requests", unfinished}});
  }
  text_workers_.CancelAll(DrainingError());
  model_manager_->Stop();  // what it unloads has its own accounts
  const int64_t lost_before = metrics_.SpillLosses();
  for (const ServedModelRef& model : models_.All()) model->engine->Shutdown();
  const int64_t lost = metrics_.SpillLosses() - lost_before;
  if (lost > 0) {
    LogWarning(
        "sessions could not be kept on the disk; their next turns compute them again, if "
        "clients send their history",
        {{"sessions", lost}});
  }
  WaitUntilEmpty(SteadyNow() + kFlushTime, /*ignore_stop=*/true);
  if (http_server_ != nullptr) http_server_->Shutdown();
  grpc_server_->Shutdown(absl::Now() + kCallEndTime);
  LogInfo("stopped", {{"sessions_lost", lost}});
  return lost > 0 && report_lost_sessions_ ? ExitCode::kSessionsLost : ExitCode::kClean;
}

void Daemon::AwaitProgress() const {
  // The engine thread answers between two steps; a step that never ends leaves the question open.
  for (const ServedModelRef& model : models_.All()) {
    model->engine->AwaitTurn();
  }
}

bool Daemon::Empty() const {
  for (const ServedModelRef& model : models_.All()) {
    if (!model->engine->idle()) return false;
  }
  return metrics_.generate_calls_in_flight() == 0;
}

bool Daemon::WaitUntil(const std::function<bool()>& done, absl::Time deadline, bool ignore_stop) {
  while (!done()) {
    if (SteadyNow() >= deadline || (!ignore_stop && StopRequested())) return false;
    absl::SleepFor(kDrainPoll);
  }
  return true;
}

}  // namespace kvasir
