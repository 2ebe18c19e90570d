// The header of a safetensors file, read as what it is: bytes from strangers.
//
//   file: u64 little endian N | N bytes of JSON, may end in spaces | data
//   JSON: { "__metadata__": {string: string}, "<tensor>": {"dtype": "BF16", "shape": [r, c],
//           "data_offsets": [begin, end]}, ... }, offsets in bytes from the start of data
//
// Everything is checked before a tensor can be asked for: the header's size, its structure (no
// field missing, unknown or twice, no tensor twice), shape times element size against the offsets
// without overflow, and that the tensors cover the data exactly, without overlap, hole or trailing
// bytes. Pure function, thread safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "runtime/ops/tensor.h"

namespace kvasir {

// The format's own limit; a header of a 400B model has a few hundred KB.
inline constexpr uint64_t kMaxSafetensorsHeaderBytes = 100'000'000;

struct SafetensorsEntry {
  std::string dtype;           // as written: "BF16", "I64", ...
  std::vector<int64_t> shape;  // outermost first; empty = scalar
  size_t begin = 0;            // first byte, from the start of the file
  size_t end = 0;              // one past the last byte

  // The element type when this daemon can compute with it (BF16, F16, F32).
  std::optional<WeightFormat> weight_type() const;
};

using SafetensorsHeader = std::map<std::string, SafetensorsEntry, std::less<>>;

// `file`: the whole file. InvalidArgument, naming `file_name` and the tensor, when anything is
// wrong.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(absl::Span<const uint8_t> file,
                                                         absl::string_view file_name);

}  // namespace kvasir
