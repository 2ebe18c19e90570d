// generation_config.json of a Hugging Face folder: where a model's text ends, and how its requests
// sample unless they say otherwise. Read whole: what is not applied is told in ModelSpec::notes.
// Pure functions, thread safe.
#pragma once

#include "absl/status/status.h"
#include "runtime/model/json_fields.h"
#include "runtime/model/model_spec.h"

namespace kvasir {

// Adds the ids of eos_token_id that are not there yet, and sets bos_token_id where it is not set.
// -1 and null mean none. vocab_size must be set.
absl::Status ReadSpecialTokens(const JsonFields& fields, ModelSpec* spec);

// Everything else. InvalidArgument, naming the key.
absl::Status ReadGenerationConfig(const JsonFields& fields, ModelSpec* spec);

}  // namespace kvasir
