// The header of a GGUF file (version 3), put together key by key and tensor by tensor: the inverse
// of gguf_header.h. Tensors' data follows the header in the order in which they were added, each
// padded to kGgufAlignment. Owns what it is given; one thread at a time.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "runtime/formats/gguf_metadata.h"
#include "runtime/formats/tensor_type.h"

namespace kvasir {

// The format's default, which files need not state.
inline constexpr int64_t kGgufAlignment = 32;

inline int64_t GgufPadded(int64_t bytes) {
  return (bytes + kGgufAlignment - 1) / kGgufAlignment * kGgufAlignment;
}

class GgufHeaderWriter {
 public:
  void AddU32(absl::string_view key, uint32_t value);
  void AddF32(absl::string_view key, float value);
  void AddBool(absl::string_view key, bool value);
  void AddString(absl::string_view key, absl::string_view value);
  void AddBools(absl::string_view key, const std::vector<bool>& values);
  void AddStrings(absl::string_view key, const std::vector<std::string>& values);
  void AddI32s(absl::string_view key, const std::vector<int32_t>& values);
  void AddF32s(absl::string_view key, const std::vector<float>& values);

  // `shape`: outermost first. `bytes`: of the tensor's data, without padding.
  void AddTensor(absl::string_view name, const std::vector<int64_t>& shape, TensorType type,
                 int64_t bytes);

  int64_t num_tensors() const { return num_tensors_; }
  // Of all tensors, padding included.
  int64_t data_bytes() const { return data_bytes_; }
  // Everything in front of the data.
  std::string Header() const;

 private:
  void AddKey(absl::string_view key, GgufValueType type);
  void AddArray(absl::string_view key, GgufValueType type, size_t count);

  std::string keys_, tensors_;
  int64_t num_keys_ = 0, num_tensors_ = 0;
  int64_t data_bytes_ = 0;
};

}  // namespace kvasir
