// Flags and environment of kvasird, and how they combine with the configuration file:
// flag, then environment variable, then file, then default.
//
// Pure functions but for reading the file; thread safe.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/config/config_reader.h"

namespace kvasir {

// One value from outside the file.
struct ConfigOverride {
  std::string setting;  // flag name without dashes: "kv_capacity_bytes"
  std::string value;
  std::string origin;  // "flag --threads", "environment variable KVASIR_THREADS"
};

// What a command line and the environment ask for.
struct Invocation {
  enum class Action { kServe, kCheckConfig, kPrintConfig, kHelp, kVersion };
  Action action = Action::kServe;
  std::string config_file;            // empty = none
  bool report_lost_sessions = false;  // see HelpText
  // In the order in which they are to be applied; a flag has displaced its environment variable.
  std::vector<ConfigOverride> overrides;
};

// Looks a variable up in the environment; tests give their own.
using EnvironmentLookup = std::function<std::optional<std::string>(const std::string& name)>;
EnvironmentLookup ProcessEnvironment();

// `arguments` without the program's name. Flags are "--name value" or "--name=value", dashes and
// underscores alike. InvalidArgument: an unknown flag (with the nearest known one), a missing
// value, an argument that is no flag.
absl::StatusOr<Invocation> ParseCommandLine(const std::vector<std::string>& arguments,
                                            const EnvironmentLookup& environment);

// File, overrides and defaults together: what --print_config shows. Not yet validated.
// Errors: those of ReadConfigFile; InvalidArgument for an override that has the wrong form, naming
// its origin.
absl::StatusOr<ConfigSource> ResolveConfig(const Invocation& invocation);

// The text of --help: flags in groups with their defaults and environment variables.
std::string HelpText();

}  // namespace kvasir
