// Writes GGUF files for tests, well-formed unless a test says otherwise. Header only.
#pragma once

#include <cstdint>
#include <cstring>
#include <fstream>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "runtime/formats/gguf_metadata.h"
#include "runtime/formats/tensor_type.h"

namespace kvasir::testing {

class GgufWriter {
 public:
  template <typename T>
  static std::string Raw(T value) {
    std::string bytes(sizeof(T), '\0');
    std::memcpy(bytes.data(), &value, sizeof(T));
    return bytes;
  }
  static std::string Text(absl::string_view text) {
    return Raw<uint64_t>(text.size()) + std::string(text);
  }

  // A value in its raw form behind its type.
  GgufWriter& Add(absl::string_view key, GgufValueType type, const std::string& raw) {
    keys_ += Text(key) + Raw(static_cast<uint32_t>(type)) + raw;
    ++num_keys_;
    return *this;
  }
  GgufWriter& AddU32(absl::string_view key, uint32_t value) {
    return Add(key, GgufValueType::kU32, Raw(value));
  }
  GgufWriter& AddF32(absl::string_view key, float value) {
    return Add(key, GgufValueType::kF32, Raw(value));
  }
  GgufWriter& AddBool(absl::string_view key, bool value) {
    return Add(key, GgufValueType::kBool, Raw<uint8_t>(value ? 1 : 0));
  }
  GgufWriter& AddString(absl::string_view key, absl::string_view value) {
    return Add(key, GgufValueType::kString, Text(value));
  }
  GgufWriter& AddStrings(absl::string_view key, const std::vector<std::string>& values) {
    std::string raw;
    for (const std::string& value : values) raw += Text(value);
    return AddArray(key, GgufValueType::kString, values.size(), raw);
  }
  template <typename T>
  GgufWriter& AddNumbers(absl::string_view key, GgufValueType type, const std::vector<T>& values) {
    std::string raw;
    for (const T value : values) raw += Raw(value);
    return AddArray(key, type, values.size(), raw);
  }
  GgufWriter& AddArray(absl::string_view key, GgufValueType type, uint64_t count,
                       const std::string& raw) {
    return Add(key, GgufValueType::kArray, Raw(static_cast<uint32_t>(type)) + Raw(count) + raw);
  }

  // shape: outermost first; data: the tensor's bytes.
  GgufWriter& AddTensor(absl::string_view name, const std::vector<int64_t>& shape, TensorType type,
                        const std::string& data) {
    return AddTensorAt(name, shape, static_cast<uint32_t>(type), data_.size(), data);
  }
  // With any type and offset.
  GgufWriter& AddTensorAt(absl::string_view name, const std::vector<int64_t>& shape, uint32_t type,
                          uint64_t offset, const std::string& data) {
    tensors_ += Text(name) + Raw<uint32_t>(shape.size());
    for (size_t i = shape.size(); i-- > 0;) tensors_ += Raw(shape[i]);
    tensors_ += Raw(type) + Raw(offset);
    ++num_tensors_;
    data_ += data;
    data_.resize((data_.size() + alignment_ - 1) / alignment_ * alignment_);
    return *this;
  }

  // Before any tensor; also writes general.alignment.
  GgufWriter& SetAlignment(uint32_t alignment) {
    alignment_ = alignment;
    return AddU32("general.alignment", alignment);
  }
  GgufWriter& SetVersion(uint32_t version) {
    version_ = version;
    return *this;
  }
  // Claims other counts than there are.
  GgufWriter& ClaimTensors(int64_t count) {
    claimed_tensors_ = count;
    return *this;
  }
  GgufWriter& ClaimKeys(int64_t count) {
    claimed_keys_ = count;
    return *this;
  }

  std::string Bytes() const {
    std::string file = "GGUF" + Raw(version_) +
                       Raw(claimed_tensors_ != kTrue ? claimed_tensors_ : num_tensors_) +
                       Raw(claimed_keys_ != kTrue ? claimed_keys_ : num_keys_) + keys_ + tensors_;
    file.resize((file.size() + alignment_ - 1) / alignment_ * alignment_);
    return file + data_;
  }

  void Write(const std::string& path) const { std::ofstream(path, std::ios::binary) << Bytes(); }

 private:
  static constexpr int64_t kTrue = INT64_MIN;

  uint32_t version_ = 3;
  uint32_t alignment_ = 32;
  int64_t num_keys_ = 0, num_tensors_ = 0;
  int64_t claimed_keys_ = kTrue, claimed_tensors_ = kTrue;
  std::string keys_, tensors_, data_;
};

}  // namespace kvasir::testing
