// Looks at everything that a configuration names before anything is loaded: folders and files of
// models, TLS files, spill directories, ports, memory, descriptors, threads. What is wrong with the
// machine or the configuration then shows within a second, not after minutes of loading weights,
// and `kvasird --check_config` shows it without starting.
//
// Reads and probes only: ports are bound and given back, spill directories locked and unlocked.
// What is found free may be taken a moment later, so whoever uses it still reports its own errors.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/model/model_spec.h"
#include "server/config/server_config.h"
#include "server/process/exit_code.h"

namespace kvasir {

struct StartupFault {
  ExitCode code = ExitCode::kBadConfig;  // what the daemon would end with
  std::string message;                   // what is wrong, the value, the remedy
};

// Whether tokenizers and chat templates are read too, which takes seconds with large vocabularies;
// a start reads them next anyway, before all weights.
enum class CheckDepth { kFiles, kText };

// All faults, those of tenants and models first; empty when the daemon may start. Models that are
// still to be downloaded are not looked at; `notes`, unless null, gets a line for each.
std::vector<StartupFault> CheckSurroundings(const DaemonConfig& config,
                                            CheckDepth depth = CheckDepth::kFiles,
                                            std::vector<std::string>* notes = nullptr);

struct ModelOutline {
  ModelSpec spec;
  int64_t weight_bytes = 0;  // about what a load will take for them, and for a draft model
};

// What one model's files tell before its weights are read; a path on a hub is none yet. Its errors,
// which name the model: NotFound for a path that is not there, else what is wrong in the files.
absl::StatusOr<ModelOutline> CheckModelFiles(const ModelConfig& model);

}  // namespace kvasir
