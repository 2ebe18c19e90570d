// Where the hub is, where its files are kept and who asks, from the environment variables that
// Hugging Face's own tools read: the cache is theirs too. Values; thread safe.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "absl/status/statusor.h"

namespace kvasir {

struct HubSettings {
  std::string endpoint = "https://huggingface.co";  // HF_ENDPOINT; without a slash at its end
  // HF_HUB_CACHE, else hub/ below HF_HOME, else below $XDG_CACHE_HOME/huggingface or
  // ~/.cache/huggingface.
  std::string cache;
  std::string token;     // HF_TOKEN, else the file HF_TOKEN_PATH or $HF_HOME/token; empty = none
  bool offline = false;  // HF_HUB_OFFLINE: only what is in the cache
  // Authorities to trust in place of the system's: CURL_CA_BUNDLE, else REQUESTS_CA_BUNDLE, else
  // SSL_CERT_FILE; and SSL_CERT_DIR.
  std::string ca_file, ca_folder;
};

using EnvironmentReader = std::function<std::optional<std::string>(const std::string& name)>;

// Errors: InvalidArgument (an endpoint that is no http:// or https:// URL, a token that cannot be
// sent), FailedPrecondition (no home folder to keep a cache in). The token's file may be absent.
absl::StatusOr<HubSettings> ReadHubSettings(const EnvironmentReader& environment);

// Of this process.
absl::StatusOr<HubSettings> ReadHubSettings();

}  // namespace kvasir
