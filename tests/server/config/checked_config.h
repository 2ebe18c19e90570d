// A configuration's text as the daemon takes it: read, defaults filled, checked.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "gtest/gtest.h"
#include "server/config/server_config.h"

namespace kvasir {

inline absl::StatusOr<DaemonConfig> Check(const std::string& text) {
  absl::StatusOr<ConfigSource> source = ParseConfig(text, "test.yaml");
  if (!source.ok()) return source.status();
  FillDefaults(&source->message);
  return Validate(source->message, source->origins);
}

// What is wrong with it.
inline std::string FaultOf(const std::string& text) {
  const absl::StatusOr<DaemonConfig> config = Check(text);
  EXPECT_FALSE(config.ok()) << text;
  return std::string(config.status().message());
}

}  // namespace kvasir
