#include "kvcache/spill/kv_spill_file.h"

#include <fcntl.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/background_work.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace kvasir {
namespace {

static_assert(std::endian::native == std::endian::little,
              "spill files are written in memory order");

constexpr char kMagic[8] = {'K', 'V', 'A', 'S', 'P', 'I', 'L', 'L'};
constexpr uint32_t kVersion = 2;
constexpr size_t kNameDigestBytes = 16;
// Most that is read, checked or written without giving way to the steps: some 50 us of work, and
// what an abandoned restore still waits for.
constexpr size_t kPieceBytes = size_t{64} << 10;

struct FixedHeader {
  char magic[8];
  uint32_t version;
  uint32_t id_bytes;
  uint64_t layout_fingerprint;
  uint64_t model_fingerprint;
  uint32_t metadata_bytes;
  uint32_t num_tokens;
  uint64_t payload_bytes;
  SpillChecksum payload_checksum;
};
static_assert(sizeof(FixedHeader) == 64);

class ChecksumStream {
 public:
  ChecksumStream() {
    EVP_MAC* gmac = EVP_MAC_fetch(nullptr, "GMAC", nullptr);
    KVASIR_CHECK(gmac != nullptr);
    context_ = EVP_MAC_CTX_new(gmac);
    EVP_MAC_free(gmac);  // the context keeps its own reference
    KVASIR_CHECK(context_ != nullptr);
    char cipher[] = "AES-128-GCM";
    uint8_t nonce[12] = {};
    const OSSL_PARAM parameters[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_CIPHER, cipher, 0),
        OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_IV, nonce, sizeof(nonce)),
        OSSL_PARAM_construct_end()};
    static constexpr uint8_t kKey[16] = {'k', 'v', 'a', 's', 'i', 'r', ' ', 's',
                                         'p', 'i', 'l', 'l', ' ', 'v', '0', '1'};
    KVASIR_CHECK(EVP_MAC_init(context_, kKey, sizeof(kKey), parameters) == 1);
  }
  ChecksumStream(const ChecksumStream&) = delete;
  ChecksumStream& operator=(const ChecksumStream&) = delete;
  ~ChecksumStream() { EVP_MAC_CTX_free(context_); }

  void Update(const void* data, size_t size_bytes) {
    KVASIR_CHECK(EVP_MAC_update(context_, static_cast<const uint8_t*>(data), size_bytes) == 1);
  }

  SpillChecksum Finish() {
    SpillChecksum checksum;
    size_t written_bytes = 0;
    KVASIR_CHECK(EVP_MAC_final(context_, checksum.data(), &written_bytes, checksum.size()) == 1);
    KVASIR_CHECK(written_bytes == checksum.size());
    return checksum;
  }

 private:
  EVP_MAC_CTX* context_;
};

SpillChecksum ChecksumOf(const void* data, size_t size_bytes) {
  ChecksumStream stream;
  const char* next = static_cast<const char*>(data);
  while (size_bytes > 0) {
    const size_t piece_bytes = std::min(size_bytes, kPieceBytes);
    stream.Update(next, piece_bytes);
    next += piece_bytes;
    size_bytes -= piece_bytes;
    GiveWayToSteps();
  }
  return stream.Finish();
}

absl::Status WriteAll(int fd, const void* data, size_t size_bytes) {
  const char* next = static_cast<const char*>(data);
  while (size_bytes > 0) {
    const ssize_t written = write(fd, next, std::min(size_bytes, kPieceBytes));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return absl::ErrnoToStatus(errno, "write");
    next += written;
    size_bytes -= written;
    GiveWayToSteps();
  }
  return absl::OkStatus();
}

// `checksum`: of what is read, while it is in the cache. May be null, like `abandoned`.
absl::Status ReadAllAt(int fd, int64_t offset_bytes, void* data, size_t size_bytes,
                       ChecksumStream* checksum = nullptr, const SpillRead& read = nullptr,
                       const std::atomic<bool>* abandoned = nullptr) {
  char* next = static_cast<char*>(data);
  while (size_bytes > 0) {
    if (abandoned != nullptr && *abandoned) return absl::CancelledError("abandoned");
    const size_t wanted_bytes = std::min(size_bytes, kPieceBytes);
    const ssize_t got = read != nullptr ? read(fd, next, wanted_bytes, offset_bytes)
                                        : pread(fd, next, wanted_bytes, offset_bytes);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return absl::ErrnoToStatus(errno, "read");
    if (got == 0) {
      return absl::DataLossError(
          absl::StrCat("the file ends at byte ", offset_bytes, ", ", size_bytes, " bytes early"));
    }
    if (checksum != nullptr) checksum->Update(next, got);
    next += got;
    offset_bytes += got;
    size_bytes -= got;
    GiveWayToSteps();
  }
  return absl::OkStatus();
}

bool IsHexWithSuffix(absl::string_view name, absl::string_view suffix) {
  if (name.size() != 2 * kNameDigestBytes + suffix.size() || !absl::EndsWith(name, suffix)) {
    return false;
  }
  return name.find_first_not_of("0123456789abcdef") == 2 * kNameDigestBytes;
}

constexpr char kFileSuffix[] = ".kvs", kTemporarySuffix[] = ".tmp", kMarkerSuffix[] = ".gone";

// `identity`: its checksum.
std::string EncodeHeader(const SpillHeader& header, const SpillChecksum& payload_checksum,
                         SpillChecksum* identity) {
  FixedHeader fixed{.magic = {},
                    .version = kVersion,
                    .id_bytes = static_cast<uint32_t>(header.id.size()),
                    .layout_fingerprint = header.layout_fingerprint,
                    .model_fingerprint = header.model_fingerprint,
                    .metadata_bytes = static_cast<uint32_t>(header.metadata.size()),
                    .num_tokens = static_cast<uint32_t>(header.tokens.size()),
                    .payload_bytes = static_cast<uint64_t>(header.payload_bytes),
                    .payload_checksum = payload_checksum};
  std::memcpy(fixed.magic, kMagic, sizeof(kMagic));
  std::string bytes(reinterpret_cast<const char*>(&fixed), sizeof(fixed));
  bytes += header.id;
  bytes += header.metadata;
  bytes.append(reinterpret_cast<const char*>(header.tokens.data()),
               header.tokens.size() * sizeof(header.tokens[0]));
  *identity = ChecksumOf(bytes.data(), bytes.size());
  bytes.append(reinterpret_cast<const char*>(identity->data()), identity->size());
  return bytes;
}

absl::Status WriteAndSync(int fd, const std::string& header, absl::Span<const uint8_t> payload,
                          absl::Time time) {
  if (auto s = WriteAll(fd, header.data(), header.size()); !s.ok()) return s;
  if (auto s = WriteAll(fd, payload.data(), payload.size()); !s.ok()) return s;
  // The kernel's own stamps move in ticks of milliseconds, too coarse to order a burst of files.
  const timespec stamps[] = {absl::ToTimespec(time), absl::ToTimespec(time)};
  if (futimens(fd, stamps) != 0) return absl::ErrnoToStatus(errno, "set time");
  return fsync(fd) == 0 ? absl::OkStatus() : absl::ErrnoToStatus(errno, "fsync");
}

}  // namespace

uint64_t SpillFingerprint(absl::string_view text) {
  uint8_t digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const uint8_t*>(text.data()), text.size(), digest);
  uint64_t fingerprint;
  std::memcpy(&fingerprint, digest, sizeof(fingerprint));
  return fingerprint;
}

uint64_t SpillContents(uint64_t layout_fingerprint, uint64_t model_fingerprint) {
  return SpillFingerprint(absl::StrCat(layout_fingerprint, " ", model_fingerprint));
}

std::string SpillFileStem(absl::string_view id) {
  uint8_t digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const uint8_t*>(id.data()), id.size(), digest);
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(digest), kNameDigestBytes));
}

std::string SpillFileName(absl::string_view id) {
  return absl::StrCat(SpillFileStem(id), kFileSuffix);
}

std::string SpillTemporaryName(absl::string_view stem) {
  return absl::StrCat(stem, kTemporarySuffix);
}

std::string SpillMarkerName(absl::string_view stem) { return absl::StrCat(stem, kMarkerSuffix); }

bool IsSpillFileName(absl::string_view name) { return IsHexWithSuffix(name, kFileSuffix); }

bool IsSpillTemporaryName(absl::string_view name) {
  return IsHexWithSuffix(name, kTemporarySuffix);
}

bool IsSpillMarkerName(absl::string_view name) { return IsHexWithSuffix(name, kMarkerSuffix); }

int64_t SpillFileBytes(const SpillHeader& header) {
  return static_cast<int64_t>(sizeof(FixedHeader) + header.id.size() + header.metadata.size() +
                              header.tokens.size() * sizeof(header.tokens[0]) +
                              sizeof(SpillChecksum)) +
         header.payload_bytes;
}

bool IsRemovedDirectory(int directory_fd) {
  struct stat directory = {};
  return fstat(directory_fd, &directory) == 0 && directory.st_nlink == 0;
}

absl::Status SpillNameError(int error, int directory_fd, absl::string_view what,
                            absl::string_view name) {
  if (error != ENOENT || !IsRemovedDirectory(directory_fd)) {
    return absl::ErrnoToStatus(error, absl::StrCat(what, name));
  }
  return absl::NotFoundError(
      absl::StrCat(what, name,
                   ": its directory was removed while it was in use; restart the daemon, or unload "
                   "and load the model, to use the disk again"));
}

absl::StatusOr<SpillChecksum> WriteSpillTemporary(int directory_fd, const std::string& temporary,
                                                  const SpillHeader& header,
                                                  absl::Span<const uint8_t> payload,
                                                  absl::Time time) {
  KVASIR_CHECK(header.payload_bytes == static_cast<int64_t>(payload.size()));
  SpillChecksum identity;
  const std::string bytes =
      EncodeHeader(header, ChecksumOf(payload.data(), payload.size()), &identity);
  const int fd =
      openat(directory_fd, temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) return SpillNameError(errno, directory_fd, "spill: cannot create ", temporary);
  absl::Status status = WriteAndSync(fd, bytes, payload, time);
  // Close reports what a network file system could not write back earlier.
  if (close(fd) != 0 && status.ok()) status = absl::ErrnoToStatus(errno, "close");
  if (status.ok()) return identity;
  (void)RemoveSpillFile(directory_fd, temporary);
  return absl::Status(status.code(),
                      absl::StrCat("spill: cannot write ", temporary, " (",
                                   bytes.size() + payload.size(), " bytes): ", status.message()));
}

absl::Status PublishSpillFile(int directory_fd, const std::string& temporary,
                              const std::string& name) {
  if (renameat(directory_fd, temporary.c_str(), directory_fd, name.c_str()) == 0)
    return absl::OkStatus();
  const absl::Status status = SpillNameError(errno, directory_fd, "spill: cannot name ", name);
  (void)RemoveSpillFile(directory_fd, temporary);
  return status;
}

ReleasedFile::~ReleasedFile() {
  if (fd_ < 0) return;
  if (empty_it_) (void)!ftruncate(fd_, 0);
  close(fd_);
}

absl::Status RemoveSpillFile(int directory_fd, const std::string& name,
                             std::vector<ReleasedFile>* held) {
  // Not opened for reading, so that a file without rights is held as well.
  if (held != nullptr)
    held->emplace_back(openat(directory_fd, name.c_str(), O_PATH | O_CLOEXEC | O_NOFOLLOW));
  if (unlinkat(directory_fd, name.c_str(), 0) == 0 || errno == ENOENT) return absl::OkStatus();
  const int error = errno;
  const int fd = openat(directory_fd, name.c_str(), O_WRONLY | O_TRUNC | O_CLOEXEC | O_NOFOLLOW);
  if (fd >= 0) {
    close(fd);
    return absl::OkStatus();
  }
  return absl::ErrnoToStatus(error, absl::StrCat("spill: cannot remove ", name, ", nor empty it"));
}

absl::Status SyncSpillDirectory(int directory_fd) {
  if (fsync(directory_fd) == 0 || errno == EINVAL || errno == ENOTSUP) return absl::OkStatus();
  return absl::ErrnoToStatus(errno, "spill: cannot sync the directory");
}

absl::StatusOr<SpillFileReader> SpillFileReader::Open(int directory_fd, const std::string& name) {
  const int fd = openat(directory_fd, name.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) return SpillNameError(errno, directory_fd, "spill: cannot open ", name);
  SpillFileReader reader(fd);
  if (absl::Status status = reader.ReadHeader(); !status.ok()) {
    return absl::Status(status.code(), absl::StrCat("spill file ", name, ": ", status.message()));
  }
  return reader;
}

SpillFileReader::SpillFileReader(SpillFileReader&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)),
      header_(std::move(other.header_)),
      payload_checksum_(other.payload_checksum_),
      identity_(other.identity_),
      payload_offset_bytes_(other.payload_offset_bytes_),
      file_bytes_(other.file_bytes_),
      modified_(other.modified_) {}

SpillFileReader::~SpillFileReader() {
  if (fd_ >= 0) close(fd_);
}

absl::Status SpillFileReader::ReadHeader() {
  struct stat file;
  if (fstat(fd_, &file) != 0) return absl::ErrnoToStatus(errno, "stat");
  if (!S_ISREG(file.st_mode)) return absl::DataLossError("not a regular file");
  file_bytes_ = file.st_size;
  modified_ = absl::TimeFromTimespec(file.st_mtim);

  FixedHeader fixed;
  if (auto s = ReadAllAt(fd_, 0, &fixed, sizeof(fixed)); !s.ok()) return s;
  if (std::memcmp(fixed.magic, kMagic, sizeof(kMagic)) != 0) {
    return absl::DataLossError("the first 8 bytes are not those of a spill file");
  }
  if (fixed.version != kVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("format version ", fixed.version, ", this build reads version ", kVersion));
  }
  // Nothing below is trusted before the checksum is; these bounds only keep the allocation sane.
  const uint64_t header_bytes = sizeof(FixedHeader) + uint64_t{fixed.id_bytes} +
                                fixed.metadata_bytes + uint64_t{fixed.num_tokens} * sizeof(int32_t);
  const uint64_t rest_bytes = static_cast<uint64_t>(file_bytes_) - sizeof(FixedHeader);
  if (fixed.id_bytes > kMaxSpillIdBytes || fixed.metadata_bytes > kMaxSpillMetadataBytes ||
      fixed.payload_bytes > rest_bytes ||
      header_bytes + sizeof(SpillChecksum) + fixed.payload_bytes !=
          static_cast<uint64_t>(file_bytes_)) {
    return absl::DataLossError(
        absl::StrCat("the file has ", file_bytes_, " bytes, which is not what its header says (id ",
                     fixed.id_bytes, ", metadata ", fixed.metadata_bytes, ", tokens ",
                     fixed.num_tokens, ", payload ", fixed.payload_bytes, ")"));
  }

  std::string bytes(header_bytes + sizeof(SpillChecksum), '\0');
  if (auto s = ReadAllAt(fd_, 0, bytes.data(), bytes.size()); !s.ok()) return s;
  const SpillChecksum checksum = ChecksumOf(bytes.data(), header_bytes);
  if (std::memcmp(bytes.data() + header_bytes, checksum.data(), checksum.size()) != 0) {
    return absl::DataLossError("the header does not match its checksum");
  }
  identity_ = checksum;

  const char* next = bytes.data() + sizeof(FixedHeader);
  header_.layout_fingerprint = fixed.layout_fingerprint;
  header_.model_fingerprint = fixed.model_fingerprint;
  header_.id.assign(next, fixed.id_bytes);
  next += fixed.id_bytes;
  header_.metadata.assign(next, fixed.metadata_bytes);
  next += fixed.metadata_bytes;
  header_.tokens.resize(fixed.num_tokens);
  std::memcpy(header_.tokens.data(), next, fixed.num_tokens * sizeof(int32_t));
  header_.payload_bytes = static_cast<int64_t>(fixed.payload_bytes);
  payload_checksum_ = fixed.payload_checksum;
  payload_offset_bytes_ = static_cast<int64_t>(bytes.size());
  return absl::OkStatus();
}

absl::Status SpillFileReader::ReadPayload(absl::Span<const absl::Span<uint8_t>> target,
                                          const SpillRead& read,
                                          const std::atomic<bool>* abandoned) {
  ChecksumStream stream;
  int64_t offset_bytes = payload_offset_bytes_;
  (void)posix_fadvise(fd_, 0, 0, POSIX_FADV_SEQUENTIAL);  // small reads, a wide read-ahead
  for (const absl::Span<uint8_t>& part : target) {
    KVASIR_RETURN_IF_ERROR(
        ReadAllAt(fd_, offset_bytes, part.data(), part.size(), &stream, read, abandoned));
    offset_bytes += static_cast<int64_t>(part.size());
  }
  KVASIR_CHECK(offset_bytes - payload_offset_bytes_ == header_.payload_bytes);
  if (stream.Finish() != payload_checksum_) {
    return absl::DataLossError("the payload does not match its checksum");
  }
  return absl::OkStatus();
}

}  // namespace kvasir
