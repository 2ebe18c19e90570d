// The config message -> YAML text that config_reader reads back to the same message. Pure function,
// thread safe.
#pragma once

#include <string>

#include "kvasir/config/v1/config.pb.h"

namespace kvasir {

// Every field in the order of the schema, messages indented. Optional fields that are not set
// appear as comments
// ("# threads: automatic"): the daemon decides them when it starts.
std::string WriteConfig(const config::v1::Config& config);

}  // namespace kvasir
