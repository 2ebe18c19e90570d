// The TLS files as gRPC's own watcher may read them: only ever whole ones that fit each other.
//
// gRPC takes whatever stands under the names at the moment it looks; a half-written key then turns
// away every new connection, and a pipe under the name stops its thread. Here a thread of our own
// reads and checks the files, and hands gRPC names of anonymous memory that holds the last good
// set: key and chain in one, so that they change together.
#pragma once

#include <memory>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "base/annotated_mutex.h"
#include "server/config/tenant_config.h"
#include "server/frontend/call_observer.h"
#include "server/identity/tls_files.h"

namespace kvasir {

class TlsMirror {
 public:
  // Reads the files, and again every config.reload until the end. FailedPrecondition when they
  // cannot be used now (tls_files.h); later that is logged, once for each reason, and the set that
  // was read before stays. `observer` is told of both, and outlives this.
  static absl::StatusOr<std::unique_ptr<TlsMirror>> Start(const TlsConfig& config,
                                                          CallObserver* observer);

  ~TlsMirror();
  TlsMirror(const TlsMirror&) = delete;
  TlsMirror& operator=(const TlsMirror&) = delete;

  // Names that hold the set as long as this lives.
  const std::string& identity_path() const { return identity_path_; }
  const std::string& authorities_path() const { return authorities_path_; }  // empty = none

 private:
  TlsMirror(const TlsConfig& config, CallObserver* observer)
      : config_(config), observer_(observer) {}

  // Puts `texts` in the place of what is there.
  absl::Status Publish(const TlsTexts& texts);
  void Run();

  const TlsConfig config_;
  CallObserver* const observer_;
  int identity_fd_ = -1, authorities_fd_ = -1;
  std::string identity_path_, authorities_path_;
  TlsTexts published_;

  AnnotatedMutex mutex_;
  AnnotatedCondVar stopping_changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace kvasir
