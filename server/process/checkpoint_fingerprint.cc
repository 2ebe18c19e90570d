#include "server/process/checkpoint_fingerprint.h"

#include <openssl/evp.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <memory>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/regular_file.h"
#include "base/status_macros.h"
#include "runtime/model/loading/checkpoint_files.h"

namespace kvasir {
namespace {

constexpr int64_t kSamples = 64;
constexpr int64_t kSampleBytes = 64 * 1024;

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
    KVASIR_CHECK(context_ != nullptr &&
                 EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1);
  }
  // With its length in front, so that parts cannot flow into each other.
  void Add(absl::string_view part) {
    const std::string length = absl::StrCat(part.size(), ":");
    EVP_DigestUpdate(context_.get(), length.data(), length.size());
    EVP_DigestUpdate(context_.get(), part.data(), part.size());
  }
  std::string Hex() {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int size = 0;
    EVP_DigestFinal_ex(context_.get(), digest, &size);
    return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(digest), size));
  }

 private:
  std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context_;
};

// kSamples pieces, the first at the start and the last at the end; a small file in whole.
absl::Status AddSamples(const std::string& path, int64_t size_bytes, Sha256* digest) {
  KVASIR_ASSIGN_OR_RETURN(const int fd, OpenRegularFile(path));
  const absl::Cleanup close_file = [fd] { close(fd); };
  const bool small = size_bytes <= kSamples * kSampleBytes;
  const int64_t samples = small ? 1 : kSamples;
  std::string piece(static_cast<size_t>(small ? size_bytes : kSampleBytes), '\0');
  for (int64_t i = 0; i < samples; ++i) {
    const int64_t offset = small ? 0 : (size_bytes - kSampleBytes) / (samples - 1) * i;
    size_t read_bytes = 0;
    while (read_bytes < piece.size()) {
      const ssize_t got = pread(fd, piece.data() + read_bytes, piece.size() - read_bytes,
                                offset + static_cast<int64_t>(read_bytes));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", path));
      if (got == 0) return absl::UnavailableError(absl::StrCat(path, " became shorter"));
      read_bytes += static_cast<size_t>(got);
    }
    digest->Add(piece);
  }
  return absl::OkStatus();
}

// Weights, and what says how they are used.
bool DecidesNumbers(const std::string& file) {
  return absl::EndsWith(file, ".gguf") || absl::EndsWith(file, ".safetensors") ||
         absl::EndsWith(file, "/config.json") || absl::EndsWith(file, "/quantize_config.json") ||
         absl::EndsWith(file, "/hf_quant_config.json");
}

}  // namespace

absl::StatusOr<std::string> CheckpointFingerprint(const std::string& path,
                                                  absl::string_view variant) {
  KVASIR_ASSIGN_OR_RETURN(std::vector<std::string> files, CheckpointFiles(path));
  std::erase_if(files, [](const std::string& file) { return !DecidesNumbers(file); });
  if (files.empty()) {
    return absl::NotFoundError(absl::StrCat(path, ": no checkpoint to fingerprint"));
  }
  Sha256 digest;
  digest.Add(variant);
  for (const std::string& file : files) {
    std::error_code error;
    const auto size_bytes = static_cast<int64_t>(std::filesystem::file_size(file, error));
    if (error) return absl::ErrnoToStatus(error.value(), absl::StrCat("cannot read ", file));
    digest.Add(std::filesystem::path(file).filename().string());
    digest.Add(absl::StrCat(size_bytes));
    KVASIR_RETURN_IF_ERROR(AddSamples(file, size_bytes, &digest));
  }
  return digest.Hex();
}

}  // namespace kvasir
