// Where a conversion writes: a hidden folder beside the place that the result will take, moved
// there in one step once everything is written, and removed with all that is in it otherwise.
// Move-only; one thread at a time.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace kvasir {

class StagedOutput {
 public:
  enum class Kind { kFolder, kFile };

  // `path`: where the result will be. Errors, before anything is written: AlreadyExists (unless
  // `force`, which replaces a model: a GGUF file, or a folder with a config.json or nothing in it),
  // NotFound (no folder to put it into), InvalidArgument (force would replace something else, or
  // `source`), ResourceExhausted (less than `needed_bytes` free).
  static absl::StatusOr<StagedOutput> Begin(const std::string& path, Kind kind, bool force,
                                            const std::string& source, int64_t needed_bytes);

  StagedOutput(StagedOutput&& other) noexcept;
  StagedOutput& operator=(StagedOutput&&) = delete;
  ~StagedOutput();

  // The folder to write into; a result of Kind::kFile goes to file().
  const std::string& folder() const { return staging_; }
  std::string file() const;

  // Moves the result to its place. What it replaces is gone afterwards. AlreadyExists when
  // something came there meanwhile that was not to be replaced.
  absl::Status Commit();

 private:
  StagedOutput() = default;
  absl::Status MoveInSteps(const std::string& from);

  std::string path_;
  std::string staging_;  // empty = nothing to remove
  Kind kind_ = Kind::kFolder;
  bool force_ = false;
};

}  // namespace kvasir
