// One file of a repository, from the hub into the cache: going on where an earlier try ended,
// checked, and moved under its name only when it is whole and right.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "hub/hub_api.h"
#include "hub/hub_cache.h"
#include "hub/repo_file.h"
#include "hub/retry.h"

namespace kvasir {

struct BlobDownload {
  HubApi* api;
  const HubCache* cache;
  Retry* retry;
  std::string repo, commit;
  const std::atomic<bool>* cancelled;                    // may be null
  std::function<void(const std::string& message)> note;  // waits and second tries
  std::function<void(int64_t file_bytes)> progress;      // of the file, so far

  // Blocks until the blob is there, by this process or by another; one at a time downloads it.
  // Errors: those of HubApi and FileLock; DataLoss (twice the wrong content: it is deleted),
  // CacheError's. After all but DataLoss the beginning of the file stays for the next time.
  absl::Status Run(const RepoFile& file) const;

 private:
  absl::Status Fetch(const RepoFile& file) const;
  absl::Status FetchOnce(const RepoFile& file, int fd, bool* made_progress) const;
};

}  // namespace kvasir
