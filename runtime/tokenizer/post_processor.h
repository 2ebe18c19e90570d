// PostProcessor: the tokens that stand before and after an encoded text (BOS, EOS).
//
// A plain value, immutable after parsing. Templates for pairs of texts are not read: nothing here
// encodes pairs.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json_fwd.hpp"
#include "runtime/tokenizer/token_id.h"
#include "runtime/tokenizer/vocabulary.h"

namespace kvasir {

struct PostProcessor {
  bool has_template = false;  // the file said what to add, perhaps nothing
  std::vector<TokenId> prefix;
  std::vector<TokenId> suffix;
};

// The `post_processor` of a tokenizer.json. Types: TemplateProcessing, ByteLevel (which only moves
// offsets, and so does nothing here), Sequence. Errors: Unimplemented naming another type,
// InvalidArgument otherwise.
absl::StatusOr<PostProcessor> ParsePostProcessor(const nlohmann::json& value,
                                                 const Vocabulary& vocabulary);

}  // namespace kvasir
