#include "server/frontend/response/loose_value.h"

#include <cstdint>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "server/frontend/response/json_text.h"

namespace kvasir {
namespace {

// Strings that end with the marker they began with.
constexpr absl::string_view kStringMarkers[] = {"<|\"|>", "<escape>"};

bool IsNameByte(char c) {
  return absl::ascii_isalnum(c) || c == '_' || c == '.' || c == '-' ||
         static_cast<unsigned char>(c) >= 0x80;
}

void AppendUtf8(uint32_t code, std::string* out) {
  const auto tail = [&](int shift) {
    out->push_back(static_cast<char>(0x80 | ((code >> shift) & 0x3F)));
  };
  if (code < 0x80) {
    out->push_back(static_cast<char>(code));
  } else if (code < 0x800) {
    out->push_back(static_cast<char>(0xC0 | (code >> 6)));
    tail(0);
  } else if (code < 0x10000) {
    out->push_back(static_cast<char>(0xE0 | (code >> 12)));
    tail(6);
    tail(0);
  } else {
    out->push_back(static_cast<char>(0xF0 | (code >> 18)));
    tail(12);
    tail(6);
    tail(0);
  }
}

// So many hexadecimal digits at the front of `text`, taken from it.
std::optional<uint32_t> TakeHex(size_t digits, absl::string_view* text) {
  if (text->size() < digits) return std::nullopt;
  uint32_t code = 0;
  for (size_t i = 0; i < digits; ++i) {
    const char c = (*text)[i];
    if (!absl::ascii_isxdigit(c)) return std::nullopt;
    code = code * 16 + (absl::ascii_isdigit(c) ? c - '0' : absl::ascii_tolower(c) - 'a' + 10);
  }
  text->remove_prefix(digits);
  return code;
}

// One to three octal digits, of which the first is there.
uint32_t TakeOctal(absl::string_view* text) {
  uint32_t code = 0;
  for (int i = 0; i < 3 && !text->empty(); ++i) {
    const char c = text->front();
    if (c < '0' || c > '7') break;
    code = code * 8 + static_cast<uint32_t>(c - '0');
    text->remove_prefix(1);
  }
  return code;
}

// A character by its number, in so many hexadecimal digits; surrogates come in pairs.
bool TakeCharacter(size_t digits, absl::string_view* text, std::string* out) {
  std::optional<uint32_t> code = TakeHex(digits, text);
  if (!code || *code > 0x10FFFF || (*code >= 0xDC00 && *code < 0xE000)) return false;
  if (*code >= 0xD800 && *code < 0xDC00) {
    if (!absl::ConsumePrefix(text, "\\u")) return false;
    const std::optional<uint32_t> low = TakeHex(4, text);
    if (!low || *low < 0xDC00 || *low >= 0xE000) return false;
    code = 0x10000 + ((*code - 0xD800) << 10) + (*low - 0xDC00);
  }
  AppendUtf8(*code, out);
  return true;
}

// What follows a backslash, in JSON and in Python.
bool TakeEscape(absl::string_view* text, std::string* out) {
  if (text->empty()) return false;
  const char c = text->front();
  text->remove_prefix(1);
  switch (c) {
    case 'b':
      out->push_back('\b');
      return true;
    case 'f':
      out->push_back('\f');
      return true;
    case 'n':
      out->push_back('\n');
      return true;
    case 'r':
      out->push_back('\r');
      return true;
    case 't':
      out->push_back('\t');
      return true;
    case 'a':
      out->push_back('\a');
      return true;
    case 'v':
      out->push_back('\v');
      return true;
    case '\\':
    case '/':
    case '"':
    case '\'':
      out->push_back(c);
      return true;
    case '\n':  // the string goes on in the next line
      return true;
    case 'x':
      return TakeCharacter(2, text, out);
    case 'u':
      return TakeCharacter(4, text, out);
    case 'U':
      return TakeCharacter(8, text, out);
    default:
      break;
  }
  if (c >= '0' && c <= '7') {
    *text = absl::string_view(text->data() - 1, text->size() + 1);
    AppendUtf8(TakeOctal(text), out);
    return true;
  }
  // Python keeps the backslash of what is no escape: '\d+'.
  out->push_back('\\');
  out->push_back(c);
  return true;
}

}  // namespace

bool LooseReader::Take(absl::string_view token) {
  rest_ = absl::StripLeadingAsciiWhitespace(rest_);
  return absl::ConsumePrefix(&rest_, token);
}

bool LooseReader::AtEnd() { return absl::StripLeadingAsciiWhitespace(rest_).empty(); }

std::optional<std::string> LooseReader::Name() {
  rest_ = absl::StripLeadingAsciiWhitespace(rest_);
  size_t bytes = 0;
  while (bytes < rest_.size() && IsNameByte(rest_[bytes])) ++bytes;
  if (bytes == 0) return std::nullopt;
  std::string name(rest_.substr(0, bytes));
  rest_.remove_prefix(bytes);
  return name;
}

std::optional<std::string> LooseReader::Until(char end) {
  const absl::string_view before = rest_.substr(0, rest_.find(end));
  if (before.size() == rest_.size()) return std::nullopt;
  const absl::string_view name = absl::StripAsciiWhitespace(before);
  if (name.empty() || name.find_first_of("{}[],\"'\n") != absl::string_view::npos) {
    return std::nullopt;
  }
  rest_.remove_prefix(before.size());
  return std::string(name);
}

std::optional<LooseReader::Json> LooseReader::Value(int depth) {
  if (depth >= kMaxDepth) return std::nullopt;
  if (Take("{")) return Object(depth + 1);
  if (Take("[")) return List(depth + 1);
  if (!rest_.empty() && (rest_[0] == '"' || rest_[0] == '\'' || rest_[0] == '<')) {
    auto text = String();
    if (!text) return std::nullopt;
    return Json(*std::move(text));
  }
  return Plain();
}

std::optional<LooseReader::Json> LooseReader::Object(int depth) {
  Json object = Json::object();
  if (Take("}")) return object;
  while (true) {
    rest_ = absl::StripLeadingAsciiWhitespace(rest_);
    const bool quoted = !rest_.empty() && (rest_[0] == '"' || rest_[0] == '\'' || rest_[0] == '<');
    const std::optional<std::string> key = quoted ? String() : Until(':');
    if (!key || !Take(":")) return std::nullopt;
    std::optional<Json> value = Value(depth);
    if (!value) return std::nullopt;
    object[*key] = *std::move(value);
    if (Take("}")) return object;
    if (!Take(",")) return std::nullopt;
  }
}

std::optional<LooseReader::Json> LooseReader::List(int depth) {
  Json list = Json::array();
  if (Take("]")) return list;
  while (true) {
    std::optional<Json> value = Value(depth);
    if (!value) return std::nullopt;
    list.push_back(*std::move(value));
    if (Take("]")) return list;
    if (!Take(",")) return std::nullopt;
  }
}

std::optional<std::string> LooseReader::String() {
  for (const absl::string_view marker : kStringMarkers) {
    if (!absl::ConsumePrefix(&rest_, marker)) continue;
    const size_t end = rest_.find(marker);
    if (end == absl::string_view::npos) {
      cut_ = true;
      return std::nullopt;
    }
    std::string text(rest_.substr(0, end));
    rest_.remove_prefix(end + marker.size());
    return text;
  }
  if (rest_.empty() || (rest_[0] != '"' && rest_[0] != '\'')) return std::nullopt;
  const char quote = rest_[0];
  rest_.remove_prefix(1);
  return Quoted(quote);
}

std::optional<std::string> LooseReader::Quoted(char quote) {
  std::string text;
  while (!rest_.empty()) {
    const char c = rest_.front();
    rest_.remove_prefix(1);
    if (c == quote) return text;
    if (c == '\\') {
      if (!TakeEscape(&rest_, &text)) {
        cut_ = rest_.empty();
        return std::nullopt;
      }
    } else {
      text.push_back(c);
    }
  }
  cut_ = true;
  return std::nullopt;
}

std::optional<LooseReader::Json> LooseReader::Plain() {
  size_t bytes = 0;
  while (bytes < rest_.size() && (IsNameByte(rest_[bytes]) || rest_[bytes] == '+')) ++bytes;
  const absl::string_view word = rest_.substr(0, bytes);
  rest_.remove_prefix(bytes);
  if (word == "true" || word == "True") return Json(true);
  if (word == "false" || word == "False") return Json(false);
  if (word == "null" || word == "None") return Json(nullptr);
  // As JSON has them: no nan, no inf, no 0x10.
  if (word.empty() || !(absl::ascii_isdigit(word[0]) || word[0] == '-')) return std::nullopt;
  return ParseExactJson(word, kMaxDepth);
}

}  // namespace kvasir
