// What an operator lets requests ask of attention, and what those get that ask for nothing: the
// checked form of `attention` in the configuration of a model, narrowed by that of a tenant. Plain
// values; pure functions, thread safe.
#pragma once

#include <cstdint>
#include <string>

#include "kvasir/config/v1/config.pb.h"
#include "runtime/ops/sparse/sparq_method.h"
#include "server/config/config_checker.h"

namespace kvasir {

// The largest compression that anyone may ask for.
inline constexpr float kMaxSparqCompression = 64.0f;

struct AttentionPolicy {
  bool keeps_sparq_keys = false;   // kv_cache.sparq_keys is not off
  bool sparse_by_default = false;  // mode: auto
  float compression = kDefaultSparqCompression;
  float max_compression = kMaxSparqCompression;
  int32_t min_rank = 1;
  int32_t min_top_k = 1;
  int32_t min_tokens = kDefaultSparqMinTokens;
  bool allow_sparq = true;
  bool allow_experimental = false;
};

// The checks of Validate (server_config.h) for a model's part, whose defaults are filled ...
AttentionPolicy CheckModelAttention(const config::v1::AttentionConfig& attention,
                                    bool keeps_sparq_keys, const std::string& path,
                                    ConfigChecker* check);
// ... and for a tenant's.
void CheckTenantAttention(const config::v1::AttentionConfig& attention, const std::string& path,
                          ConfigChecker* check);

// What holds for a tenant's requests to a model. The tenant's mode, compression and min_tokens take
// the place of the model's; of limits the stricter one counts, so that no tenant gets more than the
// model allows.
AttentionPolicy ForTenant(AttentionPolicy model, const config::v1::AttentionConfig& tenant);

}  // namespace kvasir
