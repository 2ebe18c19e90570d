// The owner table of a model from the sharing keys of its config.json: which layer's K/V each layer
// reads.
//
//   use_cla: true, cla_share_factor: c    owner[l] = l - l % c                    (Tencent
//   Hunyuan's keys) num_key_value_layers: m               the layers 0 and int((i + 1) * (L / m)),
//   i = 0..m-2, own K/V; every
//                                         other layer reads the nearest one below (pythia-mlkv's
//                                         key and rule)
//   sharing_pattern: [owner of layer 0, owner of layer 1, ...]                    any table
//   num_key_value_heads: n or a list with one number per layer; absent = num_attention_heads
//   num_key_value_heads_per_layer: list
//
// Several sharing keys may stand together when they say the same. Pure function, thread safe.
#pragma once

#include "absl/status/status.h"
#include "runtime/model/json_fields.h"
#include "runtime/model/model_spec.h"

namespace kvasir {

// Fills kv_owner and kv_heads of every layer, sharing_rule and sharing_claim; the layers must be
// there, with attention of as many query heads each. InvalidArgument or Unimplemented (schemes of
// other families), naming the key.
absl::Status ParseKvSharing(const JsonFields& config, ModelSpec* spec);

}  // namespace kvasir
