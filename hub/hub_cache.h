// The folder that Hugging Face's tools keep downloads in, shared with them:
//
//   CACHE/models--ORG--REPO/blobs/DIGEST               content, named by what checks it
//   CACHE/models--ORG--REPO/blobs/DIGEST.incomplete    the beginning of it
//   CACHE/models--ORG--REPO/snapshots/COMMIT/PATH      a relative link to a blob
//   CACHE/models--ORG--REPO/refs/REVISION              the commit that a branch or tag meant last
//   CACHE/.locks/models--ORG--REPO/DIGEST.lock         held (flock) while a blob is written
//
// Paths and small steps on them; thread safe, and beside other processes: what appears under its
// final name is whole.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "hub/hub_reference.h"
#include "hub/repo_file.h"

namespace kvasir {

class HubCache {
 public:
  // `folder`: CACHE; need not exist.
  HubCache(std::string folder, std::string repo);

  std::string SnapshotFolder(const std::string& commit) const;
  std::string BlobPath(const std::string& digest) const;
  std::string PartialPath(const std::string& digest) const;
  std::string LockPath(const std::string& digest) const;

  // What the revision meant when it was last downloaded; a commit means itself. NotFound.
  absl::StatusOr<std::string> FindCommit(const std::string& revision) const;
  // The files of a snapshot whose content is there, by size alone (no digests). NotFound without a
  // folder.
  absl::StatusOr<std::vector<RepoFile>> ListSnapshot(const std::string& commit) const;

  // Whether the snapshot has this file, whole as far as its size tells.
  bool HasFile(const std::string& commit, const RepoFile& file) const;
  bool HasBlob(const RepoFile& file) const;
  // Bytes of the blob's beginning that are there.
  int64_t PartialBytes(const RepoFile& file) const;

  // Makes the blob's folders. PermissionDenied or ResourceExhausted with what to do.
  absl::Status Prepare(const std::string& digest) const;
  // Makes the snapshot's file a link to its blob, in place of whatever was there.
  absl::Status Link(const std::string& commit, const RepoFile& file) const;
  // Nothing to do for a commit.
  absl::Status SetRevision(const std::string& revision, const std::string& commit) const;

  // Bytes that this user may still write there.
  absl::StatusOr<int64_t> FreeBytes() const;

  const std::string& folder() const { return folder_; }

 private:
  absl::Status MakeFolder(const std::string& path) const;

  const std::string folder_;
  const std::string repo_;
  const std::string repo_folder_;  // models--ORG--REPO
};

// The system's error `number` at doing `what`, as a status with the remedy: a full disk, no right
// to write, a read-only file system.
absl::Status CacheError(int number, const std::string& what);

}  // namespace kvasir
