// Normalizer: rewrites text before it is split (Unicode forms, lower case, SentencePiece's "▁" for
// blanks).
//
// Immutable after parsing; Apply() is safe from any thread.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json_fwd.hpp"

namespace kvasir {

class Normalizer {
 public:
  virtual ~Normalizer() = default;

  // Rewrites `text`, valid UTF-8, in place; it stays valid. Errors: InvalidArgument when a pattern
  // backtracks beyond its limit, or the text would grow beyond kMaxNormalizedBytes.
  virtual absl::Status Apply(std::string* text) const = 0;
};

// Text may grow (NFKD of one ligature has 18 characters, a Replace can put in anything): eight
// times the longest text that Tokenizer takes. Keeps 32-bit offsets safe behind it, also through
// the byte-level alphabet, which at most doubles it.
inline constexpr size_t kMaxNormalizedBytes = size_t{64} << 20;

// The `normalizer` of a tokenizer.json; null for null. Types: NFC, NFD, NFKC, NFKD, Lowercase,
// StripAccents, Strip, Prepend, Replace, Sequence. Errors: Unimplemented naming another type,
// InvalidArgument otherwise.
absl::StatusOr<std::unique_ptr<Normalizer>> ParseNormalizer(const nlohmann::json& value);

}  // namespace kvasir
