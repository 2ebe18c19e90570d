#include "server/frontend/response/loose_value.h"

#include <cstdint>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"

namespace kvasir {
namespace {

// Strings that end with the marker they began with.
constexpr absl::string_view kStringMarkers[] = {"<|\"|>", "<escape>"};

bool IsNameByte(char c) { return absl::ascii_isalnum(c) || c == '_' || c == '.' || c == '-'; }

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

// Four hexadecimal digits at the front of `text`, taken from it.
std::optional<uint32_t> TakeHex4(absl::string_view* text) {
  if (text->size() < 4) return std::nullopt;
  uint32_t code = 0;
  for (int i = 0; i < 4; ++i) {
    const char c = (*text)[i];
    if (!absl::ascii_isxdigit(c)) return std::nullopt;
    code = code * 16 + (absl::ascii_isdigit(c) ? c - '0' : absl::ascii_tolower(c) - 'a' + 10);
  }
  text->remove_prefix(4);
  return code;
}

// What follows a backslash.
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
    case '\\':
    case '/':
    case '"':
    case '\'':
      out->push_back(c);
      return true;
    case 'u':
      break;
    default:
      return false;
  }
  std::optional<uint32_t> code = TakeHex4(text);
  if (!code || (*code >= 0xDC00 && *code < 0xE000)) return false;
  if (*code >= 0xD800 && *code < 0xDC00) {
    if (!absl::ConsumePrefix(text, "\\u")) return false;
    const std::optional<uint32_t> low = TakeHex4(text);
    if (!low || *low < 0xDC00 || *low >= 0xE000) return false;
    code = 0x10000 + ((*code - 0xD800) << 10) + (*low - 0xDC00);
  }
  AppendUtf8(*code, out);
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
    const std::optional<std::string> key = quoted ? String() : Name();
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
  Json number = Json::parse(word.begin(), word.end(), nullptr, /*allow_exceptions=*/false);
  if (!number.is_number()) return std::nullopt;
  return number;
}

}  // namespace kvasir
