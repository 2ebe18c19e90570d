// Any bytes as a safetensors file. Whatever is accepted must lie inside the file, tensor behind
// tensor.

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/check.h"
#include "runtime/model/safetensors.h"

namespace kvasir {
namespace {

void ParseAndCheck(const std::string& file) {
  const auto header = ParseSafetensorsHeader(
      absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(file.data()), file.size()), "fuzz");
  if (!header.ok()) {
    KVASIR_CHECK(!header.status().message().empty());
    return;
  }
  size_t covered = 0;
  for (const auto& [name, entry] : *header) {
    KVASIR_CHECK(entry.begin >= 8 && entry.begin <= entry.end && entry.end <= file.size());
    covered += entry.end - entry.begin;
    if (const auto type = entry.weight_type()) {
      uint64_t bytes = ElementBytes(*type);
      for (const int64_t dimension : entry.shape) bytes *= static_cast<uint64_t>(dimension);
      KVASIR_CHECK(bytes == entry.end - entry.begin);
    }
  }
  KVASIR_CHECK(covered <= file.size());
}

}  // namespace
}  // namespace kvasir

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  kvasir::ParseAndCheck(bytes);
  // The same bytes as a header whose length is true, in front of data of 0, 4 and 24 bytes: most of
  // the parser lies behind a length that random bytes seldom hit.
  std::string length;
  for (int i = 0; i < 8; ++i) length.push_back(static_cast<char>(size >> (8 * i) & 0xff));
  for (const size_t data_bytes : {0, 4, 24}) {
    kvasir::ParseAndCheck(length + bytes + std::string(data_bytes, '\0'));
  }
  return 0;
}
