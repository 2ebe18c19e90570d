// What a front door of the daemon's needs around an engine that lives here: anonymous calls are
// served, as by a daemon without tenants, and nobody observes them.
#pragma once

#include <atomic>
#include <limits>
#include <string>

#include "server/frontend/call_observer.h"
#include "server/frontend/service_environment.h"
#include "server/frontend/text_workers.h"
#include "server/frontend/worker_thread.h"
#include "server/identity/authenticator.h"
#include "server/identity/tenant_directory.h"

namespace kvasir::bench {

class LocalFrontend {
 public:
  // The services made of it end before this does, and `models` after.
  ServiceEnvironment EnvironmentOf(const ModelRegistry* models) {
    ServiceEnvironment environment;
    environment.models = models;
    environment.authenticator = &authenticator_;
    environment.observer = &observer_;
    environment.draining = &draining_;
    environment.stream_writer = &stream_writer_;
    environment.query_worker = &query_worker_;
    environment.text_workers = &text_workers_;
    return environment;
  }

 private:
  struct NoObserver : CallObserver {
    void OnGenerateDone(const std::string&, const std::string&, absl::StatusCode) override {}
    void OnRefused(const RefusedCall&) override {}
  };

  const Authenticator authenticator_{AuthenticationConfig(), *TenantDirectory::Load({})};
  NoObserver observer_;
  std::atomic<bool> draining_{false};
  WorkerThread stream_writer_{"stream_writer", std::numeric_limits<size_t>::max()};
  WorkerThread query_worker_{"query_worker", 64};
  TextWorkers text_workers_{TextLimits()};
};

}  // namespace kvasir::bench
