// The header of one GGUF file, read as what it is: bytes from strangers.
//
//   "GGUF" | u32 version (2, 3) | i64 tensors | i64 keys
//   keys:    string key | u32 type | value         (string: u64 length, text)
//   tensors: string name | u32 rank | i64 dimensions, innermost first | u32 type | u64 offset
//   padding to general.alignment | data, each tensor padded to the alignment
//
// Everything is checked before a tensor can be asked for: each count and length against the bytes
// that are left, keys and names for doubles, dimensions for overflow and against their block size,
// and that the tensors follow each other in the data exactly as they are listed, up to the end of
// the file. Nothing is allocated that the file's size does not pay for. Pure function, thread safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "runtime/formats/gguf_metadata.h"
#include "runtime/formats/tensor_type.h"

namespace kvasir {

struct GgufTensor {
  absl::string_view name;  // borrows the file
  TensorTypeInfo type;
  std::vector<int64_t> shape;  // outermost first, as checkpoints elsewhere write it; at least one
  size_t begin = 0;            // first byte, from the start of the file
  size_t bytes = 0;            // without padding
};

struct GgufHeader {
  uint32_t version = 0;
  GgufMetadata metadata;
  std::vector<GgufTensor> tensors;  // in the file's order
};

// `file`: the whole file, which the result borrows. Errors name `file_name` and the key or tensor:
// InvalidArgument when anything is wrong, AlreadyExists for doubles, Unimplemented for big-endian
// files, versions and tensor types that this reader leaves out.
absl::StatusOr<GgufHeader> ParseGgufHeader(absl::Span<const uint8_t> file,
                                           absl::string_view file_name);

}  // namespace kvasir
