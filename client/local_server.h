// A kvasird for one model, on loopback ports of its own, for as long as this object lives: how an
// offline command computes with a model. Thread safe after Start.
#pragma once

#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "client/child_process.h"

namespace kvasir {

class LocalServer {
 public:
  // Blocks until it serves. `compute_type` as kvasird's flag. FailedPrecondition, with the end of
  // its log, when it ends instead.
  static absl::StatusOr<std::unique_ptr<LocalServer>> Start(const std::string& model,
                                                            const std::string& compute_type);
  ~LocalServer();

  // "127.0.0.1:PORT" of its gRPC port.
  const std::string& address() const { return address_; }

 private:
  LocalServer(ChildProcess process, std::string address);

  const std::string address_;
  ChildProcess process_;
  std::thread log_reader_;  // or the server would block on a full pipe
};

}  // namespace kvasir
