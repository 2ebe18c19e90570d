// Command-line flags of a program or of one of its commands, over CLI11: registration with help
// texts, parsing with errors that name the remedy.
//
// Accepted forms: --name value, --name=value; for switches --name, --name=true, --name=false. A
// name may be spelt with dashes in place of its underscores. "--" ends the flags; whatever else
// does not begin with a dash is positional, and "-" alone too. The FlagSet borrows the targets,
// which must outlive Parse. Not thread safe.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kvasir {

class FlagSet {
 public:
  FlagSet();
  FlagSet(FlagSet&&) noexcept;
  ~FlagSet();

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

  // The positional arguments in order. Called once. InvalidArgument: an unknown flag (with the
  // nearest known one), a missing or malformed value.
  absl::StatusOr<std::vector<std::string>> Parse(const std::vector<std::string>& arguments);

  // One line per flag, in the order of registration.
  std::string Help() const;

 private:
  // Sets the target from one value; false when it is not what the flag `expects`.
  using Setter = std::function<bool(const std::string& value)>;
  void AddValue(const std::string& name, const std::string& value_hint, const std::string& help,
                const char* expects, Setter set);
  void AddSwitch(const std::string& name, const std::string& help, Setter set);
  template <typename Number>
  void AddNumber(const std::string& name, const std::string& value_hint, const std::string& help,
                 const char* expects, std::optional<Number>* target);
  std::string Unknown(const std::string& argument) const;

  class Parser;
  std::unique_ptr<Parser> parser_;
};

// "1,2, 3" -> ids. InvalidArgument names the piece that is no id.
absl::StatusOr<std::vector<int32_t>> ParseTokenIds(absl::string_view text);

}  // namespace kvasir
