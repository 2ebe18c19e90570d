// Any bytes as a GGUF file. Whatever is accepted must lie inside the file, tensor behind tensor,
// and every key must be readable as something.

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/check.h"
#include "runtime/formats/gguf_header.h"

namespace kvasir {
namespace {

void ReadEveryKey(const GgufMetadata& metadata) {
  for (const auto& [key, value] : metadata.values()) {
    const bool readable = metadata.Integer(key, INT64_MIN, INT64_MAX).ok() ||
                          metadata.Number(key).ok() || metadata.Bool(key).ok() ||
                          metadata.String(key).ok() || metadata.Integers(key).ok() ||
                          metadata.Floats(key).ok() || metadata.Strings(key).ok();
    // A number that is not finite, or an array of u64 above 2^63, is read by nobody.
    const auto* array = std::get_if<GgufArray>(&value);
    KVASIR_CHECK(readable || std::holds_alternative<double>(value) ||
                 (array != nullptr && array->type == GgufValueType::kU64));
  }
}

void ParseAndCheck(const std::string& file) {
  const auto header = ParseGgufHeader(
      absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(file.data()), file.size()), "fuzz");
  if (!header.ok()) {
    KVASIR_CHECK(!header.status().message().empty());
    return;
  }
  size_t covered = 0;
  for (const GgufTensor& tensor : header->tensors) {
    KVASIR_CHECK(tensor.begin >= covered && tensor.bytes <= file.size() - tensor.begin);
    covered = tensor.begin + tensor.bytes;
  }
  ReadEveryKey(header->metadata);
}

void Append(uint64_t value, int bytes, std::string* text) {
  for (int i = 0; i < bytes; ++i) text->push_back(static_cast<char>(value >> (8 * i) & 0xff));
}

}  // namespace
}  // namespace kvasir

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  kvasir::ParseAndCheck(bytes);
  if (size < 2) return 0;
  // The same bytes behind a true magic, version and small counts: random ones are seldom possible.
  for (const size_t data_bytes : {0, 64, 4096}) {
    std::string file = "GGUF";
    kvasir::Append(3, 4, &file);
    kvasir::Append(data[0] % 4, 8, &file);
    kvasir::Append(data[1] % 4, 8, &file);
    kvasir::ParseAndCheck(file + bytes.substr(2) + std::string(data_bytes, '\0'));
  }
  return 0;
}
