#include "kvcache/spill/session_claims.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace kvasir {
namespace {

constexpr char kLockFile[] = "claims.lock";

// 60 bits of the name, which is a digest: two sessions at one place would only keep each other
// waiting, and meet once in 2^30 sessions.
off_t PlaceOf(const std::string& stem) {
  return static_cast<off_t>(std::strtoull(stem.substr(0, 15).c_str(), nullptr, 16));
}

struct flock ByteAt(const std::string& stem, short type) {
  struct flock byte = {};
  byte.l_type = type;
  byte.l_whence = SEEK_SET;
  byte.l_start = PlaceOf(stem);
  byte.l_len = 1;
  return byte;
}

}  // namespace

struct SessionClaim::Entry {
  // Guarded by SessionClaims::mutex_. An entry is among entries_ exactly while its byte is locked.
  int users = 0;
  bool kept = false;

  AnnotatedMutex mutex;  // taken before SessionClaims::mutex_
  bool looked ABSL_GUARDED_BY(mutex) = false;
  std::optional<ClaimedState> state ABSL_GUARDED_BY(mutex);
};

SessionClaim::SessionClaim(std::shared_ptr<SessionClaims> claims, std::string stem,
                           std::shared_ptr<Entry> entry)
    : claims_(std::move(claims)), stem_(std::move(stem)), entry_(std::move(entry)) {}

SessionClaim::~SessionClaim() { claims_->Drop(stem_, entry_); }

const ClaimedState* SessionClaim::state() const {
  AnnotatedLock lock(&entry_->mutex);
  return entry_->state.has_value() ? &*entry_->state : nullptr;
}

void SessionClaim::Settle() {
  AnnotatedLock lock(&entry_->mutex);
  entry_->state.reset();
}

absl::StatusOr<std::shared_ptr<SessionClaims>> SessionClaims::Open(int directory_fd) {
  const int fd = openat(directory_fd, kLockFile, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0)
    return absl::ErrnoToStatus(errno, absl::StrCat("spill: cannot open the file ", kLockFile));
  std::shared_ptr<SessionClaims> claims(new SessionClaims(fd));
  return claims;
}

SessionClaims::~SessionClaims() { close(lock_fd_); }

absl::Status SessionClaims::Lock(const std::string& stem) const {
  struct flock byte = ByteAt(stem, F_WRLCK);
  if (fcntl(lock_fd_, F_OFD_SETLK, &byte) == 0) return absl::OkStatus();
  if (errno == EAGAIN || errno == EACCES) {
    return absl::AbortedError(
        "the session is in use by another replica, or newer there than in the shared spill "
        "directory; try again in a moment, or send the turn to that replica");
  }
  const int error = errno;
  return absl::UnavailableError(
      absl::StrCat("spill: the shared directory's file system gives no lock (",
                   absl::ErrnoToStatus(error, "fcntl").message(), "); try again"));
}

void SessionClaims::Unlock(const std::string& stem) const {
  struct flock byte = ByteAt(stem, F_UNLCK);
  fcntl(lock_fd_, F_OFD_SETLK, &byte);
}

absl::StatusOr<std::shared_ptr<SessionClaim>> SessionClaims::Acquire(
    const std::string& stem, absl::FunctionRef<absl::StatusOr<ClaimedState>()> look) {
  std::shared_ptr<SessionClaim> claim;
  {
    AnnotatedLock lock(&mutex_);
    std::shared_ptr<SessionClaim::Entry>& entry = entries_[stem];
    if (entry == nullptr) {
      if (absl::Status status = Lock(stem); !status.ok()) {
        entries_.erase(stem);
        return status;
      }
      entry = std::make_shared<SessionClaim::Entry>();
    }
    ++entry->users;
    claim.reset(new SessionClaim(shared_from_this(), stem, entry));
  }
  SessionClaim::Entry& entry = *claim->entry_;
  absl::Status status;
  {
    AnnotatedLock lock(&entry.mutex);
    if (entry.looked) return claim;
    absl::StatusOr<ClaimedState> state = look();
    if (state.ok()) {
      entry.state = *std::move(state);
      entry.looked = true;
      return claim;
    }
    status = state.status();
  }
  return status;
}

void SessionClaims::Keep(const std::string& stem) {
  AnnotatedLock lock(&mutex_);
  const auto found = entries_.find(stem);
  KVASIR_CHECK(found != entries_.end());
  found->second->kept = true;
}

void SessionClaims::LetGo(const std::string& stem) {
  AnnotatedLock lock(&mutex_);
  const auto found = entries_.find(stem);
  if (found == entries_.end()) return;
  found->second->kept = false;
  DropIfUnused(stem, *found->second);
}

void SessionClaims::Drop(const std::string& stem,
                         const std::shared_ptr<SessionClaim::Entry>& entry) {
  AnnotatedLock lock(&mutex_);
  --entry->users;
  DropIfUnused(stem, *entry);
}

void SessionClaims::DropIfUnused(const std::string& stem, const SessionClaim::Entry& entry) {
  if (entry.users > 0 || entry.kept) return;
  Unlock(stem);
  entries_.erase(stem);
}

bool SessionClaims::IfUnclaimed(const std::string& stem, absl::FunctionRef<void()> work) {
  AnnotatedLock lock(&mutex_);
  if (entries_.contains(stem) || !Lock(stem).ok()) return false;
  work();
  Unlock(stem);
  return true;
}

}  // namespace kvasir
