#include "server/grpc/neighbours/tokenizer_archive.h"

#include <openssl/sha.h>

#include <array>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/regular_file.h"

namespace kvasir {
namespace {

constexpr const char* kFiles[] = {
    "tokenizer.json",    "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "tokenizer.model",       "vocab.json",
    "merges.txt",        "chat_template.jinja",   "chat_template.json",
    "config.json",       "generation_config.json"};
constexpr size_t kMaxBytes = 128 << 20;

// The zip format's checksum (polynomial 0xEDB88320, reflected).
uint32_t Crc32(absl::string_view bytes) {
  static const std::array<uint32_t, 256> kTable = [] {
    std::array<uint32_t, 256> table{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t value = i;
      for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ (value & 1 ? 0xEDB88320u : 0u);
      table[i] = value;
    }
    return table;
  }();
  uint32_t crc = ~uint32_t{0};
  for (const char byte : bytes)
    crc = (crc >> 8) ^ kTable[(crc ^ static_cast<uint8_t>(byte)) & 0xFF];
  return ~crc;
}

// Little-endian, as everything in a zip file.
void Put(uint32_t value, int num_bytes, std::string* out) {
  for (int i = 0; i < num_bytes; ++i) out->push_back(static_cast<char>(value >> (8 * i)));
}

// What stands in both headers of an entry: version 2.0, no flags, stored, 1980-01-01, checksum and
// sizes.
void PutEntry(absl::string_view name, absl::string_view content, std::string* out) {
  Put(20, 2, out);
  Put(0, 2, out);
  Put(0, 2, out);
  Put(0, 2, out);
  Put(0x21, 2, out);
  Put(Crc32(content), 4, out);
  Put(static_cast<uint32_t>(content.size()), 4, out);
  Put(static_cast<uint32_t>(content.size()), 4, out);
  Put(static_cast<uint32_t>(name.size()), 2, out);
  Put(0, 2, out);  // no extra field
}

}  // namespace

absl::StatusOr<TokenizerArchive> ArchiveTokenizer(const std::string& model_path,
                                                  absl::string_view model_name) {
  TokenizerArchive archive;
  std::string directory;
  uint32_t entries = 0;
  for (const char* name : kFiles) {
    if (absl::EndsWith(model_path, ".gguf")) break;
    const absl::StatusOr<std::string> read =
        ReadRegularFile(absl::StrCat(model_path, "/", name), kMaxBytes);
    if (absl::IsNotFound(read.status())) continue;  // not every model has it
    const bool too_large = absl::IsInvalidArgument(read.status());
    if (too_large || (read.ok() && archive.zip.size() + read->size() > kMaxBytes)) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the tokenizer of ", model_name, " has more than the ", kMaxBytes,
                       " bytes that are sent; copy its files yourself"));
    }
    if (!read.ok()) {
      return absl::UnavailableError(absl::StrCat(name, " of ", model_name, " cannot be read"));
    }
    const std::string& content = *read;
    const auto offset = static_cast<uint32_t>(archive.zip.size());
    Put(0x04034b50, 4, &archive.zip);
    PutEntry(name, content, &archive.zip);
    absl::StrAppend(&archive.zip, name, content);
    Put(0x02014b50, 4, &directory);
    Put(20, 2, &directory);  // made by
    PutEntry(name, content, &directory);
    Put(0, 2, &directory);  // no comment
    Put(0, 2, &directory);  // on the first disk
    Put(0, 2, &directory);  // bytes
    Put(0, 4, &directory);  // no attributes
    Put(offset, 4, &directory);
    absl::StrAppend(&directory, name);
    ++entries;
  }
  if (entries == 0) {
    return absl::UnimplementedError(absl::StrCat(
        model_name, " has no tokenizer files to send (a GGUF file holds its own); use text"));
  }
  const auto directory_offset = static_cast<uint32_t>(archive.zip.size());
  archive.zip += directory;
  Put(0x06054b50, 4, &archive.zip);
  Put(0, 4, &archive.zip);  // one disk
  Put(entries, 2, &archive.zip);
  Put(entries, 2, &archive.zip);
  Put(static_cast<uint32_t>(directory.size()), 4, &archive.zip);
  Put(directory_offset, 4, &archive.zip);
  Put(0, 2, &archive.zip);  // no comment

  std::array<unsigned char, SHA256_DIGEST_LENGTH> digest;
  SHA256(reinterpret_cast<const unsigned char*>(archive.zip.data()), archive.zip.size(),
         digest.data());
  archive.sha256 = absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(digest.data()), digest.size()));
  return archive;
}

}  // namespace kvasir
