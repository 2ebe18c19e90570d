#include "client/flags.h"

#include <algorithm>
#include <numeric>
#include <type_traits>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace kvasir {
namespace {

bool ParseNumber(const std::string& text, int32_t* value) { return absl::SimpleAtoi(text, value); }
bool ParseNumber(const std::string& text, uint64_t* value) { return absl::SimpleAtoi(text, value); }
bool ParseNumber(const std::string& text, float* value) { return absl::SimpleAtof(text, value); }
bool ParseNumber(const std::string& text, double* value) { return absl::SimpleAtod(text, value); }

bool ParseSwitch(const std::string& text, bool* value) {
  if (text == "true" || text == "1" || text == "yes") {
    *value = true;
    return true;
  }
  *value = false;
  return text == "false" || text == "0" || text == "no";
}

// Fewest insertions, deletions and replacements that turn `a` into `b`.
size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replace = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replace});
    }
  }
  return row.back();
}

std::string Canonical(absl::string_view name) { return absl::StrReplaceAll(name, {{"-", "_"}}); }

}  // namespace

std::string NearestWord(absl::string_view word, const std::vector<std::string>& known) {
  std::string best;
  size_t best_distance = std::max<size_t>(2, word.size() / 3) + 1;
  for (const std::string& candidate : known) {
    const size_t distance = EditDistance(word, candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

absl::StatusOr<std::vector<int32_t>> ParseTokenIds(absl::string_view text) {
  std::vector<int32_t> ids;
  for (absl::string_view piece : absl::StrSplit(text, ',')) {
    int32_t id = 0;
    piece = absl::StripAsciiWhitespace(piece);
    if (!absl::SimpleAtoi(piece, &id)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "'", piece,
          "' is not a token id; give integers with commas between them, such as 1,2,3"));
    }
    ids.push_back(id);
  }
  return ids;
}

void FlagSet::Add(const std::string& name, const std::string& value_hint, const std::string& help,
                  std::string* target) {
  flags_.push_back({name, value_hint, help, false,
                    [target](const std::string& text) {
                      *target = text;
                      return true;
                    },
                    "a text"});
}

void FlagSet::Add(const std::string& name, const std::string& help, bool* target) {
  flags_.push_back({name, "", help, true,
                    [target](const std::string& text) { return ParseSwitch(text, target); },
                    "true or false"});
}

void FlagSet::Add(const std::string& name, const std::string& help, std::optional<bool>* target) {
  flags_.push_back(
      {name, "", help, true,
       [target](const std::string& text) { return ParseSwitch(text, &target->emplace()); },
       "true or false"});
}

template <typename Number>
void FlagSet::AddNumber(const std::string& name, const std::string& value_hint,
                        const std::string& help, const char* expects,
                        std::optional<Number>* target) {
  flags_.push_back(
      {name, value_hint, help, false,
       [target](const std::string& text) { return ParseNumber(text, &target->emplace()); },
       expects});
}

void FlagSet::Add(const std::string& name, const std::string& value_hint, const std::string& help,
                  std::optional<int32_t>* target) {
  AddNumber(name, value_hint, help, "a 32-bit integer", target);
}

void FlagSet::Add(const std::string& name, const std::string& value_hint, const std::string& help,
                  std::optional<uint64_t>* target) {
  AddNumber(name, value_hint, help, "an integer of 0 or more", target);
}

void FlagSet::Add(const std::string& name, const std::string& value_hint, const std::string& help,
                  std::optional<float>* target) {
  AddNumber(name, value_hint, help, "a number", target);
}

void FlagSet::Add(const std::string& name, const std::string& value_hint, const std::string& help,
                  std::optional<double>* target) {
  AddNumber(name, value_hint, help, "a number", target);
}

void FlagSet::Add(const std::string& name, const std::string& value_hint, const std::string& help,
                  std::optional<std::string>* target) {
  flags_.push_back({name, value_hint, help, false,
                    [target](const std::string& text) {
                      *target = text;
                      return true;
                    },
                    "a text"});
}

void FlagSet::Add(const std::string& name, const std::string& value_hint, const std::string& help,
                  std::vector<std::string>* target) {
  flags_.push_back({name, value_hint, help, false,
                    [target](const std::string& text) {
                      target->push_back(text);
                      return true;
                    },
                    "a text"});
}

void FlagSet::Add(const std::string& name, const std::string& value_hint, const std::string& help,
                  std::optional<std::vector<int32_t>>* target) {
  flags_.push_back({name, value_hint, help, false,
                    [target](const std::string& text) {
                      const auto ids = ParseTokenIds(text);
                      if (!ids.ok()) return false;
                      if (!target->has_value()) target->emplace();
                      (*target)->insert((*target)->end(), ids->begin(), ids->end());
                      return true;
                    },
                    "token ids with commas between them, such as 1,2,3"});
}

const FlagSet::Flag* FlagSet::Find(absl::string_view name) const {
  const std::string canonical = Canonical(name);
  for (const Flag& flag : flags_) {
    if (flag.name == canonical) return &flag;
  }
  return nullptr;
}

absl::Status FlagSet::Unknown(const std::string& name) const {
  std::vector<std::string> known;
  for (const Flag& flag : flags_) known.push_back(flag.name);
  const std::string nearest = NearestWord(Canonical(name), known);
  return absl::InvalidArgumentError(
      absl::StrCat("unknown flag --", name,
                   nearest.empty() ? "; --help lists the flags" : "; did you mean --", nearest));
}

absl::StatusOr<std::vector<std::string>> FlagSet::Parse(
    const std::vector<std::string>& arguments) const {
  std::vector<std::string> positional;
  for (size_t i = 0; i < arguments.size(); ++i) {
    absl::string_view argument = arguments[i];
    if (argument == "--") {
      positional.insert(positional.end(), arguments.begin() + i + 1, arguments.end());
      break;
    }
    if (!absl::ConsumePrefix(&argument, "--")) {
      positional.push_back(arguments[i]);
      continue;
    }
    const std::pair<absl::string_view, absl::string_view> parts =
        absl::StrSplit(argument, absl::MaxSplits('=', 1));
    const bool has_value = argument.size() > parts.first.size();
    const Flag* flag = Find(parts.first);
    if (flag == nullptr) return Unknown(std::string(parts.first));

    std::string value(parts.second);
    if (!has_value) {
      if (flag->is_switch) {
        value = "true";
      } else if (++i < arguments.size()) {
        value = arguments[i];
      } else {
        return absl::InvalidArgumentError(absl::StrCat("--", flag->name, " needs a value: --",
                                                       flag->name, " ", flag->value_hint));
      }
    }
    if (!flag->set(value)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--", flag->name, " got '", value, "' but takes ", flag->expects));
    }
  }
  return positional;
}

std::string FlagSet::Help() const {
  size_t width = 0;
  for (const Flag& flag : flags_)
    width = std::max(width, flag.name.size() + flag.value_hint.size() + 3);
  std::string text;
  for (const Flag& flag : flags_) {
    const std::string left =
        absl::StrCat("--", flag.name, flag.value_hint.empty() ? "" : " ", flag.value_hint);
    absl::StrAppend(&text, "  ", left, std::string(width + 2 - left.size(), ' '), flag.help, "\n");
  }
  return text;
}

}  // namespace kvasir
