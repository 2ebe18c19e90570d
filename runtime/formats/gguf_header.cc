#include "runtime/formats/gguf_header.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <set>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace kvasir {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF values are read as they stand");

constexpr uint32_t kDefaultAlignment = 32;
constexpr uint32_t kMaxAlignment = 1u << 20;  // more is no alignment that a writer would choose
constexpr uint64_t kMaxKeyBytes = 65535;      // the format's own limit
constexpr uint64_t kMaxNameBytes = 127;       // ggml holds 63; some forks of it 127
constexpr uint32_t kMaxRank = 4;
// llama.cpp's limit for strings and arrays.
constexpr uint64_t kMaxElements = uint64_t{1} << 30;
// The least that a key (empty name, one byte of value) and a tensor (one dimension) take.
constexpr uint64_t kMinKeyBytes = 8 + 4 + 1;
constexpr uint64_t kMinTensorBytes = 8 + 4 + 8 + 4 + 8;

// Walks the bytes; every read is checked against the end.
class Reader {
 public:
  Reader(absl::Span<const uint8_t> bytes, absl::string_view file_name)
      : bytes_(bytes), file_name_(file_name) {}

  size_t position() const { return position_; }
  size_t left() const { return bytes_.size() - position_; }

  template <typename T>
  absl::Status Read(absl::string_view what, T* value) {
    KVASIR_RETURN_IF_ERROR(Need(what, sizeof(T)));
    std::memcpy(value, bytes_.data() + position_, sizeof(T));
    position_ += sizeof(T);
    return absl::OkStatus();
  }

  absl::Status ReadString(absl::string_view what, uint64_t most, absl::string_view* text) {
    uint64_t length = 0;
    KVASIR_RETURN_IF_ERROR(Read(what, &length));
    if (length > most) {
      return absl::InvalidArgumentError(absl::StrCat(file_name_, ": ", what, " claims ", length,
                                                     " bytes; at most ", most,
                                                     " are allowed. The file is damaged"));
    }
    KVASIR_RETURN_IF_ERROR(Need(what, length));
    *text = {reinterpret_cast<const char*>(bytes_.data()) + position_, static_cast<size_t>(length)};
    position_ += length;
    return absl::OkStatus();
  }

  absl::Status Skip(absl::string_view what, uint64_t count) {
    KVASIR_RETURN_IF_ERROR(Need(what, count));
    position_ += count;
    return absl::OkStatus();
  }

  absl::Span<const uint8_t> Since(size_t begin) const {
    return bytes_.subspan(begin, position_ - begin);
  }

 private:
  absl::Status Need(absl::string_view what, uint64_t count) const {
    if (count <= left()) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat(file_name_, ": ", what, " needs ", count, " bytes at byte ", position_,
                     ", but the file has ", left(), " left; it is truncated, fetch it again"));
  }

  absl::Span<const uint8_t> bytes_;
  absl::string_view file_name_;
  size_t position_ = 0;
};

absl::Status NotGguf(absl::Span<const uint8_t> file, absl::string_view file_name) {
  const absl::string_view begin(reinterpret_cast<const char*>(file.data()),
                                std::min<size_t>(file.size(), 64));
  if (absl::StartsWith(begin, "version https://git-lfs")) {
    return absl::InvalidArgumentError(
        absl::StrCat(file_name,
                     " is a Git LFS pointer, not the model; fetch the model with "
                     "`git lfs pull` or download it from its page"));
  }
  if (absl::StartsWith(begin, "FUGG")) {
    return absl::UnimplementedError(absl::StrCat(
        file_name, " is a big-endian GGUF file; convert it with gguf_convert_endian.py"));
  }
  if (absl::StartsWith(begin, "ggml") || absl::StartsWith(begin, "lmgg") ||
      absl::StartsWith(begin, "tjgg") || absl::StartsWith(begin, "fmgg")) {
    return absl::UnimplementedError(
        absl::StrCat(file_name, " is a GGML file from before GGUF; convert the original again"));
  }
  return absl::InvalidArgumentError(absl::StrCat(file_name, " is no GGUF file: it begins with ",
                                                 QuoteForeign(begin.substr(0, 8)),
                                                 " and not with \"GGUF\""));
}

absl::Status CheckVersion(uint32_t version, absl::string_view file_name) {
  if (version == 2 || version == 3) return absl::OkStatus();
  if ((version & 0xffff) == 0 && version != 0) {
    return absl::UnimplementedError(absl::StrCat(
        file_name, " is a big-endian GGUF file; convert it with gguf_convert_endian.py"));
  }
  return absl::UnimplementedError(
      absl::StrCat(file_name, " has GGUF version ", version, "; versions 2 and 3 are read. ",
                   version == 1 ? "Convert the original again" : "The file is damaged or newer"));
}

// Strings of an array, each checked. `count` of them.
absl::Status SkipStrings(uint64_t count, const std::string& what, Reader* reader) {
  for (uint64_t i = 0; i < count; ++i) {
    absl::string_view text;
    KVASIR_RETURN_IF_ERROR(reader->ReadString(what, kMaxElements, &text));
  }
  return absl::OkStatus();
}

absl::StatusOr<GgufValue> ReadArray(const std::string& what, absl::string_view file_name,
                                    Reader* reader) {
  GgufArray array;
  uint32_t type = 0;
  KVASIR_RETURN_IF_ERROR(reader->Read(what, &type));
  KVASIR_RETURN_IF_ERROR(reader->Read(what, &array.count));
  array.type = static_cast<GgufValueType>(type);
  if (array.count > kMaxElements) {
    return absl::InvalidArgumentError(absl::StrCat(file_name, ": ", what, " claims ", array.count,
                                                   " elements; at most ", kMaxElements,
                                                   " are allowed. The file is damaged"));
  }
  const size_t begin = reader->position();
  if (array.type == GgufValueType::kString) {
    KVASIR_RETURN_IF_ERROR(SkipStrings(array.count, what, reader));
  } else if (const size_t size = GgufScalarBytes(array.type); size > 0) {
    KVASIR_RETURN_IF_ERROR(reader->Skip(what, array.count * size));
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat(file_name, ": ", what, " is an array of type ", type,
                     type == 9 ? ", arrays of arrays are not allowed" : ", which is unknown"));
  }
  array.bytes = reader->Since(begin);
  return array;
}

template <typename Stored, typename Kept>
absl::StatusOr<GgufValue> ReadAs(absl::string_view what, Reader* reader) {
  Stored value{};
  KVASIR_RETURN_IF_ERROR(reader->Read(what, &value));
  return GgufValue(static_cast<Kept>(value));
}

absl::StatusOr<GgufValue> ReadBool(const std::string& what, absl::string_view file_name,
                                   Reader* reader) {
  uint8_t value = 0;
  KVASIR_RETURN_IF_ERROR(reader->Read(what, &value));
  if (value > 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(file_name, ": ", what, " is a bool of value ", value, "; want 0 or 1"));
  }
  return GgufValue(value == 1);
}

absl::StatusOr<GgufValue> ReadValue(absl::string_view key, absl::string_view file_name,
                                    Reader* reader) {
  const std::string what = absl::StrCat("the value of key ", QuoteForeign(key));
  uint32_t type = 0;
  KVASIR_RETURN_IF_ERROR(reader->Read(what, &type));
  switch (static_cast<GgufValueType>(type)) {
    case GgufValueType::kU8:
      return ReadAs<uint8_t, uint64_t>(what, reader);
    case GgufValueType::kI8:
      return ReadAs<int8_t, int64_t>(what, reader);
    case GgufValueType::kU16:
      return ReadAs<uint16_t, uint64_t>(what, reader);
    case GgufValueType::kI16:
      return ReadAs<int16_t, int64_t>(what, reader);
    case GgufValueType::kU32:
      return ReadAs<uint32_t, uint64_t>(what, reader);
    case GgufValueType::kI32:
      return ReadAs<int32_t, int64_t>(what, reader);
    case GgufValueType::kF32:
      return ReadAs<float, double>(what, reader);
    case GgufValueType::kU64:
      return ReadAs<uint64_t, uint64_t>(what, reader);
    case GgufValueType::kI64:
      return ReadAs<int64_t, int64_t>(what, reader);
    case GgufValueType::kF64:
      return ReadAs<double, double>(what, reader);
    case GgufValueType::kBool:
      return ReadBool(what, file_name, reader);
    case GgufValueType::kString: {
      absl::string_view text;
      KVASIR_RETURN_IF_ERROR(reader->ReadString(what, kMaxElements, &text));
      return GgufValue(text);
    }
    case GgufValueType::kArray:
      return ReadArray(what, file_name, reader);
  }
  return absl::InvalidArgumentError(
      absl::StrCat(file_name, ": ", what, " has type ", type, ", which is unknown"));
}

// `count`, once it is known that the file could hold so many.
absl::StatusOr<uint64_t> CheckCount(int64_t count, uint64_t least_bytes, absl::string_view what,
                                    const Reader& reader, absl::string_view file_name) {
  if (count >= 0 && static_cast<uint64_t>(count) <= reader.left() / least_bytes) {
    return static_cast<uint64_t>(count);
  }
  return absl::InvalidArgumentError(absl::StrCat(file_name, " claims ", count, " ", what,
                                                 ", more than its ", reader.left(),
                                                 " bytes can hold; it is damaged or truncated"));
}

// Bytes of a tensor of this shape and type.
absl::StatusOr<size_t> TensorBytes(const GgufTensor& tensor, const std::string& where) {
  const int64_t row = tensor.shape.back();
  if (row % tensor.type.block_elements != 0) {
    return absl::InvalidArgumentError(absl::StrCat(where, " has rows of ", row, " elements, but ",
                                                   tensor.type.name, " blocks hold ",
                                                   tensor.type.block_elements));
  }
  int64_t elements = 1;
  int64_t bytes = 0;
  bool overflow = false;
  for (const int64_t dimension : tensor.shape) {
    if (dimension < 1) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, " has a dimension of ", dimension, "; want at least 1"));
    }
    overflow = overflow || __builtin_mul_overflow(elements, dimension, &elements);
  }
  overflow = overflow || __builtin_mul_overflow(elements / tensor.type.block_elements,
                                                int64_t{tensor.type.block_bytes}, &bytes);
  if (overflow) {
    return absl::InvalidArgumentError(absl::StrCat(where, " has more than 2^63 elements or bytes"));
  }
  return static_cast<size_t>(bytes);
}

absl::StatusOr<GgufTensor> ReadTensor(uint64_t index, absl::string_view file_name, Reader* reader,
                                      uint64_t* offset) {
  GgufTensor tensor;
  KVASIR_RETURN_IF_ERROR(
      reader->ReadString(absl::StrCat("the name of tensor ", index), kMaxNameBytes, &tensor.name));
  const std::string where = absl::StrCat(file_name, ": tensor ", QuoteForeign(tensor.name));
  if (tensor.name.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(file_name, ": tensor ", index, " has an empty name; the file is damaged"));
  }
  const std::string what = absl::StrCat("tensor ", QuoteForeign(tensor.name));
  uint32_t rank = 0;
  KVASIR_RETURN_IF_ERROR(reader->Read(what, &rank));
  if (rank < 1 || rank > kMaxRank) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, " has ", rank, " dimensions; want 1 to ", kMaxRank));
  }
  tensor.shape.resize(rank);
  for (uint32_t i = 0; i < rank; ++i) {
    KVASIR_RETURN_IF_ERROR(reader->Read(what, &tensor.shape[rank - 1 - i]));
  }
  uint32_t type = 0;
  KVASIR_RETURN_IF_ERROR(reader->Read(what, &type));
  const std::optional<TensorTypeInfo> info = FindTensorType(type);
  if (!info) {
    const absl::Status unknown = UnknownTensorType(type);
    return absl::Status(unknown.code(), absl::StrCat(where, ": ", unknown.message()));
  }
  tensor.type = *info;
  KVASIR_RETURN_IF_ERROR(reader->Read(what, offset));
  KVASIR_ASSIGN_OR_RETURN(tensor.bytes, TensorBytes(tensor, where));
  return tensor;
}

absl::StatusOr<uint32_t> Alignment(const GgufMetadata& metadata, absl::string_view file_name) {
  const auto stated = metadata.Integer("general.alignment", 1, kMaxAlignment);
  if (stated.ok() && !stated->has_value()) return kDefaultAlignment;
  if (stated.ok() && std::has_single_bit(static_cast<uint64_t>(**stated))) {
    return static_cast<uint32_t>(**stated);
  }
  return absl::InvalidArgumentError(absl::StrCat(file_name,
                                                 ": general.alignment is no power of "
                                                 "two up to ",
                                                 kMaxAlignment));
}

// Places the tensors in the file: in the order of listing, each at the next aligned byte.
absl::Status PlaceTensors(absl::Span<const uint64_t> offsets, size_t info_end, uint32_t alignment,
                          size_t file_bytes, absl::string_view file_name, GgufHeader* header) {
  if (header->tensors.empty()) return absl::OkStatus();
  const auto up = [alignment](uint64_t at) { return (at + alignment - 1) / alignment * alignment; };
  const uint64_t data_begin = up(info_end);
  if (data_begin > file_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(file_name, " ends before its data; it is truncated, fetch it again"));
  }
  const uint64_t data_bytes = file_bytes - data_begin;
  uint64_t expected = 0;  // offset of the next tensor
  uint64_t end = 0;       // of the last, without padding
  for (size_t i = 0; i < header->tensors.size(); ++i) {
    GgufTensor& tensor = header->tensors[i];
    if (offsets[i] != expected) {
      return absl::InvalidArgumentError(
          absl::StrCat(file_name, ": tensor ", QuoteForeign(tensor.name), " begins at byte ",
                       offsets[i], " of the data, ",
                       offsets[i] < expected ? "inside another tensor's bytes" : "behind a hole",
                       "; want byte ", expected, ". The file is damaged"));
    }
    if (expected > data_bytes || tensor.bytes > data_bytes - expected) {
      return absl::InvalidArgumentError(
          absl::StrCat(file_name, ": tensor ", QuoteForeign(tensor.name), " needs ", tensor.bytes,
                       " bytes at byte ", expected, " of the data, but the file holds ", data_bytes,
                       "; it is truncated, fetch it again"));
    }
    tensor.begin = data_begin + expected;
    end = expected + tensor.bytes;
    expected = up(end);
  }
  if (data_bytes > expected) {
    return absl::InvalidArgumentError(absl::StrCat(file_name, ": ", data_bytes - end,
                                                   " bytes trail behind the last tensor; the file "
                                                   "is damaged"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<GgufHeader> ParseGgufHeader(absl::Span<const uint8_t> file,
                                           absl::string_view file_name) {
  GgufHeader header;
  Reader reader(file, file_name);
  if (file.size() < 4 || std::memcmp(file.data(), "GGUF", 4) != 0) return NotGguf(file, file_name);
  KVASIR_RETURN_IF_ERROR(reader.Skip("the magic", 4));
  KVASIR_RETURN_IF_ERROR(reader.Read("the version", &header.version));
  KVASIR_RETURN_IF_ERROR(CheckVersion(header.version, file_name));
  int64_t claimed_tensors = 0, claimed_keys = 0;
  KVASIR_RETURN_IF_ERROR(reader.Read("the number of tensors", &claimed_tensors));
  KVASIR_RETURN_IF_ERROR(reader.Read("the number of keys", &claimed_keys));
  KVASIR_ASSIGN_OR_RETURN(const uint64_t keys,
                          CheckCount(claimed_keys, kMinKeyBytes, "keys", reader, file_name));
  KVASIR_ASSIGN_OR_RETURN(const uint64_t tensors, CheckCount(claimed_tensors, kMinTensorBytes,
                                                             "tensors", reader, file_name));

  for (uint64_t i = 0; i < keys; ++i) {
    absl::string_view key;
    KVASIR_RETURN_IF_ERROR(
        reader.ReadString(absl::StrCat("the name of key ", i), kMaxKeyBytes, &key));
    if (key.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat(file_name, ": key ", i, " has an empty name; the file is damaged"));
    }
    KVASIR_ASSIGN_OR_RETURN(GgufValue value, ReadValue(key, file_name, &reader));
    const absl::Status added = header.metadata.Add(key, std::move(value));
    if (!added.ok()) {
      return absl::Status(added.code(), absl::StrCat(file_name, ": ", added.message()));
    }
  }

  std::vector<uint64_t> offsets;
  std::set<absl::string_view> names;
  for (uint64_t i = 0; i < tensors; ++i) {
    uint64_t offset = 0;
    KVASIR_ASSIGN_OR_RETURN(GgufTensor tensor, ReadTensor(i, file_name, &reader, &offset));
    if (!names.insert(tensor.name).second) {
      return absl::AlreadyExistsError(absl::StrCat(
          file_name, ": tensor ", QuoteForeign(tensor.name), " stands twice in the file"));
    }
    header.tensors.push_back(std::move(tensor));
    offsets.push_back(offset);
  }

  KVASIR_ASSIGN_OR_RETURN(const uint32_t alignment, Alignment(header.metadata, file_name));
  KVASIR_RETURN_IF_ERROR(
      PlaceTensors(offsets, reader.position(), alignment, file.size(), file_name, &header));
  return header;
}

}  // namespace kvasir
