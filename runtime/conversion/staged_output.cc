#include "runtime/conversion/staged_output.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace kvasir {
namespace {

namespace fs = std::filesystem;

// Whether `force` may remove what stands at the path.
bool IsReplaceable(const std::string& path, StagedOutput::Kind kind) {
  std::error_code error;
  if (kind == StagedOutput::Kind::kFile) {
    return fs::is_regular_file(path, error) && absl::EndsWith(path, ".gguf");
  }
  return fs::is_directory(path, error) &&
         (fs::exists(path + "/config.json", error) || fs::is_empty(path, error));
}

// Whether `path` is `inside` or a folder around it.
bool Holds(const std::string& path, const std::string& inside) {
  std::error_code error;
  const fs::path outer = fs::weakly_canonical(path, error);
  for (fs::path inner = fs::weakly_canonical(inside, error); inner.has_relative_path();
       inner = inner.parent_path()) {
    if (inner == outer) return true;
  }
  return false;
}

absl::Status CheckPlace(const std::string& path, StagedOutput::Kind kind, bool force,
                        const std::string& source) {
  std::error_code error;
  const bool exists = fs::symlink_status(path, error).type() != fs::file_type::not_found;
  if (exists && Holds(path, source)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the output ", path, " is the model to convert; name another place"));
  }
  if (kind == StagedOutput::Kind::kFolder && Holds(source, path)) {
    return absl::InvalidArgumentError(absl::StrCat("the output ", path,
                                                   " is inside the model to convert, ", source,
                                                   "; name a place beside it"));
  }
  if (!exists) return absl::OkStatus();
  if (!force) {
    return absl::AlreadyExistsError(
        absl::StrCat("the output ", path, " exists; --force replaces it"));
  }
  if (IsReplaceable(path, kind)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "the output ", path, " exists and is no model",
      kind == StagedOutput::Kind::kFile ? " (a file NAME.gguf)" : " (a folder with a config.json)",
      "; --force will not remove it, name another place"));
}

absl::Status CheckSpace(const std::string& parent, int64_t needed_bytes) {
  struct statvfs info;
  if (statvfs(parent.c_str(), &info) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot look at the disk of ", parent));
  }
  const auto free_bytes = static_cast<int64_t>(info.f_bavail) * static_cast<int64_t>(info.f_frsize);
  if (needed_bytes <= free_bytes) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("the result needs ", needed_bytes, " bytes, but the disk of ", parent, " has ",
                   free_bytes, " free; make room or name another place"));
}

}  // namespace

absl::StatusOr<StagedOutput> StagedOutput::Begin(const std::string& path, Kind kind, bool force,
                                                 const std::string& source, int64_t needed_bytes) {
  fs::path place = fs::path(path).lexically_normal();
  if (!place.has_filename()) place = place.parent_path();  // "folder/"
  if (!place.has_filename() || place.filename() == "." || place.filename() == "..") {
    return absl::InvalidArgumentError(absl::StrCat("the output ", path, " names no place"));
  }
  const std::string parent = place.has_parent_path() ? place.parent_path().string() : ".";
  std::error_code error;
  if (!fs::is_directory(parent, error)) {
    return absl::NotFoundError(absl::StrCat("there is no folder ", parent, " to put ",
                                            place.filename().string(), " into; make it first"));
  }
  KVASIR_RETURN_IF_ERROR(CheckPlace(place.string(), kind, force, source));
  KVASIR_RETURN_IF_ERROR(CheckSpace(parent, needed_bytes));
  StagedOutput output;
  output.path_ = place.string();
  output.kind_ = kind;
  output.force_ = force;
  std::string staging = absl::StrCat(parent, "/.", place.filename().string(), ".partial-XXXXXX");
  if (mkdtemp(staging.data()) == nullptr) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot create a folder in ", parent));
  }
  output.staging_ = std::move(staging);
  return output;
}

StagedOutput::StagedOutput(StagedOutput&& other) noexcept
    : path_(std::move(other.path_)),
      staging_(std::exchange(other.staging_, "")),
      kind_(other.kind_),
      force_(other.force_) {}

StagedOutput::~StagedOutput() {
  if (staging_.empty()) return;
  std::error_code ignored;
  fs::remove_all(staging_, ignored);
}

std::string StagedOutput::file() const {
  return absl::StrCat(staging_, "/", fs::path(path_).filename().string());
}

absl::Status StagedOutput::Commit() {
  const std::string from = kind_ == Kind::kFile ? file() : staging_;
  if (kind_ == Kind::kFolder) {
    // mkdtemp's folder is the owner's alone; a model's is for whoever the umask lets.
    const mode_t mask = umask(0);
    umask(mask);
    chmod(from.c_str(), 0777 & ~mask);
  }
  if (renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, path_.c_str(), RENAME_NOREPLACE) == 0) {
    if (kind_ == Kind::kFolder) staging_.clear();
    return absl::OkStatus();
  }
  if (errno == EEXIST && !force_) {
    return absl::AlreadyExistsError(
        absl::StrCat("the output ", path_, " has come into being meanwhile; --force replaces it"));
  }
  // The two change places, and the destructor removes what was there.
  if (renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, path_.c_str(), RENAME_EXCHANGE) == 0) {
    return absl::OkStatus();
  }
  return MoveInSteps(from);
}

// On a file system that knows neither of those: not in one step, but never with both gone.
absl::Status StagedOutput::MoveInSteps(const std::string& from) {
  const auto error = [&] {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot move the result to ", path_));
  };
  std::error_code ignored;
  if (kind_ == Kind::kFile || !fs::exists(path_, ignored)) {
    if (rename(from.c_str(), path_.c_str()) != 0) return error();
    if (kind_ == Kind::kFolder) staging_.clear();
    return absl::OkStatus();
  }
  const std::string old = absl::StrCat(staging_, ".old");
  if (rename(path_.c_str(), old.c_str()) != 0) return error();
  if (rename(from.c_str(), path_.c_str()) != 0) {
    const absl::Status status = error();
    if (rename(old.c_str(), path_.c_str()) == 0) return status;
    return absl::Status(status.code(),
                        absl::StrCat(status.message(), "; what was there is in ", old));
  }
  staging_ = old;
  return absl::OkStatus();
}

}  // namespace kvasir
