// The key-value part of a GGUF file. Values borrow the file's mapped bytes, so a GgufMetadata lives
// no longer than its file. Immutable after parsing; readable from any thread.
//
// Files are bytes from strangers: a getter checks type and range, and its error names the key, the
// value and what was wanted. A key that is absent is not an error: nullopt.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace kvasir {

// Types of values, by the format's own numbers.
enum class GgufValueType : uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};

// Bytes of one value of a fixed size; 0 for strings, arrays and unknown types.
size_t GgufScalarBytes(GgufValueType type);

// Elements as they stand in the file; decoded when asked for, so that a large array costs nothing
// that its file does not hold.
struct GgufArray {
  GgufValueType type = GgufValueType::kU8;
  uint64_t count = 0;
  absl::Span<const uint8_t> bytes;  // strings: u64 length and text each, already checked
};

using GgufValue = std::variant<uint64_t, int64_t, double, bool, absl::string_view, GgufArray>;

class GgufMetadata {
 public:
  // AlreadyExists when the key stands there already.
  absl::Status Add(absl::string_view key, GgufValue value);

  bool Has(absl::string_view key) const { return values_.count(key) > 0; }
  const GgufValue* Find(absl::string_view key) const;

  absl::StatusOr<std::optional<int64_t>> Integer(absl::string_view key, int64_t min,
                                                 int64_t max) const;
  // Finite; an integer counts as the number that it is.
  absl::StatusOr<std::optional<double>> Number(absl::string_view key) const;
  absl::StatusOr<std::optional<bool>> Bool(absl::string_view key) const;
  absl::StatusOr<std::optional<absl::string_view>> String(absl::string_view key) const;

  // Arrays. Booleans count as 0 and 1 among integers.
  absl::StatusOr<std::optional<std::vector<int64_t>>> Integers(absl::string_view key) const;
  absl::StatusOr<std::optional<std::vector<float>>> Floats(absl::string_view key) const;
  absl::StatusOr<std::optional<std::vector<absl::string_view>>> Strings(
      absl::string_view key) const;

  const std::map<absl::string_view, GgufValue>& values() const { return values_; }

 private:
  std::map<absl::string_view, GgufValue> values_;  // keys borrow the file too
};

// For messages: at most 80 bytes of a foreign text, control characters escaped.
std::string QuoteForeign(absl::string_view text);

}  // namespace kvasir
