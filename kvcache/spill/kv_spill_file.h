// The format of one spilled session on disk, and the only code that knows it: writing one whole
// file, reading its header, reading its payload. Policy (which files, when, how many) is
// kv_spill.h's.
//
// File `<32 hex digits of SHA-256(id)>.kvs`, mode 0600, integers little-endian, no padding:
//
//   offset size
//        0    8  magic "KVASPILL"
//        8    4  format version, 2
//       12    4  id_bytes
//       16    8  layout fingerprint (KvLayout::fingerprint)
//       24    8  model fingerprint
//       32    4  metadata_bytes
//       36    4  num_tokens
//       40    8  payload_bytes
//       48   16  checksum of the payload
//       64       id [id_bytes], metadata [metadata_bytes], token ids i32 [num_tokens]
//        ..  16  checksum of everything before it
//        ..      payload [payload_bytes], to the end of the file
//
// Checksums are AES-128-GMAC under a fixed key: used as a fast universal hash, not as a signature.
// It overlooks accidental damage with probability below 2^-90, and its 11 GB/s (SHA-256: 2 GB/s;
// openssl on Zen 5) keep it out of the way of a restore, which reads from the page cache at about
// that speed.
//
// Free functions and values; thread safe as such. All I/O blocks. Paths are relative to a directory
// descriptor.
#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"

namespace kvasir {

// As pread(2), which an empty one stands for. Tests put slow and failing ones in its place.
using SpillRead = std::function<ssize_t(int fd, void* data, size_t size_bytes, off_t offset_bytes)>;

using SpillChecksum = std::array<uint8_t, 16>;

struct SpillHeader {
  uint64_t layout_fingerprint = 0;
  uint64_t model_fingerprint = 0;
  std::string id;
  std::string metadata;
  std::vector<int32_t> tokens;
  int64_t payload_bytes = 0;
};

inline constexpr size_t kMaxSpillIdBytes = 1024;
inline constexpr size_t kMaxSpillMetadataBytes = size_t{1} << 20;

// A digest of what tells one model's weights from another's, for the header.
uint64_t SpillFingerprint(absl::string_view text);
// Of both fingerprints: one number for what files can be read by whom.
uint64_t SpillContents(uint64_t layout_fingerprint, uint64_t model_fingerprint);

// The <hex> of an id; its files "<hex>.kvs", "<hex>.tmp" and "<hex>.gone"; whether a name is one of
// these.
std::string SpillFileStem(absl::string_view id);
std::string SpillFileName(absl::string_view id);
std::string SpillTemporaryName(absl::string_view stem);
std::string SpillMarkerName(absl::string_view stem);
bool IsSpillFileName(absl::string_view name);
bool IsSpillTemporaryName(absl::string_view name);
bool IsSpillMarkerName(absl::string_view name);

// Bytes of the file that holds this.
int64_t SpillFileBytes(const SpillHeader& header);

// Whether somebody has removed the directory under who holds it open.
bool IsRemovedDirectory(int directory_fd);

// What `error`, of a call on that name in the directory, means: "<what><name>: <why>".
absl::Status SpillNameError(int error, int directory_fd, absl::string_view what,
                            absl::string_view name);

// Writes and syncs a file under a passing name; PublishSpillFile then gives it the one that it is
// found by. After an error no trace of it is left; the status has the system's error
// (ResourceExhausted for a full disk). header.payload_bytes must be payload.size(). `time` becomes
// the file's modification time, by which age is told after a restart. Returns what
// SpillFileReader::identity will.
absl::StatusOr<SpillChecksum> WriteSpillTemporary(int directory_fd, const std::string& temporary,
                                                  const SpillHeader& header,
                                                  absl::Span<const uint8_t> payload,
                                                  absl::Time time);
// In place of a former file under `name`, which after an error is as it was; the temporary is gone.
absl::Status PublishSpillFile(int directory_fd, const std::string& temporary,
                              const std::string& name);
// A file whose bytes nobody wants any more, held open. When this goes the file system takes them
// back, which takes some 0.7 ms for each MiB (ext4).
class ReleasedFile {
 public:
  // Of a file that lost its name, or is to be emptied. Takes the descriptor; -1: none.
  explicit ReleasedFile(int fd, bool empty_it = false) : fd_(fd), empty_it_(empty_it) {}
  ReleasedFile(ReleasedFile&& other) noexcept
      : fd_(std::exchange(other.fd_, -1)), empty_it_(other.empty_it_) {}
  ReleasedFile& operator=(ReleasedFile&&) = delete;
  ~ReleasedFile();

 private:
  int fd_;
  bool empty_it_;
};

// Takes a name away. Where the system refuses that, the file is emptied instead: what it held must
// not be found again. An error means that neither was possible; a name that is not there is none.
// The file goes at once, or, where `held` is given, with what is put there, if the system has a
// descriptor for it: for threads that must not wait for its size.
absl::Status RemoveSpillFile(int directory_fd, const std::string& name,
                             std::vector<ReleasedFile>* held = nullptr);
// After OK, names published before survive a crash of the machine, where the file system can do
// that.
absl::Status SyncSpillDirectory(int directory_fd);

class SpillFileReader {
 public:
  // Opens a file and verifies its header. NotFound; DataLoss saying what is wrong with the content;
  // FailedPrecondition for a format version this build does not read; or the system's error.
  static absl::StatusOr<SpillFileReader> Open(int directory_fd, const std::string& name);

  SpillFileReader(SpillFileReader&& other) noexcept;
  SpillFileReader& operator=(SpillFileReader&&) = delete;
  ~SpillFileReader();

  const SpillHeader& header() const { return header_; }
  SpillHeader& header() { return header_; }  // to move out of
  int64_t file_bytes() const { return file_bytes_; }
  absl::Time modified() const { return modified_; }
  // Equal for files of equal content only.
  const SpillChecksum& identity() const { return identity_; }

  // Fills `target`, whose sizes sum to payload_bytes. DataLoss when the content is not what was
  // written (the target then holds garbage), or the system's error. Cancelled, after at most one
  // small read more, once `abandoned`, which may be null, is true.
  absl::Status ReadPayload(absl::Span<const absl::Span<uint8_t>> target,
                           const SpillRead& read = nullptr,
                           const std::atomic<bool>* abandoned = nullptr);

 private:
  explicit SpillFileReader(int fd) : fd_(fd) {}
  absl::Status ReadHeader();

  int fd_;
  SpillHeader header_;
  SpillChecksum payload_checksum_{};
  SpillChecksum identity_{};  // the header's checksum, which covers the payload's
  int64_t payload_offset_bytes_ = 0;
  int64_t file_bytes_ = 0;
  absl::Time modified_;
};

}  // namespace kvasir
