// The daemon's own HTTP port on loopback around an engine that lives here, and clients that read
// server-sent events from plain sockets: what stands between kvasir-bench and the engine when a run
// goes through HTTP.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kvasir/v1/generation.pb.h"
#include "server/http/http_server.h"
#include "server/http/openai_service.h"
#include "tests/bench/local_frontend.h"

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
  LocalFrontend frontend_;
  std::unique_ptr<OpenAiService> service_;
  std::unique_ptr<HttpServer> server_;
};

}  // namespace kvasir::bench
