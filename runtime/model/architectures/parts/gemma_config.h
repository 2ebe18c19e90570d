// What Gemma's generations share. Pure functions, thread safe.
#pragma once

#include "absl/status/status.h"
#include "runtime/model/architectures/parts/decoder_config.h"
#include "runtime/model/architectures/parts/rope_config.h"
#include "runtime/model/json_fields.h"
#include "runtime/model/loading/tensor_map.h"
#include "runtime/model/model_spec.h"

namespace kvasir {

// ReadDecoder with Gemma's activation (whatever hidden_act says: "gelu" meant the one with tanh),
// tied head, attention_bias and embeddings times sqrt(hidden_size). Refuses attention to later
// positions.
absl::Status ReadGemmaBase(const JsonFields& config, DecoderDefaults defaults, ModelSpec* spec);

absl::Status ReadFinalSoftcap(const JsonFields& config, ModelSpec* spec);

// Windowed layers with a rope of their own (rope 1; theta rope_local_base_freq in older configs),
// global ones with rope 0, whose defaults are given. Without layer_types every `pattern`-th layer
// is global; sliding_window_pattern says otherwise.
absl::Status ReadGemmaLayers(const JsonFields& config, int pattern, const RopeDefaults& global,
                             ModelSpec* spec);

// num_kv_shared_layers: the last so many layers read K/V of the last layer before them that is of
// their own kind (windowed or not).
absl::Status ReadSharedKvLayers(const JsonFields& config, ModelSpec* spec);

// Per-layer embeddings' settings of Gemma 3n and 4.
absl::Status ReadPerLayerEmbedding(const JsonFields& config, int default_size, ModelSpec* spec);

// Names of Gemma 2 and later: norms on both sides, q_norm and k_norm.
TensorNames GemmaNames();
// Those of per-layer embeddings, and the unused K/V projections of layers that share.
void AddPerLayerNames(const ModelSpec& spec, TensorNames* names);

}  // namespace kvasir
