#include "hub/hub_settings.h"

#include <algorithm>
#include <cstdlib>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/quoted.h"
#include "base/regular_file.h"
#include "base/status_macros.h"

namespace kvasir {
namespace {

constexpr size_t kMaxTokenBytes = 4096;

// The first of these variables that is set to something.
std::string FirstOf(const EnvironmentReader& environment,
                    std::initializer_list<const char*> names) {
  for (const char* name : names) {
    std::optional<std::string> value = environment(name);
    if (value.has_value() && !value->empty()) return *std::move(value);
  }
  return "";
}

bool IsTrue(const std::string& value) {
  const std::string upper = absl::AsciiStrToUpper(value);
  return upper == "1" || upper == "ON" || upper == "YES" || upper == "TRUE";
}

std::string WithHome(const std::string& path, const std::string& home) {
  if (path == "~" || absl::StartsWith(path, "~/")) return absl::StrCat(home, path.substr(1));
  return path;
}

absl::StatusOr<std::string> CheckedToken(absl::string_view text, absl::string_view origin) {
  text = absl::StripAsciiWhitespace(text);
  // A line break within would smuggle a header of its own into every request.
  if (!std::all_of(text.begin(), text.end(), [](char c) { return absl::ascii_isgraph(c); })) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the token in ", origin, " must be printable ASCII without blanks; write it anew"));
  }
  return std::string(text);
}

}  // namespace

absl::StatusOr<HubSettings> ReadHubSettings(const EnvironmentReader& environment) {
  HubSettings settings;
  if (std::string endpoint = FirstOf(environment, {"HF_ENDPOINT"}); !endpoint.empty()) {
    if (!absl::StartsWith(endpoint, "https://") && !absl::StartsWith(endpoint, "http://")) {
      return absl::InvalidArgumentError(
          absl::StrCat("HF_ENDPOINT is ", Quoted(endpoint),
                       ", but must be a URL that begins with https:// or http://"));
    }
    while (absl::EndsWith(endpoint, "/")) endpoint.pop_back();
    settings.endpoint = std::move(endpoint);
  }
  settings.offline = IsTrue(FirstOf(environment, {"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"}));
  settings.ca_file =
      FirstOf(environment, {"CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"});
  settings.ca_folder = FirstOf(environment, {"SSL_CERT_DIR"});

  const std::string home = FirstOf(environment, {"HOME"});
  std::string hub_home = WithHome(FirstOf(environment, {"HF_HOME"}), home);
  if (hub_home.empty()) {
    std::string caches = FirstOf(environment, {"XDG_CACHE_HOME"});
    if (caches.empty() && !home.empty()) caches = absl::StrCat(home, "/.cache");
    if (!caches.empty()) hub_home = absl::StrCat(caches, "/huggingface");
  }
  settings.cache = WithHome(FirstOf(environment, {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"}), home);
  if (settings.cache.empty() && !hub_home.empty()) settings.cache = absl::StrCat(hub_home, "/hub");
  if (settings.cache.empty()) {
    return absl::FailedPreconditionError(
        "there is no folder to keep models in: neither HF_HOME nor HOME is set; set HF_HOME to a "
        "folder that this user may write");
  }

  const std::string given = FirstOf(environment, {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"});
  if (!given.empty()) {
    KVASIR_ASSIGN_OR_RETURN(settings.token, CheckedToken(given, "HF_TOKEN"));
    return settings;
  }
  if (IsTrue(FirstOf(environment, {"HF_HUB_DISABLE_IMPLICIT_TOKEN"}))) return settings;
  std::string file = WithHome(FirstOf(environment, {"HF_TOKEN_PATH"}), home);
  if (file.empty() && !hub_home.empty()) file = absl::StrCat(hub_home, "/token");
  if (file.empty()) return settings;
  absl::StatusOr<std::string> stored = ReadRegularFile(file, kMaxTokenBytes);
  if (absl::IsNotFound(stored.status())) return settings;
  if (!stored.ok()) return stored.status();
  KVASIR_ASSIGN_OR_RETURN(settings.token, CheckedToken(*stored, file));
  return settings;
}

absl::StatusOr<HubSettings> ReadHubSettings() {
  return ReadHubSettings([](const std::string& name) -> std::optional<std::string> {
    const char* value = std::getenv(name.c_str());
    if (value == nullptr) return std::nullopt;
    return std::string(value);
  });
}

}  // namespace kvasir
