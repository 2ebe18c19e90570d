// KvSpill in a directory that several replicas share. What can be found there of a session:
//
//   file  marker
//   yes   -        its newest state
//   yes   yes      the same: whoever wrote or pushed out the file ended between the two
//   -     empty    a state newer than any file was in memory, of a process that ended: lost
//   -     of 16 B  the state of this identity made room; who has it in memory can go on
//   -     -        never was, removed, or too old
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "base/background_work.h"
#include "base/steady_time.h"
#include "kvcache/spill/kv_spill.h"

namespace kvasir {
namespace {

// A directory larger than this is looked through in part.
constexpr size_t kMaxNames = size_t{1} << 20;

std::string StemOf(const std::string& name) { return name.substr(0, name.find('.')); }

// The identity that a marker holds; all zero for an empty one. NotFound.
absl::StatusOr<SpillChecksum> ReadMarker(int directory_fd, const std::string& name) {
  const int fd = openat(directory_fd, name.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (fd < 0) return SpillNameError(errno, directory_fd, "spill: cannot open ", name);
  SpillChecksum identity{};
  const ssize_t got = read(fd, identity.data(), identity.size());
  close(fd);
  if (got != static_cast<ssize_t>(identity.size())) identity.fill(0);
  return identity;
}

}  // namespace

absl::StatusOr<std::shared_ptr<SessionClaim>> KvSpill::Claim(absl::string_view id) {
  const std::string name(id);
  return claims_->Acquire(SpillFileStem(id), [&] { return Look(name); });
}

absl::StatusOr<ClaimedState> KvSpill::Look(const std::string& id) {
  SpillChecksum had{};  // in memory, perhaps
  bool has_file = false;
  {
    AnnotatedLock lock(&mutex_);
    if (const SpillIndex::Entry* const known = index_.Find(id)) {
      had = known->identity;
      has_file = true;
    } else if (const auto pushed = pushed_out_.find(id); pushed != pushed_out_.end()) {
      had = pushed->second;
    }
  }
  auto reader = OpenOurs(SpillFileName(id));
  if (reader.ok()) {
    if (has_file && had == reader->identity())
      return ClaimedState{.kind = ClaimedState::Kind::kUnchanged};
    return ClaimedState{.kind = ClaimedState::Kind::kFile,
                        .header = std::move(reader->header()),
                        .file_bytes = reader->file_bytes(),
                        .time = reader->modified(),
                        .identity = reader->identity()};
  }
  const absl::Status& status = reader.status();
  // What is damaged stays until somebody replaces it: it is lost for all who look.
  if (absl::IsDataLoss(status) || absl::IsFailedPrecondition(status)) {
    AnnotatedLock lock(&mutex_);
    ++counters_.damaged_total;
    NoteLoss(SpillLoss::Cause::kDamaged, "", status.message());
    return ClaimedState{.kind = ClaimedState::Kind::kLost};
  }
  if (!absl::IsNotFound(status) || IsRemovedDirectory(directory_fd_)) {
    return absl::UnavailableError(absl::StrCat(
        "the session cannot be looked for in the shared spill directory: ", status.message()));
  }
  const auto marker = ReadMarker(directory_fd_, SpillMarkerName(SpillFileStem(id)));
  if (absl::IsNotFound(marker.status())) return ClaimedState{};
  if (!marker.ok()) return absl::UnavailableError(marker.status().message());
  const bool known = had != SpillChecksum{} && had == *marker;
  return ClaimedState{.kind = known ? ClaimedState::Kind::kPushedOut : ClaimedState::Kind::kLost};
}

void KvSpill::TakeNote(absl::string_view id, SessionClaim* claim) {
  const ClaimedState* const state = claim->state();
  if (state == nullptr) return;
  AnnotatedLock lock(&mutex_);
  using Kind = ClaimedState::Kind;
  if (state->kind != Kind::kUnchanged) {
    index_.Erase(id);
    pushed_out_.erase(id);
  }
  if (state->kind == Kind::kFile) {
    index_.Put(std::string(id), {.metadata = state->header.metadata,
                                 .num_tokens = static_cast<int>(state->header.tokens.size()),
                                 .bytes = state->file_bytes,
                                 .time = state->time,
                                 .identity = state->identity});
  }
  if (state->kind != Kind::kLost) claim->Settle();
}

void KvSpill::Supersede(absl::string_view id) {
  AnnotatedLock lock(&mutex_);
  CancelJobs(id);
  const std::string stem = SpillFileStem(id);
  const std::string name = SpillFileName(id), marker = SpillMarkerName(stem);
  const int fd = released_.size() < kMaxReleased
                     ? openat(directory_fd_, name.c_str(), O_WRONLY | O_CLOEXEC | O_NOFOLLOW)
                     : -1;
  // In one step, so that there is always one of both.
  if (renameat(directory_fd_, name.c_str(), directory_fd_, marker.c_str()) == 0) {
    --counters_.files;
    if (const SpillIndex::Entry* const entry = index_.Find(id)) counters_.bytes -= entry->bytes;
    // Emptied before a newer state is written, by the same thread. Not empty it says the same: its
    // first bytes are no state's identity.
    if (fd >= 0) {
      released_.emplace_back(fd, /*empty_it=*/true);
      changed_.NotifyAll();
    } else {
      WriteMarker(stem, {});
    }
  } else {
    if (errno != ENOENT) {
      const absl::Status status = RemoveName(name);
      if (!status.ok()) NoteLoss(SpillLoss::Cause::kNotRemoved, id, status.message());
    }
    if (fd >= 0) close(fd);
    WriteMarker(stem, {});
  }
  index_.Erase(id);
  pushed_out_.erase(id);
  claims_->Keep(stem);
}

void KvSpill::WriteMarker(const std::string& stem, const SpillChecksum& identity) const {
  const int fd = openat(directory_fd_, SpillMarkerName(stem).c_str(),
                        O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return;  // then a loss looks like a session that never was
  if (identity != SpillChecksum{}) (void)!write(fd, identity.data(), identity.size());
  close(fd);
}

void KvSpill::PushOut(absl::string_view id) {
  const std::string stem = SpillFileStem(id);
  {
    AnnotatedLock lock(&mutex_);
    if (CancelJobs(id)) return;  // memory stays newer
  }
  std::vector<ReleasedFile> released;
  if (!PushOutFile(stem, &released)) return;
  AnnotatedLock lock(&mutex_);
  for (ReleasedFile& file : released) released_.push_back(std::move(file));
  changed_.NotifyAll();
  if (const SpillIndex::Entry* const entry = index_.Find(id)) {
    pushed_out_[std::string(id)] = entry->identity;
    index_.Erase(id);
  }
}

void KvSpill::Forget(absl::string_view id) {
  AnnotatedLock lock(&mutex_);
  CancelJobs(id);
  index_.Erase(id);
  pushed_out_.erase(id);
  claims_->LetGo(SpillFileStem(id));
}

bool KvSpill::PushOutFile(const std::string& stem, std::vector<ReleasedFile>* released) {
  bool done = false;
  claims_->IfUnclaimed(stem, [&] {
    const std::string name = absl::StrCat(stem, ".kvs");
    struct stat file;
    if (fstatat(directory_fd_, name.c_str(), &file, AT_SYMLINK_NOFOLLOW) != 0) return;
    const auto reader = SpillFileReader::Open(directory_fd_, name);
    WriteMarker(stem, reader.ok() ? reader->identity() : SpillChecksum{});
    done = RemoveSpillFile(directory_fd_, name, released).ok();
    if (!done) return;
    --counters_.files;
    counters_.bytes -= file.st_size;
  });
  return done;
}

void KvSpill::TidyShared(int64_t bytes) {
  struct File {
    absl::Time time;
    int64_t bytes;
    std::string stem;
  };
  uint64_t order = 0;
  {
    AnnotatedLock lock(&mutex_);
    order = index_.next_order();
  }
  const auto names = directories_.back().Names(kMaxNames);
  if (!names.ok()) {
    AnnotatedLock lock(&mutex_);
    NoteLoss(SpillLoss::Cause::kUnreadable, "", names.status().message());
    return;
  }
  std::vector<File> files;
  int64_t total_bytes = 0;
  seen_.BeginLook(SteadyNow());
  for (const std::string& name : *names) {
    const bool is_file = IsSpillFileName(name), is_marker = IsSpillMarkerName(name);
    struct stat file;
    if (!is_file && !is_marker && !IsSpillTemporaryName(name)) continue;
    if (fstatat(directory_fd_, name.c_str(), &file, AT_SYMLINK_NOFOLLOW) != 0) continue;
    const absl::Time time = absl::TimeFromTimespec(file.st_mtim);
    const bool is_old = seen_.Age(name, time) >= config_.max_age;
    const std::string stem = StemOf(name);
    GiveWayToSteps();
    if (!is_file || is_old) {
      bool removed = false;
      if (!is_marker || is_old) {
        claims_->IfUnclaimed(stem, [&] { removed = RemoveSpillFile(directory_fd_, name).ok(); });
      }
      // Of a replica that ended before it had emptied it.
      if (is_marker && !removed && file.st_size > static_cast<off_t>(sizeof(SpillChecksum)))
        claims_->IfUnclaimed(stem, [&] { WriteMarker(stem, {}); });
      if (!is_file || removed) continue;
    }
    files.push_back({time, file.st_size, stem});
    total_bytes += file.st_size;
  }
  counters_.files = static_cast<int64_t>(files.size());
  counters_.bytes = total_bytes;
  std::sort(files.begin(), files.end(),
            [](const File& a, const File& b) { return a.time < b.time; });
  std::vector<std::string> left;
  for (const File& file : files) {
    const bool full = counters_.bytes + bytes > config_.max_directory_bytes;
    if (full && PushOutFile(file.stem, nullptr)) {
      ++counters_.dropped_total;
    } else {
      left.push_back(file.stem);
    }
  }
  NoteGone(left, order);
}

void KvSpill::NoteGone(const std::vector<std::string>& left, uint64_t before_order) {
  AnnotatedLock lock(&mutex_);
  absl::flat_hash_set<std::string> there(left.begin(), left.end());
  std::vector<std::string> gone;
  for (const auto& [order, id] : index_.by_age()) {
    if (order < before_order && !there.contains(SpillFileStem(id))) gone.push_back(id);
  }
  const bool removed = IsRemovedDirectory(directory_fd_);
  for (const std::string& id : gone) {
    pushed_out_[id] = index_.Find(id)->identity;
    index_.Erase(id);
    if (removed) {
      NoteLoss(
          SpillLoss::Cause::kDamaged, id,
          SpillNameError(ENOENT, directory_fd_, "spill: no file ", SpillFileName(id)).message());
      continue;
    }
    NoteLoss(SpillLoss::Cause::kPushedOut, id,
             absl::StrCat("spill: pushed out, or taken by another replica; the directory may hold ",
                          config_.max_directory_bytes, " bytes"));
  }
}

}  // namespace kvasir
