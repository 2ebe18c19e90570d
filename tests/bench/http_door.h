// The daemon's own HTTP port on loopback around an engine that lives here, and clients that read
// server-sent events from plain sockets: what stands between kvasir-bench and the engine when a run
// goes through HTTP.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "kvasir/v1/generation.pb.h"
#include "server/frontend/call_observer.h"
#include "server/frontend/text_workers.h"
#include "server/frontend/worker_thread.h"
#include "server/http/http_server.h"
#include "server/http/openai_service.h"
#include "server/identity/authenticator.h"
#include "server/identity/tenant_directory.h"

namespace kvasir::bench {

class HttpDoor {
 public:
  // `models` outlives this.
  explicit HttpDoor(const ModelRegistry* models);
  ~HttpDoor();

  // Sends all requests at once to /v1/completions, each from a thread of its own, and reads their
  // streams to the end. Of a request are sent: token_ids, temperature, seed, max_tokens,
  // ignore_eos.
  void Run(const std::vector<v1::GenerateRequest>& requests);

 private:
  struct NoObserver : CallObserver {
    void OnGenerateDone(const std::string&, const std::string&, absl::StatusCode) override {}
    void OnRefused(const RefusedCall&) override {}
  };

  // Anonymous calls are served, as by a daemon without tenants.
  const Authenticator authenticator_{AuthenticationConfig(), *TenantDirectory::Load({})};
  NoObserver observer_;
  std::atomic<bool> draining_{false};
  WorkerThread stream_writer_;
  WorkerThread query_worker_;
  TextWorkers text_workers_{TextLimits()};
  std::unique_ptr<OpenAiService> service_;
  std::unique_ptr<HttpServer> server_;
};

}  // namespace kvasir::bench
