// Command-line flags of one command: registration with help texts, parsing with errors that name
// the remedy.
//
// Accepted forms: --name value, --name=value; for switches --name, --name=true, --name=false.
// Dashes inside names count as underscores. "--" ends the flags. Everything else is positional. The
// FlagSet borrows the targets, which must outlive Parse. Not thread safe.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvasir {

class FlagSet {
 public:
  // Each: `value_hint` stands for the value in help ("N", "H:P"). A flag given twice keeps the last
  // value, lists append.
  void Add(const std::string& name, const std::string& value_hint, const std::string& help,
           std::string* target);
  void Add(const std::string& name, const std::string& help, bool* target);
  void Add(const std::string& name, const std::string& help, std::optional<bool>* target);
  void Add(const std::string& name, const std::string& value_hint, const std::string& help,
           std::optional<int32_t>* target);
  void Add(const std::string& name, const std::string& value_hint, const std::string& help,
           std::optional<uint64_t>* target);
  void Add(const std::string& name, const std::string& value_hint, const std::string& help,
           std::optional<float>* target);
  void Add(const std::string& name, const std::string& value_hint, const std::string& help,
           std::optional<double>* target);
  void Add(const std::string& name, const std::string& value_hint, const std::string& help,
           std::optional<std::string>* target);
  // Repeatable; each use appends its value whole.
  void Add(const std::string& name, const std::string& value_hint, const std::string& help,
           std::vector<std::string>* target);
  // Comma-separated ids; a repeated flag appends.
  void Add(const std::string& name, const std::string& value_hint, const std::string& help,
           std::optional<std::vector<int32_t>>* target);

  // The positional arguments in order. InvalidArgument: unknown flag (with the nearest known one),
  // missing or malformed value.
  absl::StatusOr<std::vector<std::string>> Parse(const std::vector<std::string>& arguments) const;

  // One line per flag, in the order of registration.
  std::string Help() const;

 private:
  struct Flag {
    std::string name;
    std::string value_hint;
    std::string help;
    bool is_switch = false;
    // Sets the target; false when the text is not of the flag's type.
    std::function<bool(const std::string&)> set;
    // What a value looks like, for errors: "a number", "true or false".
    std::string expects;
  };

  template <typename Number>
  void AddNumber(const std::string& name, const std::string& value_hint, const std::string& help,
                 const char* expects, std::optional<Number>* target);
  const Flag* Find(absl::string_view name) const;
  absl::Status Unknown(const std::string& name) const;

  std::vector<Flag> flags_;
};

// The known word nearest to `word` when it looks like a slip of the pen, else "".
std::string NearestWord(absl::string_view word, const std::vector<std::string>& known);

// "1,2, 3" -> ids. InvalidArgument names the piece that is no id.
absl::StatusOr<std::vector<int32_t>> ParseTokenIds(absl::string_view text);

}  // namespace kvasir
