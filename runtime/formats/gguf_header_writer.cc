#include "runtime/formats/gguf_header_writer.h"

#include <cstring>

namespace kvasir {
namespace {

template <typename T>
void Append(T value, std::string* to) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  to->append(bytes, sizeof(T));
}

void AppendText(absl::string_view text, std::string* to) {
  Append<uint64_t>(text.size(), to);
  to->append(text.data(), text.size());
}

}  // namespace

void GgufHeaderWriter::AddKey(absl::string_view key, GgufValueType type) {
  AppendText(key, &keys_);
  Append(static_cast<uint32_t>(type), &keys_);
  ++num_keys_;
}

void GgufHeaderWriter::AddArray(absl::string_view key, GgufValueType type, size_t count) {
  AddKey(key, GgufValueType::kArray);
  Append(static_cast<uint32_t>(type), &keys_);
  Append<uint64_t>(count, &keys_);
}

void GgufHeaderWriter::AddU32(absl::string_view key, uint32_t value) {
  AddKey(key, GgufValueType::kU32);
  Append(value, &keys_);
}

void GgufHeaderWriter::AddF32(absl::string_view key, float value) {
  AddKey(key, GgufValueType::kF32);
  Append(value, &keys_);
}

void GgufHeaderWriter::AddBool(absl::string_view key, bool value) {
  AddKey(key, GgufValueType::kBool);
  Append<uint8_t>(value ? 1 : 0, &keys_);
}

void GgufHeaderWriter::AddString(absl::string_view key, absl::string_view value) {
  AddKey(key, GgufValueType::kString);
  AppendText(value, &keys_);
}

void GgufHeaderWriter::AddBools(absl::string_view key, const std::vector<bool>& values) {
  AddArray(key, GgufValueType::kBool, values.size());
  for (const bool value : values) Append<uint8_t>(value ? 1 : 0, &keys_);
}

void GgufHeaderWriter::AddStrings(absl::string_view key, const std::vector<std::string>& values) {
  AddArray(key, GgufValueType::kString, values.size());
  for (const std::string& value : values) AppendText(value, &keys_);
}

void GgufHeaderWriter::AddI32s(absl::string_view key, const std::vector<int32_t>& values) {
  AddArray(key, GgufValueType::kI32, values.size());
  for (const int32_t value : values) Append(value, &keys_);
}

void GgufHeaderWriter::AddF32s(absl::string_view key, const std::vector<float>& values) {
  AddArray(key, GgufValueType::kF32, values.size());
  for (const float value : values) Append(value, &keys_);
}

void GgufHeaderWriter::AddTensor(absl::string_view name, const std::vector<int64_t>& shape,
                                 TensorType type, int64_t bytes) {
  AppendText(name, &tensors_);
  Append(static_cast<uint32_t>(shape.size()), &tensors_);
  for (size_t i = shape.size(); i-- > 0;) Append(shape[i], &tensors_);
  Append(static_cast<uint32_t>(type), &tensors_);
  Append(static_cast<uint64_t>(data_bytes_), &tensors_);
  ++num_tensors_;
  data_bytes_ += GgufPadded(bytes);
}

std::string GgufHeaderWriter::Header() const {
  constexpr uint32_t kVersion = 3;
  std::string header = "GGUF";
  Append(kVersion, &header);
  Append(num_tensors_, &header);
  Append(num_keys_, &header);
  header += keys_;
  header += tensors_;
  header.resize(static_cast<size_t>(GgufPadded(static_cast<int64_t>(header.size()))));
  return header;
}

}  // namespace kvasir
