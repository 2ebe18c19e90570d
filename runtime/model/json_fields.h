// Checked reading of small foreign JSON files (config.json, generation_config.json, the shard
// index): every getter bounds its value, and every error names the file, the key, the value and the
// limit. No exception of the JSON library escapes from here.
//
// JsonFields borrows the object it reads. Thread safe (const).
#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvasir {

// Real configs are a few KB; nesting is two or three levels. What is beyond these is not a config.
inline constexpr size_t kMaxConfigBytes = size_t{1} << 20;
inline constexpr int kMaxJsonDepth = 32;

// Parses `text` as one JSON object. InvalidArgument, naming `file`, when it is longer than
// max_bytes, nested deeper than kMaxJsonDepth, not JSON (NaN and Infinity are not), or not an
// object.
absl::StatusOr<nlohmann::json> ParseJsonObject(absl::string_view text, absl::string_view file,
                                               size_t max_bytes);

// The same for a file. NotFound when there is none.
absl::StatusOr<nlohmann::json> ReadJsonObject(const std::string& path, size_t max_bytes);

class JsonFields {
 public:
  // `file` is how messages call the object, for instance "config.json" or "config.json:
  // rope_scaling".
  JsonFields(const nlohmann::json* object, absl::string_view file) : object_(object), file_(file) {}

  // Present and not null: most writers put null for "not set".
  bool Has(const char* key) const;
  // The value of a key for which Has is true.
  const nlohmann::json& At(const char* key) const;

  // Integers in [min, max]; 16.0 is 16. Without the key: NotFound-like InvalidArgument, or the
  // fallback.
  absl::StatusOr<int64_t> Int(const char* key, int64_t min, int64_t max) const;
  absl::StatusOr<int64_t> IntOr(const char* key, int64_t fallback, int64_t min, int64_t max) const;
  // Finite numbers in [min, max].
  absl::StatusOr<double> Number(const char* key, double min, double max) const;
  absl::StatusOr<double> NumberOr(const char* key, double fallback, double min, double max) const;
  absl::StatusOr<bool> BoolOr(const char* key, bool fallback) const;
  absl::StatusOr<std::string> StringOr(const char* key, absl::string_view fallback) const;
  // A list of integers in [min, max], at most max_size of them; a lone integer is a list of one.
  absl::StatusOr<std::vector<int>> IntList(const char* key, size_t max_size, int64_t min,
                                           int64_t max) const;

  // The same for numbers.
  absl::StatusOr<std::vector<double>> NumberList(const char* key, size_t max_size, double min,
                                                 double max) const;

  const std::string& file() const { return file_; }
  const nlohmann::json& object() const { return *object_; }

  // InvalidArgument: "<file>: <key> is <value>, <rule>".
  absl::Status Wrong(const char* key, absl::string_view rule) const;

 private:
  const nlohmann::json* object_;
  std::string file_;
};

}  // namespace kvasir
