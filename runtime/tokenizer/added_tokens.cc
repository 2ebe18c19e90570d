#include "runtime/tokenizer/added_tokens.h"

#include <utf8proc.h>

#include <algorithm>
#include <utility>

#include "runtime/tokenizer/utf8.h"

namespace kvasir {
namespace {

// Letters, marks, digits and connectors, as \w in the reference tokenizer.
bool IsWordCharacter(uint32_t code_point) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code_point))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return code_point == 0x200C || code_point == 0x200D;  // joiners
  }
}

bool StandsAlone(absl::string_view text, size_t begin, size_t end) {
  if (begin > 0 && IsWordCharacter(CodePointAt(text, PreviousCodePoint(text, begin)).value)) {
    return false;
  }
  return end == text.size() || !IsWordCharacter(CodePointAt(text, end).value);
}

// Moves `begin` left over blanks, not beyond `limit`.
size_t SkipBlanksBefore(absl::string_view text, size_t begin, size_t limit) {
  while (begin > limit) {
    const size_t previous = PreviousCodePoint(text, begin);
    if (!IsWhitespace(CodePointAt(text, previous).value)) break;
    begin = previous;
  }
  return begin;
}

size_t SkipBlanksAfter(absl::string_view text, size_t end) {
  while (end < text.size()) {
    const CodePoint c = CodePointAt(text, end);
    if (!IsWhitespace(c.value)) break;
    end += c.length_bytes;
  }
  return end;
}

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  std::vector<ByteTrie::Entry> entries;
  entries.reserve(tokens_.size());
  for (size_t i = 0; i < tokens_.size(); ++i) {
    entries.emplace_back(tokens_[i].content, static_cast<int32_t>(i));
  }
  trie_ = ByteTrie(std::move(entries));
}

std::vector<AddedTokens::Section> AddedTokens::Split(absl::string_view text,
                                                     bool parse_special) const {
  std::vector<Section> sections;
  size_t done = 0;  // everything before is in a section
  const auto add_text = [&](size_t end) {
    if (done < end) {
      sections.push_back({{static_cast<uint32_t>(done), static_cast<uint32_t>(end)}, std::nullopt});
    }
  };
  for (size_t offset = 0; offset < text.size();) {
    if (!trie_.CanBeginWith(text[offset])) {
      ++offset;
      continue;
    }
    size_t length = 0;
    int32_t index = -1;
    trie_.ForEachPrefix(text.substr(offset), [&](size_t length_bytes, int32_t value) {
      length = length_bytes;
      index = value;
    });
    if (index < 0) {
      ++offset;
      continue;
    }
    const AddedToken& token = tokens_[index];
    size_t begin = offset, end = offset + length;
    offset = end;  // a match that is turned down below is not looked into either
    if (token.special && !parse_special) continue;
    if (token.single_word && !StandsAlone(text, begin, end)) continue;
    if (token.lstrip) begin = SkipBlanksBefore(text, begin, done);
    if (token.rstrip) end = SkipBlanksAfter(text, end);
    add_text(begin);
    sections.push_back({{static_cast<uint32_t>(begin), static_cast<uint32_t>(end)}, token.id});
    done = offset = end;
  }
  add_text(text.size());
  return sections;
}

}  // namespace kvasir
