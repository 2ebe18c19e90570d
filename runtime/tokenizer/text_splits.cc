#include "runtime/tokenizer/text_splits.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace kvasir {
namespace {

struct Part {
  TextSpan span;
  bool is_separator;
};

// A separator joins the neighbour on one side, but never another separator: of two in a row only
// the one next to the text joins it, the other is a piece of its own.
void JoinSeparators(absl::Span<const Part> parts, bool with_previous,
                    std::vector<TextSpan>* pieces) {
  const size_t first = pieces->size();
  bool after_separator = false;  // in walking order, which is backwards for kMergedWithNext
  for (size_t i = 0; i < parts.size(); ++i) {
    const Part& part = with_previous ? parts[i] : parts[parts.size() - 1 - i];
    if (part.is_separator && !after_separator && pieces->size() > first) {
      if (with_previous) {
        pieces->back().end = part.span.end;
      } else {
        pieces->back().begin = part.span.begin;
      }
    } else {
      pieces->push_back(part.span);
    }
    after_separator = part.is_separator;
  }
  if (!with_previous) std::reverse(pieces->begin() + first, pieces->end());
}

}  // namespace

absl::StatusOr<SplitBehavior> ParseSplitBehavior(absl::string_view name) {
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  return absl::InvalidArgumentError(absl::StrCat(
      "split behavior \"", absl::CHexEscape(name),
      "\" is not one of Removed, Isolated, MergedWithPrevious, MergedWithNext, Contiguous"));
}

void SplitAtMatches(TextSpan whole, absl::Span<const TextSpan> matches, SplitBehavior behavior,
                    bool invert, std::vector<TextSpan>* pieces) {
  std::vector<Part> parts;
  parts.reserve(2 * matches.size() + 1);
  const auto add = [&](uint32_t begin, uint32_t end, bool is_match) {
    if (begin < end) parts.push_back({{begin, end}, is_match != invert});
  };
  uint32_t done = whole.begin;
  for (const TextSpan& match : matches) {
    add(done, match.begin, false);
    add(match.begin, match.end, true);
    done = match.end;
  }
  add(done, whole.end, false);

  switch (behavior) {
    case SplitBehavior::kRemoved:
      for (const Part& part : parts) {
        if (!part.is_separator) pieces->push_back(part.span);
      }
      break;
    case SplitBehavior::kIsolated:
      for (const Part& part : parts) pieces->push_back(part.span);
      break;
    case SplitBehavior::kContiguous:
      for (size_t i = 0; i < parts.size(); ++i) {
        if (i > 0 && parts[i].is_separator == parts[i - 1].is_separator) {
          pieces->back().end = parts[i].span.end;
        } else {
          pieces->push_back(parts[i].span);
        }
      }
      break;
    case SplitBehavior::kMergedWithPrevious:
      JoinSeparators(parts, /*with_previous=*/true, pieces);
      break;
    case SplitBehavior::kMergedWithNext:
      JoinSeparators(parts, /*with_previous=*/false, pieces);
      break;
  }
}

}  // namespace kvasir
