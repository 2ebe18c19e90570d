// A model's limits and a tokenizer small enough to count by hand, for tests of what stands in front
// of the engine.
#pragma once

#include <memory>

#include "base/check.h"
#include "runtime/model/model_spec.h"
#include "runtime/tokenizer/tokenizer.h"
#include "server/frontend/validation/request_validation.h"

namespace kvasir::testing {

// Ids 0 to 9; 0 is <s>, put in front of every text; 1 is </s>; 2 to 6 are the letters a to e; 7 to
// 9 have no text. Other letters have no token at all.
inline std::unique_ptr<Tokenizer> LetterTokenizer() {
  auto tokenizer = Tokenizer::FromJson(R"({
    "model": {"type": "BPE", "vocab": {"<s>": 0, "</s>": 1, "a": 2, "b": 3, "c": 4, "d": 5, "e": 6},
              "merges": []},
    "added_tokens": [{"id": 0, "content": "<s>", "special": true, "normalized": false,
                      "single_word": false, "lstrip": false, "rstrip": false},
                     {"id": 1, "content": "</s>", "special": true, "normalized": false,
                      "single_word": false, "lstrip": false, "rstrip": false}],
    "post_processor": {"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                 {"Sequence": {"id": "A", "type_id": 0}}],
      "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
      "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}},
    "decoder": {"type": "Fuse"}})",
                                       "");
  KVASIR_CHECK(tokenizer.ok());
  return *std::move(tokenizer);
}

inline ModelSpec SmallSpec() {
  ModelSpec spec;
  spec.vocab_size = 10;
  return spec;
}

// Context of 8 tokens, 4 sequences at once.
inline ModelLimits SmallLimits(const ModelSpec& spec) {
  return {.spec = &spec,
          .max_context_tokens = 8,
          .max_running = 4,
          .default_max_tokens = 5,
          .attention = {}};
}

}  // namespace kvasir::testing
