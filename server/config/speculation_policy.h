// What an operator's configuration says of speculation: what requests get, and how much they may
// ask for. Plain values; thread safe.
#pragma once

#include <cstdint>
#include <string>

#include "kvasir/config/v1/config.pb.h"
#include "runtime/engine/speculation/speculation_params.h"
#include "server/config/config_checker.h"

namespace kvasir {

struct SpeculationPolicy {
  // Of requests that say nothing; its max_draft_tokens is also the most that they may ask for.
  SpeculationParams defaults;
  std::string draft_model;  // a model's folder or GGUF file; empty = none
  int64_t draft_kv_bytes = int64_t{256} << 20;
};

// A filled configuration's policy; faults go to `check`, under `path`.
SpeculationPolicy CheckModelSpeculation(const config::v1::SpeculationConfig& speculation,
                                        const std::string& path, ConfigChecker* check);

}  // namespace kvasir
