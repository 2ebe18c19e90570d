// The daemon's life: load the models, serve, drain, end. Owns everything that serves.
//
// gRPC and metrics listen only after every model is loaded: until then probes find no listener,
// which orchestrators take as "not ready", and no client waits for a model behind an open port.
//
// Draining: health says NOT_SERVING; after drain_grace new requests are refused with UNAVAILABLE;
// streams go on for up to drain_timeout; what still runs then is cancelled; the process ends as
// soon as nothing is left.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "grpcpp/impl/codegen/service_type.h"
#include "server/config/server_config.h"
#include "server/frontend/model_registry.h"
#include "server/frontend/text_workers.h"
#include "server/frontend/worker_thread.h"
#include "server/grpc/grpc_server.h"
#include "server/http/http_server.h"
#include "server/http/metrics_endpoint.h"
#include "server/http/openai_service.h"
#include "server/http/page_service.h"
#include "server/identity/authenticator.h"
#include "server/identity/tenant_directory.h"
#include "server/process/exit_code.h"
#include "server/process/model_manager.h"
#include "server/process/service_notifier.h"
#include "server/telemetry/call_log.h"
#include "server/telemetry/heap_trimmer.h"
#include "server/telemetry/metrics.h"

namespace kvasir {

class Daemon {
 public:
  struct Configuration {
    DaemonConfig checked;
    config::v1::Config written;  // what it was made from, defaults filled in
  };
  // Reads the configuration again; see RequestReload.
  using ReadConfig = std::function<absl::StatusOr<Configuration>()>;

  // `config_file`: what `read_config` reads; empty = none. `tenants`: those of `configuration`,
  // with the keys of their files.
  Daemon(Configuration configuration, std::string config_file,
         std::shared_ptr<const TenantDirectory> tenants, ReadConfig read_config);
  // Has Run end with kSessionsLost when the drain could not keep every session on the disk. Before
  // Run.
  void ReportLostSessions() { report_lost_sessions_ = true; }
  // Ends what still runs, at once.
  ~Daemon();
  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;

  // The whole life; blocks until it is over. Failures are logged. Once it listens, it prints one
  // line on stdout:
  //   listening grpc=HOST:PORT metrics=HOST:PORT http=HOST:PORT
  // ("off" for what there is none of), which scripts may wait for.
  ExitCode Run();

  // From any thread, at any time, as often as wanted; return at once. RequestDrain starts draining;
  // RequestStop also ends every wait of it, so that running streams are cancelled now.
  void RequestDrain();
  void RequestStop();
  // Has the tenants, their key files and who may call read again, from Run's thread. Calls that
  // begin later are judged by the new state; streams go on. Models that the configuration names now
  // are loaded, those that it names no more unloaded. Files that are being written are waited for,
  // a little; a configuration with faults is logged and changes nothing. Other settings are not
  // taken: those that changed are named in the log.
  void RequestReload();

  // Whether it has begun to listen: before, there is nothing to drain, and loading cannot be
  // interrupted.
  bool listening() const { return listening_; }

 private:
  // Logs every fault; kClean without any.
  static ExitCode Check(const DaemonConfig& config);
  // Models that are named on a hub become local_ paths.
  ExitCode Pull();
  ExitCode Load();
  ExitCode Listen();
  absl::Status ListenForHttp(const ServiceEnvironment& environment);
  // Waits for the next thing to do; false = drain, true = reload.
  bool AwaitRequest();
  void Reload();
  // Models that came into the file are loaded, those that left it unloaded.
  void ReloadModels(const Configuration& wanted);
  void LoadConfigured(const ModelConfig& model);
  struct Reloaded {
    Configuration configuration;
    std::shared_ptr<const TenantDirectory> tenants;
  };
  absl::StatusOr<Reloaded> ReadAgain(std::vector<std::string>* files) const;
  // Waits, at most until RequestStop.
  void Pause(absl::Duration pause);
  bool StopRequested() const;
  ExitCode Drain();

  // Returns when every engine thread has come to the end of a step (or is idle).
  void AwaitProgress() const;

  // No request is left in an engine and no stream still has something to send.
  bool Empty() const;
  // Waits until `done`, `deadline`, or RequestStop (unless `ignore_stop`); says whether it is done.
  bool WaitUntil(const std::function<bool()>& done, absl::Time deadline, bool ignore_stop);
  bool WaitUntilEmpty(absl::Time deadline, bool ignore_stop) {
    return WaitUntil([this] { return Empty(); }, deadline, ignore_stop);
  }

  const DaemonConfig config_;
  // What runs: written at the start, with what reloads took since. Of Run's thread.
  config::v1::Config running_;
  DaemonConfig local_;  // config_ with its models as paths of this machine; set by Run
  const std::string config_file_;
  const ReadConfig read_config_;
  Authenticator authenticator_;

  mutable absl::Mutex mutex_;
  bool drain_requested_ ABSL_GUARDED_BY(mutex_) = false;
  bool stop_requested_ ABSL_GUARDED_BY(mutex_) = false;
  bool reload_requested_ ABSL_GUARDED_BY(mutex_) = false;
  // Models of the configuration that could not be loaded: the next reload tries them again.
  std::set<std::string> failed_models_ ABSL_GUARDED_BY(mutex_);

  bool report_lost_sessions_ = false;

  std::atomic<bool> listening_{false};
  std::atomic<bool> healthy_{false};   // what /healthz says
  std::atomic<bool> draining_{false};  // new requests are refused

  // In the reverse of the order in which they must end: doors first, then those who use the models,
  // then the models, then what their observers write to.
  Metrics metrics_;
  CallLog call_log_{&metrics_};
  ModelRegistry models_;
  std::unique_ptr<ModelManager> model_manager_;
  WorkerThread stream_writer_;
  WorkerThread query_worker_;
  std::vector<std::unique_ptr<grpc::Service>> services_;
  std::unique_ptr<OpenAiService> openai_service_;
  std::unique_ptr<PageService> page_service_;
  TextWorkers text_workers_;  // its jobs use the services
  std::unique_ptr<GrpcServer> grpc_server_;
  std::unique_ptr<HttpServer> http_server_;
  std::unique_ptr<MetricsEndpoint> metrics_endpoint_;
  ServiceNotifier notifier_;
  HeapTrimmer heap_trimmer_;
};

}  // namespace kvasir
