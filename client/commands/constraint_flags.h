// The flags that say what an output must be: --json_schema, --json_object, --regex, --grammar,
// --choice and --after.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/flag_set.h"
#include "kvasir/v1/generation.pb.h"

namespace kvasir {

struct ConstraintFlags {
  std::optional<std::string> json_schema_file, grammar_file, regex;
  bool json_object = false;
  std::vector<std::string> choices;
  std::string after;

  void Register(FlagSet& set);

  // Reads the files. InvalidArgument when two kinds are given, or --after alone; what ReadTextFile
  // says.
  absl::Status Fill(v1::Sampling* sampling) const;
};

}  // namespace kvasir
