#include "runtime/formats/gguf_metadata.h"

#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace kvasir {
namespace {

template <typename T>
T Load(const uint8_t* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(T));  // little-endian hosts only, as the rest of Kvasir
  return value;
}

std::optional<int64_t> LoadInteger(GgufValueType type, const uint8_t* bytes) {
  switch (type) {
    case GgufValueType::kU8:
      return Load<uint8_t>(bytes);
    case GgufValueType::kI8:
      return Load<int8_t>(bytes);
    case GgufValueType::kU16:
      return Load<uint16_t>(bytes);
    case GgufValueType::kI16:
      return Load<int16_t>(bytes);
    case GgufValueType::kU32:
      return Load<uint32_t>(bytes);
    case GgufValueType::kI32:
      return Load<int32_t>(bytes);
    case GgufValueType::kBool:
      return *bytes != 0 ? 1 : 0;
    case GgufValueType::kI64:
      return Load<int64_t>(bytes);
    case GgufValueType::kU64: {
      const uint64_t value = Load<uint64_t>(bytes);
      if (value > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
      return static_cast<int64_t>(value);
    }
    default:
      return std::nullopt;
  }
}

// A stand-in for one value of any fixed size, to ask about its type.
constexpr uint8_t kZeros[8] = {};

// Numbers of one key: layers, tokens of a vocabulary. Sixteen times the largest vocabulary known.
constexpr uint64_t kMaxNumbers = uint64_t{1} << 22;

absl::Status TooMany(absl::string_view key, uint64_t count) {
  return absl::InvalidArgumentError(absl::StrCat("GGUF key ", QuoteForeign(key), " has ", count,
                                                 " entries; at most ", kMaxNumbers, " are read"));
}

absl::Status WrongType(absl::string_view key, absl::string_view wanted) {
  return absl::InvalidArgumentError(
      absl::StrCat("GGUF key ", QuoteForeign(key), " is not ", wanted));
}

// nullptr: absent.
absl::StatusOr<const GgufArray*> FindArray(const GgufMetadata& metadata, absl::string_view key,
                                           absl::string_view wanted) {
  const GgufValue* value = metadata.Find(key);
  if (value == nullptr) return nullptr;
  const auto* array = std::get_if<GgufArray>(value);
  if (array == nullptr) return WrongType(key, wanted);
  return array;
}

}  // namespace

size_t GgufScalarBytes(GgufValueType type) {
  switch (type) {
    case GgufValueType::kU8:
    case GgufValueType::kI8:
    case GgufValueType::kBool:
      return 1;
    case GgufValueType::kU16:
    case GgufValueType::kI16:
      return 2;
    case GgufValueType::kU32:
    case GgufValueType::kI32:
    case GgufValueType::kF32:
      return 4;
    case GgufValueType::kU64:
    case GgufValueType::kI64:
    case GgufValueType::kF64:
      return 8;
    default:
      return 0;
  }
}

std::string QuoteForeign(absl::string_view text) {
  constexpr size_t kMax = 80;
  return absl::StrCat("\"", absl::Utf8SafeCEscape(text.substr(0, kMax)),
                      text.size() > kMax ? "...\"" : "\"");
}

absl::Status GgufMetadata::Add(absl::string_view key, GgufValue value) {
  if (!values_.emplace(key, std::move(value)).second) {
    return absl::AlreadyExistsError(
        absl::StrCat("GGUF key ", QuoteForeign(key), " stands twice in the file"));
  }
  return absl::OkStatus();
}

const GgufValue* GgufMetadata::Find(absl::string_view key) const {
  const auto it = values_.find(key);
  return it == values_.end() ? nullptr : &it->second;
}

absl::StatusOr<std::optional<int64_t>> GgufMetadata::Integer(absl::string_view key, int64_t min,
                                                             int64_t max) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::nullopt;
  int64_t number = 0;
  if (const auto* as_unsigned = std::get_if<uint64_t>(value)) {
    if (*as_unsigned > static_cast<uint64_t>(max < 0 ? 0 : max)) {
      return absl::InvalidArgumentError(absl::StrCat("GGUF key ", QuoteForeign(key), " is ",
                                                     *as_unsigned, "; want ", min, " to ", max));
    }
    number = static_cast<int64_t>(*as_unsigned);
  } else if (const auto* as_signed = std::get_if<int64_t>(value)) {
    number = *as_signed;
  } else {
    return WrongType(key, "an integer");
  }
  if (number < min || number > max) {
    return absl::InvalidArgumentError(
        absl::StrCat("GGUF key ", QuoteForeign(key), " is ", number, "; want ", min, " to ", max));
  }
  return number;
}

absl::StatusOr<std::optional<double>> GgufMetadata::Number(absl::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::nullopt;
  double number = 0;
  if (const auto* as_double = std::get_if<double>(value)) {
    number = *as_double;
  } else if (const auto* as_unsigned = std::get_if<uint64_t>(value)) {
    number = static_cast<double>(*as_unsigned);
  } else if (const auto* as_signed = std::get_if<int64_t>(value)) {
    number = static_cast<double>(*as_signed);
  } else {
    return WrongType(key, "a number");
  }
  if (!std::isfinite(number)) return WrongType(key, "a finite number");
  return number;
}

absl::StatusOr<std::optional<bool>> GgufMetadata::Bool(absl::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::nullopt;
  const auto* as_bool = std::get_if<bool>(value);
  if (as_bool == nullptr) return WrongType(key, "true or false");
  return *as_bool;
}

absl::StatusOr<std::optional<absl::string_view>> GgufMetadata::String(absl::string_view key) const {
  const GgufValue* value = Find(key);
  if (value == nullptr) return std::nullopt;
  const auto* text = std::get_if<absl::string_view>(value);
  if (text == nullptr) return WrongType(key, "a string");
  return *text;
}

absl::StatusOr<std::optional<std::vector<int64_t>>> GgufMetadata::Integers(
    absl::string_view key) const {
  KVASIR_ASSIGN_OR_RETURN(const GgufArray* array, FindArray(*this, key, "an array of integers"));
  if (array == nullptr) return std::nullopt;
  // Checked before anything is allocated: eight bytes for each of a billion are more than the file
  // pays for.
  if (!LoadInteger(array->type, kZeros)) return WrongType(key, "an array of integers");
  const size_t size = GgufScalarBytes(array->type);
  if (array->count > kMaxNumbers) return TooMany(key, array->count);
  std::vector<int64_t> numbers;
  numbers.reserve(array->count);
  for (uint64_t i = 0; i < array->count; ++i) {
    const std::optional<int64_t> number = LoadInteger(array->type, array->bytes.data() + i * size);
    if (!number) return WrongType(key, "an array of integers below 2^63");
    numbers.push_back(*number);
  }
  return numbers;
}

absl::StatusOr<std::optional<std::vector<float>>> GgufMetadata::Floats(
    absl::string_view key) const {
  KVASIR_ASSIGN_OR_RETURN(const GgufArray* array, FindArray(*this, key, "an array of numbers"));
  if (array == nullptr) return std::nullopt;
  if (array->type != GgufValueType::kF32 && array->type != GgufValueType::kF64) {
    return WrongType(key, "an array of numbers with a fraction");
  }
  if (array->count > kMaxNumbers) return TooMany(key, array->count);
  std::vector<float> numbers;
  numbers.reserve(array->count);
  for (uint64_t i = 0; i < array->count; ++i) {
    if (array->type == GgufValueType::kF32) {
      numbers.push_back(Load<float>(array->bytes.data() + i * sizeof(float)));
    } else {
      numbers.push_back(static_cast<float>(Load<double>(array->bytes.data() + i * sizeof(double))));
    }
  }
  return numbers;
}

absl::StatusOr<std::optional<std::vector<absl::string_view>>> GgufMetadata::Strings(
    absl::string_view key) const {
  KVASIR_ASSIGN_OR_RETURN(const GgufArray* array, FindArray(*this, key, "an array of strings"));
  if (array == nullptr) return std::nullopt;
  if (array->type != GgufValueType::kString) return WrongType(key, "an array of strings");
  std::vector<absl::string_view> texts;
  texts.reserve(array->count);
  const uint8_t* at = array->bytes.data();
  for (uint64_t i = 0; i < array->count; ++i) {
    const auto length = static_cast<size_t>(Load<uint64_t>(at));
    texts.emplace_back(reinterpret_cast<const char*>(at) + sizeof(uint64_t), length);
    at += sizeof(uint64_t) + length;
  }
  KVASIR_CHECK(at == array->bytes.data() + array->bytes.size());
  return texts;
}

}  // namespace kvasir
