// Keys of one architecture in a GGUF file that is being written, and what an architecture's dialect
// (gguf_dialect.h) turns a model into: the inverse of gguf_reader.h. Borrows the header; one thread
// at a time.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "runtime/formats/gguf_header_writer.h"
#include "runtime/model/model_spec.h"

namespace kvasir {

class GgufKeys {
 public:
  GgufKeys(std::string architecture, GgufHeaderWriter* header)
      : architecture_(std::move(architecture)), header_(*header) {}

  const std::string& architecture() const { return architecture_; }

  // "block_count" -> "llama.block_count".
  void Integer(absl::string_view name, int64_t value);
  void Integers(absl::string_view name, const std::vector<int32_t>& values);
  void Number(absl::string_view name, float value);
  void Bool(absl::string_view name, bool value);
  void Text(absl::string_view name, absl::string_view value);

  // The window and, where it is not the one that leaves out the last of every `period` layers,
  // which layers have it. Nothing where none has. The inverse of GgufReader::CopyWindows.
  void Windows(const ModelSpec& spec, int period);

 private:
  std::string Key(absl::string_view name) const;

  const std::string architecture_;
  GgufHeaderWriter& header_;
};

}  // namespace kvasir
