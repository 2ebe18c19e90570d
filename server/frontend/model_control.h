// What AdminService asks for to have models come and go while others serve: the door to
// process/model_manager.h, which does it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace kvasir {

struct LoadOrder {
  std::string name;
  std::string path;
  std::string options;  // LoadModelRequest.options
};

struct UnloadReport {
  int64_t requests_aborted = 0;
  int64_t sessions_kept = 0;  // on the disk
  int64_t sessions_lost = 0;
  absl::Duration took;
};

class ModelControl {
 public:
  using Loaded = std::function<void(const absl::Status& status)>;
  using Unloaded = std::function<void(const absl::StatusOr<UnloadReport>& report)>;

  virtual ~ModelControl() = default;

  // Both return at once: with a refusal (admin.proto), and then `done` is never called; or with OK,
  // and then it is called once, by another thread, or before this returns. Thread safe.
  virtual absl::Status Load(const LoadOrder& order, Loaded done) = 0;
  // `timeout`: none is the daemon's own.
  virtual absl::Status Unload(const std::string& name, std::optional<absl::Duration> timeout,
                              Unloaded done) = 0;
};

}  // namespace kvasir
