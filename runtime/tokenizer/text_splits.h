// Text cut into pieces, and the ways to cut further that tokenizer.json knows ("behavior" of a
// Split).
//
// PreTokens is a plain value, owned by one Encode() call. The functions are stateless and safe from
// any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace kvasir {

struct TextSpan {
  uint32_t begin;  // byte offsets, on borders of characters
  uint32_t end;
};

// A text and the pieces of it that the model will see one by one. Pieces are in order, do not
// overlap and are not empty; bytes between pieces are dropped text.
struct PreTokens {
  std::string text;  // valid UTF-8
  std::vector<TextSpan> pieces;

  absl::string_view Piece(TextSpan span) const {
    return absl::string_view(text).substr(span.begin, span.end - span.begin);
  }
};

// What becomes of a separator that a pattern found.
enum class SplitBehavior {
  kRemoved,             // it is dropped
  kIsolated,            // it is a piece
  kMergedWithPrevious,  // it ends the piece before it
  kMergedWithNext,      // it begins the piece after it
  kContiguous,          // like kIsolated, but neighbours of one kind make one piece
};

// Errors: InvalidArgument naming the value.
absl::StatusOr<SplitBehavior> ParseSplitBehavior(absl::string_view name);

// Pieces of [begin, end), appended to `pieces`. `matches` lie in it, in order, without overlap,
// none empty. `invert` makes the text between the matches the separators.
void SplitAtMatches(TextSpan whole, absl::Span<const TextSpan> matches, SplitBehavior behavior,
                    bool invert, std::vector<TextSpan>* pieces);

}  // namespace kvasir
