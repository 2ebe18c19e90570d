// UTF-8: validation, walking and writing code points, and the lossy reading that detokenisers need.
//
// Stateless functions, safe from any thread. "Valid" is the Unicode standard's table 3-7: no
// overlong forms, no surrogates, nothing above U+10FFFF.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace kvasir {

inline constexpr absl::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

struct CodePoint {
  uint32_t value;
  uint32_t length_bytes;
};

// The code point that begins at `offset`. Preconditions: `text` is valid UTF-8 and offset <
// text.size() is a character's border.
inline CodePoint CodePointAt(absl::string_view text, size_t offset) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[offset + i]); };
  const uint32_t lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  if (lead < 0xE0) return {(lead & 0x1F) << 6 | (byte(1) & 0x3Fu), 2};
  if (lead < 0xF0) return {(lead & 0x0F) << 12 | (byte(1) & 0x3Fu) << 6 | (byte(2) & 0x3Fu), 3};
  return {
      (lead & 0x07) << 18 | (byte(1) & 0x3Fu) << 12 | (byte(2) & 0x3Fu) << 6 | (byte(3) & 0x3Fu),
      4};
}

void AppendUtf8(uint32_t code_point, std::string* out);

// What stands at the front of some bytes.
enum class Utf8Front { kCharacter, kInvalid, kUnfinished };
struct Utf8Part {
  Utf8Front kind;
  // kCharacter: the whole character. kInvalid: the maximal part that one U+FFFD replaces.
  // kUnfinished: all the bytes, which more bytes could still make a character.
  size_t length_bytes;
};

// Precondition: `bytes` is not empty.
Utf8Part ReadUtf8(absl::string_view bytes);

// Offset of the first byte that does not begin a whole valid character.
std::optional<size_t> FindInvalidUtf8(absl::string_view text);

// Whether `text` (valid UTF-8) is exactly one character.
bool IsOneCharacter(absl::string_view text);

// Number of bytes before the first one that is not ASCII.
size_t AsciiPrefixBytes(absl::string_view text);

// Unicode White_Space, as Rust's char::is_whitespace, which the field's reference tokenizer uses.
bool IsWhitespace(uint32_t code_point);

}  // namespace kvasir
