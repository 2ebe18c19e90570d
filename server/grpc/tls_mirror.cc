#include "server/grpc/tls_mirror.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <new>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "server/telemetry/logging.h"

namespace kvasir {
namespace {

// Anonymous memory with this text; the caller closes it.
absl::StatusOr<int> MemoryFile(const std::string& text) {
  const int fd = memfd_create("kvasird_tls", MFD_CLOEXEC);
  if (fd < 0) return absl::ErrnoToStatus(errno, "cannot make memory for the TLS files");
  size_t written_bytes = 0;
  while (written_bytes < text.size()) {
    const ssize_t written = write(fd, text.data() + written_bytes, text.size() - written_bytes);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) {
      const int error = errno;
      close(fd);
      return absl::ErrnoToStatus(error, "cannot fill memory for the TLS files");
    }
    written_bytes += static_cast<size_t>(written);
  }
  return fd;
}

// Puts the text under the descriptor that `fd` is, which is made if there is none, in one step:
// whoever opens its name finds the old text or the new one.
absl::Status Replace(const std::string& text, int* fd) {
  KVASIR_ASSIGN_OR_RETURN(const int fresh, MemoryFile(text));
  if (*fd < 0) {
    *fd = fresh;
    return absl::OkStatus();
  }
  const bool replaced = dup3(fresh, *fd, O_CLOEXEC) >= 0;
  const int error = errno;
  close(fresh);
  return replaced ? absl::OkStatus()
                  : absl::ErrnoToStatus(error, "cannot replace the TLS files in memory");
}

std::string NameOf(int fd) { return absl::StrCat("/proc/self/fd/", fd); }

}  // namespace

absl::StatusOr<std::unique_ptr<TlsMirror>> TlsMirror::Start(const TlsConfig& config,
                                                            CallObserver* observer) {
  KVASIR_ASSIGN_OR_RETURN(const TlsTexts texts, ReadTlsFiles(config));
  std::unique_ptr<TlsMirror> mirror(new TlsMirror(config, observer));
  KVASIR_RETURN_IF_ERROR(mirror->Publish(texts));
  mirror->identity_path_ = NameOf(mirror->identity_fd_);
  if (mirror->authorities_fd_ >= 0) mirror->authorities_path_ = NameOf(mirror->authorities_fd_);
  try {
    mirror->thread_ = std::thread(&TlsMirror::Run, mirror.get());
  } catch (const std::system_error& error) {
    return absl::UnavailableError(
        absl::StrCat("cannot start the thread that reads the TLS files: ", error.what()));
  }
  return mirror;
}

TlsMirror::~TlsMirror() {
  {
    AnnotatedLock lock(&mutex_);
    stopping_ = true;
    stopping_changed_.NotifyAll();
  }
  if (thread_.joinable()) thread_.join();
  if (identity_fd_ >= 0) close(identity_fd_);
  if (authorities_fd_ >= 0) close(authorities_fd_);
}

absl::Status TlsMirror::Publish(const TlsTexts& texts) try {
  if (texts == published_) return absl::OkStatus();
  // Authorities first: a set that is half old admits no one whom the old or the new one would not.
  if (!texts.authorities.empty()) {
    KVASIR_RETURN_IF_ERROR(Replace(texts.authorities, &authorities_fd_));
  }
  KVASIR_RETURN_IF_ERROR(Replace(absl::StrCat(texts.key, "\n", texts.chain), &identity_fd_));
  published_ = texts;
  return absl::OkStatus();
} catch (const std::bad_alloc&) {
  return absl::ResourceExhaustedError("the system gives no memory to hold the TLS files");
}

void TlsMirror::Run() {
  std::string last_logged;
  while (true) {
    {
      AnnotatedLock lock(&mutex_);
      const auto stopping = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stopping_; };
      if (stopping_changed_.Await(&mutex_, config_.reload, stopping)) return;
    }
    absl::StatusOr<TlsTexts> texts = ReadTlsFiles(config_);
    const bool changed = texts.ok() && *texts != published_;
    const absl::Status status = texts.ok() ? Publish(*texts) : texts.status();
    if (changed && status.ok()) observer_->OnReload("grpc_tls", true);
    if (!status.ok() && status.message() != last_logged) {
      observer_->OnReload("grpc_tls", false);
      LogWarning("the TLS files cannot be used; those read before stay in use",
                 {{"reason", std::string(status.message())}});
    }
    last_logged = std::string(status.message());
  }
}

}  // namespace kvasir
