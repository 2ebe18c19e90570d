// The tokenizer of a Hugging Face folder as GGUF metadata has it (tokenizer.ggml.*, facts of
// llama.cpp's converter): byte-level BPE whose way of splitting has a name there, and BPE over
// characters with byte fallback (SentencePiece's). Pure functions, thread safe.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/status.h"
#include "runtime/formats/gguf_header_writer.h"
#include "runtime/model/model_spec.h"

namespace kvasir {

// Adds the keys. `spec`, `config`: of the model, whose table may have more rows than there are
// tokens.
// NotFound: no tokenizer.json. InvalidArgument: it contradicts the model. Unimplemented: a
// tokenizer of another kind.
absl::Status AddGgufVocabulary(const std::string& folder, const ModelSpec& spec,
                               const nlohmann::ordered_json& config, GgufHeaderWriter* header);

// Whether a written file's tokenizer does to a number of difficult texts what the folder's does.
// Unimplemented, showing a text that is split otherwise.
absl::Status CheckSameTokens(const std::string& folder, const std::string& gguf);

}  // namespace kvasir
