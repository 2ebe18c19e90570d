#include "hub/file_digest.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/regular_file.h"
#include "base/status_macros.h"
#include "hub/hub_cache.h"

namespace kvasir {
namespace {

constexpr size_t kPieceBytes = 1 << 20;

class Digest {
 public:
  explicit Digest(const EVP_MD* kind) : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
    KVASIR_CHECK(context_ != nullptr && EVP_DigestInit_ex(context_.get(), kind, nullptr) == 1);
  }
  void Add(absl::string_view bytes) {
    EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size());
  }
  std::string Hex() {
    unsigned char sum[EVP_MAX_MD_SIZE];
    unsigned size = 0;
    EVP_DigestFinal_ex(context_.get(), sum, &size);
    return absl::BytesToHexString({reinterpret_cast<const char*>(sum), size});
  }

 private:
  std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context_;
};

}  // namespace

absl::Status CheckDigest(const std::string& path, const std::string& digest,
                         const std::atomic<bool>* cancelled) {
  KVASIR_ASSIGN_OR_RETURN(const int fd, OpenRegularFile(path));
  const std::unique_ptr<const int, void (*)(const int*)> closer(&fd,
                                                                [](const int* f) { close(*f); });
  const bool git = digest.size() == 40;
  Digest sum(git ? EVP_sha1() : EVP_sha256());
  if (git) {
    // Git's name of a blob covers a head with its length.
    struct stat status;
    if (fstat(fd, &status) != 0) return CacheError(errno, absl::StrCat("read ", path));
    sum.Add(absl::StrCat("blob ", status.st_size, absl::string_view("\0", 1)));
  }
  std::vector<char> piece(kPieceBytes);
  while (true) {
    if (cancelled != nullptr && cancelled->load()) return absl::CancelledError("interrupted");
    const ssize_t got = read(fd, piece.data(), piece.size());
    if (got < 0) return CacheError(errno, absl::StrCat("read ", path));
    if (got == 0) break;
    sum.Add({piece.data(), static_cast<size_t>(got)});
  }
  const std::string found = sum.Hex();
  if (found == digest) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat("the checksum of its content is ", found, ", but the hub lists ", digest));
}

}  // namespace kvasir
