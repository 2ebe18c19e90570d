#include "runtime/tokenizer/byte_level.h"

#include <array>
#include <cstdint>

#include "runtime/tokenizer/utf8.h"

namespace kvasir {
namespace {

// Bytes that print as themselves in Latin-1 keep their code point; the other 68, in order, take
// U+0100 and up.
constexpr bool PrintsAsItself(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

constexpr int kAlphabetEnd = 0x100 + 68;

struct Alphabet {
  std::array<uint16_t, 256> character_of_byte{};
  std::array<int16_t, kAlphabetEnd> byte_of_character{};  // -1: not in the alphabet
};

constexpr Alphabet MakeAlphabet() {
  Alphabet alphabet;
  for (int16_t& byte : alphabet.byte_of_character) byte = -1;
  int next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const int character = PrintsAsItself(byte) ? byte : next++;
    alphabet.character_of_byte[byte] = static_cast<uint16_t>(character);
    alphabet.byte_of_character[character] = static_cast<int16_t>(byte);
  }
  return alphabet;
}

constexpr Alphabet kAlphabet = MakeAlphabet();

}  // namespace

void AppendByteLevel(absl::string_view bytes, std::string* out) {
  for (const char byte : bytes) {
    const uint32_t character = kAlphabet.character_of_byte[static_cast<uint8_t>(byte)];
    if (character < 0x80) {
      out->push_back(static_cast<char>(character));
    } else {
      AppendUtf8(character, out);
    }
  }
}

std::optional<std::string> BytesOfByteLevel(absl::string_view token) {
  std::string bytes;
  bytes.reserve(token.size());
  for (size_t offset = 0; offset < token.size();) {
    const CodePoint c = CodePointAt(token, offset);
    if (c.value >= kAlphabetEnd || kAlphabet.byte_of_character[c.value] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(kAlphabet.byte_of_character[c.value]));
    offset += c.length_bytes;
  }
  return bytes;
}

}  // namespace kvasir
