// Which fields two configurations differ in: what a reload tells of fields that it does not take.
// Pure, thread safe.
#pragma once

#include <string>
#include <vector>

#include "kvasir/config/v1/config.pb.h"

namespace kvasir {

// Paths such as "models[0].kv_cache.capacity_bytes", each once, in the order of the fields. Those
// that a reload takes (tenants, server.authentication, models that come and go; a model is the same
// by its name) are left out. Indices are those of `running`. Defaults should be filled in.
std::vector<std::string> FieldsThatNeedARestart(const config::v1::Config& running,
                                                const config::v1::Config& wanted);

}  // namespace kvasir
