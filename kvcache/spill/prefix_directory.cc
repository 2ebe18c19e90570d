#include "kvcache/spill/prefix_directory.h"

#include <fcntl.h>
#include <openssl/rand.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <limits>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "kvcache/spill/kv_spill_file.h"

namespace kvasir {
namespace {

constexpr char kFolderPrefix[] = "prefix-";
constexpr char kKeyName[] = "key";
constexpr char kFileSuffix[] = ".kvp", kTemporarySuffix[] = ".tmp";
constexpr size_t kDigestHex = 2 * sizeof(BlockDigest::words);
constexpr int kMaxGroup = 1 << 16;

bool IsLowerHex(absl::string_view text) {
  return text.find_first_not_of("0123456789abcdef") == absl::string_view::npos;
}

bool IsFolderName(absl::string_view name) {
  return absl::ConsumePrefix(&name, kFolderPrefix) && name.size() == 16 && IsLowerHex(name);
}

}  // namespace

std::string StoredBlockFileName(const StoredBlockName& name) {
  return absl::StrCat(absl::Hex(name.digest.words[0], absl::kZeroPad16),
                      absl::Hex(name.digest.words[1], absl::kZeroPad16), "-", name.group,
                      kFileSuffix);
}

bool ParseStoredBlockFileName(absl::string_view file, StoredBlockName* name) {
  if (file.size() <= kDigestHex || !absl::EndsWith(file, kFileSuffix)) return false;
  const absl::string_view whole = file;
  if (!IsLowerHex(file.substr(0, kDigestHex))) return false;
  for (size_t i = 0; i < name->digest.words.size(); ++i) {
    if (!absl::SimpleHexAtoi(file.substr(16 * i, 16), &name->digest.words[i])) return false;
  }
  file.remove_prefix(kDigestHex);
  return absl::ConsumePrefix(&file, "-") && absl::ConsumeSuffix(&file, kFileSuffix) &&
         absl::SimpleAtoi(file, &name->group) && name->group >= 0 && name->group < kMaxGroup &&
         StoredBlockFileName(*name) == whole;
}

std::string PrefixDirectory::TemporaryName(const StoredBlockName& name) const {
  return absl::StrCat(absl::StripSuffix(StoredBlockFileName(name), kFileSuffix), ".", process_,
                      kTemporarySuffix);
}

absl::StatusOr<PrefixDirectory> PrefixDirectory::Open(const std::string& spill_directory,
                                                      uint64_t contents, bool shared) {
  const std::string path =
      absl::StrCat(spill_directory, "/", kFolderPrefix, absl::Hex(contents, absl::kZeroPad16));
  KVASIR_ASSIGN_OR_RETURN(SpillDirectory folder,
                          SpillDirectory::Open(path, shared ? SpillDirectory::Use::kShared
                                                            : SpillDirectory::Use::kAlone));
  uint32_t process = 0;
  if (RAND_bytes(reinterpret_cast<uint8_t*>(&process), sizeof(process)) != 1)
    return absl::UnavailableError("spill: the system has no randomness for names of files");
  PrefixDirectory directory(std::move(folder), absl::StrCat(absl::Hex(process, absl::kZeroPad8)));
  KVASIR_RETURN_IF_ERROR(directory.ReadOrMakeKey());
  return directory;
}

absl::Status PrefixDirectory::ReadOrMakeKey() {
  const auto error = [&](const char* what) {
    return absl::ErrnoToStatus(
        errno, absl::StrCat("spill: cannot ", what, " ", directory_.path(), "/", kKeyName));
  };
  const std::string temporary = absl::StrCat(kKeyName, ".", process_, kTemporarySuffix);
  while (true) {
    const int fd = openat(this->fd(), kKeyName, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 && errno != ENOENT) return error("open");
    if (fd >= 0) {
      struct stat file;
      const bool whole = fstat(fd, &file) == 0 && S_ISREG(file.st_mode) &&
                         file.st_size == static_cast<off_t>(key_.size());
      const ssize_t got = whole ? pread(fd, key_.data(), key_.size(), 0) : 0;
      const int saved = errno;
      close(fd);
      errno = saved;
      if (got < 0) return error("read");
      if (got == static_cast<ssize_t>(key_.size())) return absl::OkStatus();
      // Not one that was ever finished: what stands here under it cannot be found again.
      KVASIR_RETURN_IF_ERROR(RemoveSpillFile(this->fd(), kKeyName));
    }
    // Linked, not renamed: of several who come first, one's key is everybody's.
    if (RAND_bytes(key_.data(), static_cast<int>(key_.size())) != 1)
      return absl::UnavailableError("spill: the system has no randomness for a key");
    const int made =
        openat(this->fd(), temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (made < 0) return error("make");
    const bool written =
        write(made, key_.data(), key_.size()) == static_cast<ssize_t>(key_.size()) &&
        fsync(made) == 0;
    const int saved = errno;
    close(made);
    const bool linked =
        written && linkat(this->fd(), temporary.c_str(), this->fd(), kKeyName, 0) == 0;
    const int failed = written ? errno : saved;
    (void)RemoveSpillFile(this->fd(), temporary);
    errno = failed;
    if (!linked && (!written || errno != EEXIST)) return error("write");
  }
}

absl::StatusOr<std::vector<PrefixDirectory::File>> PrefixDirectory::Scan(
    size_t most, absl::FunctionRef<bool(const std::string&, absl::Time)> is_stale) const {
  KVASIR_ASSIGN_OR_RETURN(const std::vector<std::string> names, directory_.Names(most));
  std::vector<File> files;
  for (const std::string& name : names) {
    File found;
    const bool is_block = ParseStoredBlockFileName(name, &found.name);
    struct stat file;
    if (!is_block && !absl::EndsWith(name, kTemporarySuffix)) continue;
    // Others may remove it meanwhile.
    if (fstatat(fd(), name.c_str(), &file, AT_SYMLINK_NOFOLLOW) != 0) continue;
    found.used = absl::TimeFromTimespec(file.st_mtim);
    if (is_block) {
      found.bytes = file.st_size;
      files.push_back(found);
    } else if (is_stale(name, found.used)) {
      (void)RemoveSpillFile(fd(), name);
    }
  }
  return files;
}

int64_t PrefixDirectory::RemoveUnused(const std::string& spill_directory) {
  int64_t removed = 0;
  constexpr size_t kUnlimited = std::numeric_limits<size_t>::max();
  const auto folders = SpillDirectory::NamesIn(spill_directory, kUnlimited);
  if (!folders.ok()) return 0;
  for (const std::string& folder : *folders) {
    if (!IsFolderName(folder)) continue;
    const std::string path = absl::StrCat(spill_directory, "/", folder);
    const auto unused = SpillDirectory::Open(path, SpillDirectory::Use::kAlone);
    if (!unused.ok()) continue;  // held
    const auto names = unused->Names(kUnlimited);
    if (!names.ok()) continue;
    for (const std::string& name : *names) {
      StoredBlockName block;
      const bool is_block = ParseStoredBlockFileName(name, &block);
      if (!is_block && name != kKeyName && !absl::EndsWith(name, kTemporarySuffix)) continue;
      if (RemoveSpillFile(unused->fd(), name).ok() && is_block) ++removed;
    }
    (void)rmdir(path.c_str());
  }
  return removed;
}

}  // namespace kvasir
