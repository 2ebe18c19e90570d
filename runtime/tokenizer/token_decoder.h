// TokenDecoder: the `decoder` of a tokenizer.json, in the form that streaming needs.
//
// A decoder chain rewrites each token for itself until a Fuse (or ByteLevel, which fuses) makes one
// text of them; what follows acts on the whole text. So it becomes BytesOf(), a function of one
// token, and TextStrip, which needs only the text's two ends. A chain with anything else after its
// Fuse would have to see the whole text first and is refused.
//
// Immutable after parsing; const methods are safe from any thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json_fwd.hpp"

namespace kvasir {

class TokenDecoder {
 public:
  // Types: ByteLevel, Metaspace, ByteFallback, Fuse, Strip, Replace, Sequence; null joins tokens
  // with blanks, as the reference tokenizer does. Errors: Unimplemented naming another type or
  // order, InvalidArgument otherwise.
  static absl::StatusOr<TokenDecoder> FromJson(const nlohmann::json& value);

  TokenDecoder(TokenDecoder&&) noexcept;
  ~TokenDecoder();

  // What the token `name` contributes to the text: bytes, perhaps a part of a UTF-8 character.
  // `is_added` tokens are not spelled in the byte-level alphabet. `is_first`: nothing was decoded
  // before it. Errors: InvalidArgument when a Replace pattern backtracks beyond its limit on the
  // name.
  absl::StatusOr<std::string> BytesOf(absl::string_view name, bool is_added, bool is_first) const;

  // Whether `is_first` can make a difference.
  bool first_differs() const { return first_differs_; }

  // Copies of `character` to remove at the front and at the back of the whole text, at most so
  // many.
  struct TextStrip {
    std::string character;
    int leading = 0;
    int trailing = 0;
  };
  const TextStrip& text_strip() const { return text_strip_; }

  // One rewriting of a token's name; defined in the .cc.
  class Step;

 private:
  TokenDecoder();

  absl::Status Add(const nlohmann::json& value, int depth);
  absl::Status AddStrip(const nlohmann::json& value);

  std::vector<std::unique_ptr<const Step>> steps_;
  bool fused_ = false;
  bool first_differs_ = false;
  TextStrip text_strip_;
};

}  // namespace kvasir
