// A model by its name on a hub, as files on this machine: found in the cache, or downloaded into
// it. Blocks; one pull per call, any number of processes beside each other.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "hub/hub_reference.h"
#include "hub/hub_settings.h"
#include "hub/repo_file.h"
#include "hub/retry.h"

namespace kvasir {

// Where a model is, for Model::Load and Tokenizer::Load.
struct PulledModel {
  std::string path;  // a folder, or a GGUF file in it
  std::string commit;
  std::vector<RepoFile> files;
  int64_t total_bytes = 0;
  int64_t downloaded_bytes = 0;  // by this call
};

// What a pull is about to do.
struct PullPlan {
  HubReference reference;
  std::string commit;
  std::string cache;  // folder
  std::vector<RepoFile> files;
  std::vector<std::string> other_models;  // GGUF files that a pattern would choose
  int64_t total_bytes = 0;
  int64_t missing_bytes = 0;  // to be downloaded
  int64_t free_disk_bytes = 0;
  int64_t weight_bytes = 0;  // as stored: about what they need in memory, unless quantized
  int64_t memory_bytes = 0;  // that this process may use
};

struct PullOptions {
  RetryPolicy retry;
  std::string user_agent = "kvasir";
  bool verify = false;   // checks what is in the cache already, too
  bool dry_run = false;  // stops after the plan
  const std::atomic<bool>* cancelled = nullptr;
  // All are called from the calling thread, and may be empty.
  std::function<void(const PullPlan& plan)> planned;
  std::function<void(int64_t done_bytes, int64_t total_bytes, const std::string& file)> progress;
  std::function<void(const std::string& message)> note;
};

// What the cache has of it, without asking anybody. NotFound (not there, or not all of it).
absl::StatusOr<PulledModel> FindPulledModel(const HubSettings& settings,
                                            const HubReference& reference);

// Downloads what is missing. When the hub cannot be reached and the cache has the model as it was
// last time, that is taken, and noted. Errors: those of HubApi, SelectFiles and BlobDownload;
// ResourceExhausted when the disk is too small, before anything is downloaded; with
// settings.offline those of FindPulledModel.
absl::StatusOr<PulledModel> PullModel(const HubSettings& settings, const HubReference& reference,
                                      const PullOptions& options);

}  // namespace kvasir
