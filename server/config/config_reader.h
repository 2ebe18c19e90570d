// A configuration file (YAML, or JSON, which is a part of YAML) -> the config message, by walking
// the message's descriptor beside the YAML tree, so that every error names the line.
//
// It checks form only: known keys, no key twice, the right type. Ranges and what belongs together
// are server_config's. Pure functions, thread safe.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kvasir/config/v1/config.pb.h"

namespace kvasir {

// Largest file read; a real one has a few kilobytes.
inline constexpr size_t kMaxConfigBytes = size_t{1} << 20;

// Where each value came from, for messages: field path ("models[0].kv_cache.block_tokens") ->
// "kvasird.yaml:12", "flag --threads", "environment variable KVASIR_THREADS". Paths that are absent
// hold defaults. Messages and list elements have entries too.
using ConfigOrigins = std::map<std::string, std::string, std::less<>>;

struct ConfigSource {
  config::v1::Config message;
  ConfigOrigins origins;
};

// Parses `text`; `file_name` is what messages call it. An empty file is an empty configuration.
// InvalidArgument: every fault found, one per line, each "FILE:LINE: what, value, remedy".
absl::StatusOr<ConfigSource> ParseConfig(absl::string_view text, absl::string_view file_name);

// One entry of `models`, as LoadModel's options have it. Faults are "options:LINE: ...".
struct ModelSource {
  config::v1::ModelConfig message;
  ConfigOrigins origins;  // without the path of the entry: "kv_cache.block_tokens"
};
absl::StatusOr<ModelSource> ParseModelOptions(absl::string_view text);

// Reads and parses a file. NotFound, or InvalidArgument as above (also when it is larger than
// kMaxConfigBytes or not a regular file).
absl::StatusOr<ConfigSource> ReadConfigFile(const std::string& path);

}  // namespace kvasir
