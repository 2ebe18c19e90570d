// Keys of one architecture in a GGUF file, and what an architecture's dialect (gguf_dialect.h)
// turns them into: keys of a config.json. Borrows the file. Thread safe: only reads.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/formats/gguf_file.h"

namespace kvasir {

class GgufReader {
 public:
  explicit GgufReader(const GgufFile& file) : file_(file) {}

  const GgufFile& file() const { return file_; }
  const GgufMetadata& metadata() const { return file_.metadata(); }
  // "block_count" -> "llama.block_count" in a file of that architecture.
  std::string Key(absl::string_view name) const;

  // Absent where the file has no such key; 0 to max.
  absl::StatusOr<std::optional<int64_t>> Integer(absl::string_view name, int64_t max) const;
  // InvalidArgument where it is absent.
  absl::StatusOr<int64_t> Need(absl::string_view name) const;
  absl::StatusOr<std::optional<double>> Number(absl::string_view name) const;
  // Sets config[to] where the file has the key.
  absl::Status CopyInteger(absl::string_view name, const char* to, nlohmann::json* config) const;
  absl::Status CopyNumber(absl::string_view name, const char* to, nlohmann::json* config) const;

  bool HasEither(absl::string_view tensor, absl::string_view other) const {
    return file_.Find(tensor) != nullptr || file_.Find(other) != nullptr;
  }

  // [layers]: one number for all in the file, or a list, or none: `heads`.
  absl::StatusOr<std::vector<int64_t>> KvHeads(int64_t layers, int64_t heads) const;
  // sliding_window, and which layers have it: as the file lists them (a flag for each, or a period
  // of which the last has none), else by `period`. A file that names no window has the usual one;
  // 0 = none, and all layers are full.
  absl::Status CopyWindows(int period, nlohmann::json* config, int usual_window = 0) const;
  // The two keys of every mixture of experts.
  absl::Status CopyExpertCounts(nlohmann::json* config) const;

 private:
  const GgufFile& file_;
};

// A word for each layer: full_attention where is_full, else the other. config has the layers'
// number.
void SetLayerTypes(const char* other, const std::function<bool(int)>& is_full,
                   nlohmann::json* config);
}  // namespace kvasir
