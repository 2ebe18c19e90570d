#include "server/http/json_member.h"

#include <cstddef>
#include <string>

#include "absl/strings/ascii.h"
#include "nlohmann/json.hpp"

namespace kvasir {
namespace {

// Walks over JSON, valid or not. At the text's end every step stays there.
class Cursor {
 public:
  explicit Cursor(absl::string_view text) : text_(text) {}

  size_t place() const { return place_; }
  char Peek() {
    while (place_ < text_.size() && absl::ascii_isspace(text_[place_])) ++place_;
    return place_ < text_.size() ? text_[place_] : '\0';
  }
  void Skip() {
    if (place_ < text_.size()) ++place_;
  }

  // A string with its quotes.
  absl::string_view String() {
    const size_t begin = place_;
    Skip();
    while (place_ < text_.size() && text_[place_] != '"') {
      if (text_[place_] == '\\') Skip();
      Skip();
    }
    Skip();
    return text_.substr(begin, place_ - begin);
  }

  absl::string_view Value() {
    Peek();
    const size_t begin = place_;
    int depth = 0;
    do {
      const char next = Peek();
      if (next == '"') {
        String();
        continue;
      }
      if (next == '{' || next == '[') ++depth;
      if (next == '}' || next == ']') {
        if (depth == 0) break;  // of what is around
        --depth;
      }
      if (next == ',' && depth == 0) break;
      Skip();
    } while (place_ < text_.size() && (depth > 0 || !EndsValue()));
    return absl::StripAsciiWhitespace(text_.substr(begin, place_ - begin));
  }

 private:
  bool EndsValue() {
    const char next = Peek();
    return next == ',' || next == '}' || next == ']' || next == '\0';
  }

  const absl::string_view text_;
  size_t place_ = 0;
};

bool Spells(absl::string_view quoted, absl::string_view name) {
  if (quoted.find('\\') == absl::string_view::npos) {
    return quoted.substr(1, quoted.size() - 2) == name;
  }
  const auto text = nlohmann::json::parse(quoted.begin(), quoted.end(), nullptr, false);
  return text.is_string() && text.get<std::string>() == name;
}

absl::string_view Member(absl::string_view object, absl::string_view name) {
  Cursor cursor(object);
  absl::string_view found;
  if (cursor.Peek() != '{') return found;
  cursor.Skip();
  while (cursor.Peek() == '"') {
    const absl::string_view key = cursor.String();
    cursor.Peek();
    cursor.Skip();  // the colon
    const absl::string_view value = cursor.Value();
    if (Spells(key, name)) found = value;
    if (cursor.Peek() == ',') cursor.Skip();
  }
  return found;
}

}  // namespace

absl::string_view JsonMember(absl::string_view document,
                             const std::vector<absl::string_view>& path) {
  for (const absl::string_view name : path) document = Member(document, name);
  return document;
}

}  // namespace kvasir
