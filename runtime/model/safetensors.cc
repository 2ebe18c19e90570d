#include "runtime/model/safetensors.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace kvasir {
namespace {

constexpr size_t kLengthBytes = 8;
// No weight has more dimensions; bounds what one entry can hold.
constexpr size_t kMaxRank = 8;

// Bytes per element; nullopt for types that this reader has never heard of (they may be listed in a
// file, but not asked for).
std::optional<size_t> ElementBytes(absl::string_view dtype) {
  struct Size {
    absl::string_view name;
    size_t bytes;
  };
  static constexpr Size kSizes[] = {{"BOOL", 1},    {"U8", 1},      {"I8", 1},  {"F8_E5M2", 1},
                                    {"F8_E4M3", 1}, {"F8_E8M0", 1}, {"I16", 2}, {"U16", 2},
                                    {"F16", 2},     {"BF16", 2},    {"I32", 4}, {"U32", 4},
                                    {"F32", 4},     {"I64", 8},     {"U64", 8}, {"F64", 8}};
  for (const Size& size : kSizes) {
    if (size.name == dtype) return size.bytes;
  }
  return std::nullopt;
}

// Builds the table of tensors from the parser's events. A tree would hide keys that stand twice,
// and could need a hundred times the header's memory.
class HeaderHandler : public nlohmann::json_sax<nlohmann::json> {
 public:
  const std::string& error() const { return error_; }
  SafetensorsHeader& tensors() { return tensors_; }

  bool start_object(std::size_t) override {
    switch (place_) {
      case Place::kDocument:
        return Enter(Place::kHeader);
      case Place::kHeader:
        if (name_ == "__metadata__") return Enter(Place::kMetadata);
        entry_ = SafetensorsEntry();
        has_dtype_ = has_shape_ = has_offsets_ = false;
        num_offsets_ = 0;
        return Enter(Place::kTensor);
      default:
        return Fail("an object where none belongs");
    }
  }

  bool key(string_t& text) override {
    if (place_ == Place::kHeader) {
      name_ = std::move(text);
      if (name_ == "__metadata__" ? has_metadata_ : tensors_.count(name_) > 0) {
        return Fail("stands twice");
      }
      has_metadata_ = has_metadata_ || name_ == "__metadata__";
    } else if (place_ == Place::kTensor) {
      field_ = std::move(text);
      bool* seen = field_ == "dtype"          ? &has_dtype_
                   : field_ == "shape"        ? &has_shape_
                   : field_ == "data_offsets" ? &has_offsets_
                                              : nullptr;
      if (seen == nullptr)
        return Fail(absl::StrCat("unknown field \"", field_.substr(0, 40), "\""));
      if (*seen) return Fail(absl::StrCat("field ", field_, " stands twice"));
      *seen = true;
    }
    return true;
  }

  bool end_object() override {
    if (place_ == Place::kHeader) return Enter(Place::kEnd);
    if (place_ == Place::kTensor) {
      if (!has_dtype_ || !has_shape_ || !has_offsets_) {
        return Fail("needs the three fields dtype, shape and data_offsets");
      }
      if (num_offsets_ != 2) return Fail("data_offsets must be two numbers");
      tensors_.emplace(name_, std::move(entry_));
    }
    return Enter(Place::kHeader);
  }

  bool start_array(std::size_t) override {
    if (place_ != Place::kTensor || field_ == "dtype") return Fail("a list where none belongs");
    return Enter(field_ == "shape" ? Place::kShape : Place::kOffsets);
  }

  bool end_array() override { return Enter(Place::kTensor); }

  bool string(string_t& text) override {
    if (place_ == Place::kMetadata) return true;
    if (place_ != Place::kTensor || field_ != "dtype") return Fail("a string where none belongs");
    entry_.dtype = std::move(text);
    return true;
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (value > static_cast<uint64_t>(INT64_MAX))
      return Fail(absl::StrCat("number ", value, " is too large"));
    if (place_ == Place::kShape) {
      if (entry_.shape.size() == kMaxRank) {
        return Fail(absl::StrCat("shape has more than ", kMaxRank, " dimensions"));
      }
      entry_.shape.push_back(static_cast<int64_t>(value));
      return true;
    }
    if (place_ == Place::kOffsets) {
      if (num_offsets_ == 2) return Fail("data_offsets must be two numbers");
      (num_offsets_ == 0 ? entry_.begin : entry_.end) = static_cast<size_t>(value);
      ++num_offsets_;
      return true;
    }
    return Fail("a number where none belongs");
  }

  bool number_integer(number_integer_t value) override {
    return Fail(absl::StrCat("negative number ", value));
  }
  bool number_float(number_float_t value, const string_t&) override {
    return Fail(absl::StrCat("number ", value, " is not an integer"));
  }
  bool null() override { return Fail("null where none belongs"); }
  bool boolean(bool) override { return Fail("true or false where none belongs"); }
  bool binary(binary_t&) override { return Fail("binary data"); }

  bool parse_error(std::size_t, const std::string&,
                   const nlohmann::json::exception& exception) override {
    error_ = exception.what();
    return false;
  }

 private:
  enum class Place { kDocument, kHeader, kMetadata, kTensor, kShape, kOffsets, kEnd };

  bool Enter(Place place) {
    place_ = place;
    return true;
  }

  bool Fail(absl::string_view what) {
    error_ = name_.empty()
                 ? std::string(what)
                 : absl::StrCat("\"", absl::string_view(name_).substr(0, 200), "\": ", what);
    return false;
  }

  Place place_ = Place::kDocument;
  std::string name_;   // of the tensor being read
  std::string field_;  // of the field being read
  SafetensorsEntry entry_;
  bool has_metadata_ = false;
  bool has_dtype_ = false;
  bool has_shape_ = false;
  bool has_offsets_ = false;
  int num_offsets_ = 0;
  SafetensorsHeader tensors_;
  std::string error_;
};

// Product of the shape and the element size; nullopt on overflow.
std::optional<uint64_t> TensorBytes(const SafetensorsEntry& entry, size_t element_bytes) {
  uint64_t bytes = element_bytes;
  for (const int64_t dimension : entry.shape) {
    if (__builtin_mul_overflow(bytes, static_cast<uint64_t>(dimension), &bytes))
      return std::nullopt;
  }
  return bytes;
}

// Offsets inside the data, in step with the shapes, covering the data exactly.
absl::Status CheckOffsets(const SafetensorsHeader& tensors, uint64_t data_bytes,
                          absl::string_view file_name) {
  std::vector<const SafetensorsHeader::value_type*> by_offset;
  by_offset.reserve(tensors.size());
  for (const auto& tensor : tensors) {
    const auto& [name, entry] = tensor;
    const std::string where = absl::StrCat(file_name, ": tensor ", name.substr(0, 200));
    if (entry.begin > entry.end || entry.end > data_bytes) {
      return absl::InvalidArgumentError(absl::StrCat(
          where, " has data_offsets [", entry.begin, ", ", entry.end, "], but the file holds ",
          data_bytes, " bytes of data; it is truncated or damaged, fetch it again"));
    }
    if (const std::optional<size_t> element_bytes = ElementBytes(entry.dtype)) {
      const std::optional<uint64_t> bytes = TensorBytes(entry, *element_bytes);
      if (bytes != entry.end - entry.begin) {
        return absl::InvalidArgumentError(absl::StrCat(
            where, " takes ", entry.end - entry.begin, " bytes by its data_offsets, but ",
            bytes ? absl::StrCat(*bytes) : std::string("more than 2^64"), " by its dtype ",
            entry.dtype, " and shape"));
      }
    }
    by_offset.push_back(&tensor);
  }
  // Empty tensors sort before the tensor that begins where they stand.
  std::sort(by_offset.begin(), by_offset.end(), [](const auto* a, const auto* b) {
    return std::make_pair(a->second.begin, a->second.end) <
           std::make_pair(b->second.begin, b->second.end);
  });
  uint64_t covered = 0;
  for (const auto* tensor : by_offset) {
    if (tensor->second.begin != covered) {
      return absl::InvalidArgumentError(
          absl::StrCat(file_name, ": tensor ", tensor->first.substr(0, 200), " begins at byte ",
                       tensor->second.begin,
                       tensor->second.begin < covered ? " inside another tensor, which ends at "
                                                      : ", leaving a hole after ",
                       covered));
    }
    covered = tensor->second.end;
  }
  if (covered != data_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(file_name, ": the tensors cover ", covered,
                                                   " of ", data_bytes, " bytes of data; ",
                                                   data_bytes - covered, " bytes trail"));
  }
  return absl::OkStatus();
}

}  // namespace

std::optional<WeightFormat> SafetensorsEntry::weight_type() const {
  if (dtype == "BF16") return WeightFormat::kBf16;
  if (dtype == "F16") return WeightFormat::kF16;
  if (dtype == "F32") return WeightFormat::kF32;
  return std::nullopt;
}

absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(absl::Span<const uint8_t> file,
                                                         absl::string_view file_name) {
  if (file.size() < kLengthBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        file_name, " has ", file.size(), " bytes; a safetensors file has at least ", kLengthBytes));
  }
  const absl::string_view text(reinterpret_cast<const char*>(file.data()),
                               std::min<size_t>(file.size(), 64));
  if (absl::StartsWith(text, "version https://git-lfs")) {
    return absl::InvalidArgumentError(
        absl::StrCat(file_name,
                     " is a Git LFS pointer, not the weights; fetch them with `git lfs pull` or "
                     "download the file from its page"));
  }
  uint64_t header_bytes = 0;
  for (size_t i = 0; i < kLengthBytes; ++i)
    header_bytes |= static_cast<uint64_t>(file[i]) << (8 * i);
  if (header_bytes > kMaxSafetensorsHeaderBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        file_name, ": the header claims ", header_bytes, " bytes, more than the format's limit of ",
        kMaxSafetensorsHeaderBytes, "; this is not a safetensors file"));
  }
  if (header_bytes > file.size() - kLengthBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(file_name, ": the header claims ", header_bytes, " bytes, but only ",
                     file.size() - kLengthBytes, " follow; the file is truncated, fetch it again"));
  }
  const absl::Span<const uint8_t> json = file.subspan(kLengthBytes, header_bytes);
  HeaderHandler handler;
  if (!nlohmann::json::sax_parse(json.begin(), json.end(), &handler)) {
    return absl::InvalidArgumentError(absl::StrCat(file_name, ": bad header: ", handler.error()));
  }
  SafetensorsHeader tensors = std::move(handler.tensors());
  const size_t data_begin = kLengthBytes + header_bytes;
  KVASIR_RETURN_IF_ERROR(CheckOffsets(tensors, file.size() - data_begin, file_name));
  for (auto& [name, entry] : tensors) {
    entry.begin += data_begin;
    entry.end += data_begin;
  }
  return tensors;
}

}  // namespace kvasir
