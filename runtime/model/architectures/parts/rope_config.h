// RoPE and its context extensions from a config: rope_theta, rope_scaling, rope_parameters,
// partial_rotary_factor. Pure functions, thread safe.
//
// Where a setting can be spelled twice the reference's order holds: a rope_scaling with anything in
// it replaces rope_parameters as a whole; inside the dictionary "rope_type" goes before "type";
// theta and the rotary share come from the dictionary, then from the config's top level, then from
// the class; original_max_position_embeddings from the top level, then from the dictionary, then
// max_position_embeddings.
#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "runtime/model/json_fields.h"
#include "runtime/model/layer_spec.h"

namespace kvasir {

// Of a class, where the config is silent.
struct RopeDefaults {
  double theta = 10000.0;
  double partial = 1.0;         // rotated share of a head
  bool partial_allowed = true;  // false: a share below 1 is refused, the class would ignore it
  bool yarn_is_longrope = false;
};

// The rope of all layers. InvalidArgument or Unimplemented, naming the key.
absl::StatusOr<RopeSpec> ReadRope(const JsonFields& config, int head_dim, int max_positions,
                                  const RopeDefaults& defaults = {});

// The rope of the layers of one type: rope_parameters may hold one dictionary per type. Absent: its
// entry is null, such layers are not rotated.
absl::StatusOr<std::optional<RopeSpec>> ReadRopeOf(const JsonFields& config,
                                                   const std::string& layer_type, int head_dim,
                                                   int max_positions,
                                                   const RopeDefaults& defaults = {});

// 0.1 * mscale * ln(factor) + 1 (YaRN's attention factor).
float YarnScale(double factor, double mscale);

}  // namespace kvasir
