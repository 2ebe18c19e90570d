// Values that are nearly JSON: what models write between the braces of Gemma's calls and as
// arguments of Python calls. Pure, thread safe.
#pragma once

#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace kvasir {

// Reads from the front of a text, which outlives it. Takes JSON, and beside it: strings in 'single
// quotes', <|"|>markers<|"|> and <escape>markers<escape> (no escapes inside of markers), Python's
// escapes in quotes, keys without quotes, True, False and None. Nests at most kMaxDepth deep.
class LooseReader {
 public:
  using Json = nlohmann::ordered_json;
  static constexpr int kMaxDepth = 64;

  explicit LooseReader(absl::string_view text) : rest_(text) {}

  // The next value; nothing when there is none, and then the reader is of no more use.
  std::optional<Json> Value() { return Value(0); }
  // A name: letters, digits, _ . - and what is beyond ASCII.
  std::optional<std::string> Name();
  // The text before `end`, without white space around it; not empty, and no quotes or brackets in
  // it. `end` stays.
  std::optional<std::string> Until(char end);
  // Skips white space, and `token` when that is next.
  bool Take(absl::string_view token);
  bool AtEnd();
  // Whether the text ended inside of a string.
  bool cut() const { return cut_; }
  // What is not read yet.
  absl::string_view rest() const { return rest_; }

 private:
  std::optional<Json> Value(int depth);
  std::optional<Json> Object(int depth);
  std::optional<Json> List(int depth);
  std::optional<std::string> String();
  std::optional<std::string> Quoted(char quote);
  std::optional<Json> Plain();

  absl::string_view rest_;
  bool cut_ = false;
};

}  // namespace kvasir
