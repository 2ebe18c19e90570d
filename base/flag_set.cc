#include "base/flag_set.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/spelling.h"

namespace kvasir {
namespace {

bool ParseNumber(const std::string& text, int32_t* value) { return absl::SimpleAtoi(text, value); }
bool ParseNumber(const std::string& text, uint64_t* value) { return absl::SimpleAtoi(text, value); }
bool ParseNumber(const std::string& text, float* value) { return absl::SimpleAtof(text, value); }
bool ParseNumber(const std::string& text, double* value) { return absl::SimpleAtod(text, value); }

// The spellings of a flag: as registered, and with dashes.
std::string Names(const std::string& name) {
  std::string names = absl::StrCat("--", name);
  const std::string dashed = absl::StrReplaceAll(name, {{"_", "-"}});
  if (dashed != name) absl::StrAppend(&names, ",--", dashed);
  if (name == "help") absl::StrAppend(&names, ",-h");
  return names;
}

// As registered, without dashes in front.
const std::string& NameOf(const CLI::Option& option) { return option.get_lnames().front(); }

}  // namespace

// Words are what CLI11 leaves over, not an option of its own: that would take "[a,b]" for a list.
class FlagSet::Parser : public CLI::App {
 public:
  Parser() {
    set_help_flag();  // --help is a flag as any other
    allow_extras();
  }

  // Of the last parse: the words in order, and the first argument that looks like a flag and is
  // none.
  std::vector<std::string> words() const {
    std::vector<std::string> words;
    for (const auto& [kind, text] : missing_) {
      if (kind == CLI::detail::Classifier::NONE) words.push_back(text);
    }
    return words;
  }
  std::optional<std::string> unknown() const {
    for (const auto& [kind, text] : missing_) {
      const bool word =
          kind == CLI::detail::Classifier::NONE || kind == CLI::detail::Classifier::POSITIONAL_MARK;
      if (!word) return text;
    }
    return std::nullopt;
  }
};

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

FlagSet::FlagSet() : parser_(std::make_unique<Parser>()) {}
FlagSet::FlagSet(FlagSet&&) noexcept = default;
FlagSet::~FlagSet() = default;

void FlagSet::AddValue(const std::string& name, const std::string& value_hint,
                       const std::string& help, const char* expects, Setter set) {
  parser_->add_option(Names(name), CLI::callback_t(), help)
      ->type_name(value_hint)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->each([name, expects, set = std::move(set)](const std::string& value) {
        if (set(value)) return;
        throw CLI::ConversionError(
            absl::StrCat("--", name, " got '", value, "' but takes ", expects));
      });
}

void FlagSet::AddSwitch(const std::string& name, const std::string& help, Setter set) {
  parser_->add_flag(Names(name), help)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->each([name, set = std::move(set)](const std::string& value) {
        if (set(value)) return;
        throw CLI::ConversionError(
            absl::StrCat("--", name, " got '", value, "' but takes true or false"));
      });
}

void FlagSet::Add(const std::string& name, const std::string& value_hint, const std::string& help,
                  std::string* target) {
  AddValue(name, value_hint, help, "a text", [target](const std::string& value) {
    *target = value;
    return true;
  });
}

void FlagSet::Add(const std::string& name, const std::string& help, bool* target) {
  AddSwitch(name, help,
            [target](const std::string& value) { return absl::SimpleAtob(value, target); });
}

void FlagSet::Add(const std::string& name, const std::string& help, std::optional<bool>* target) {
  AddSwitch(name, help, [target](const std::string& value) {
    return absl::SimpleAtob(value, &target->emplace());
  });
}

template <typename Number>
void FlagSet::AddNumber(const std::string& name, const std::string& value_hint,
                        const std::string& help, const char* expects,
                        std::optional<Number>* target) {
  AddValue(name, value_hint, help, expects,
           [target](const std::string& value) { return ParseNumber(value, &target->emplace()); });
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
  AddValue(name, value_hint, help, "a text", [target](const std::string& value) {
    *target = value;
    return true;
  });
}

void FlagSet::Add(const std::string& name, const std::string& value_hint, const std::string& help,
                  std::vector<std::string>* target) {
  AddValue(name, value_hint, help, "a text", [target](const std::string& value) {
    target->push_back(value);
    return true;
  });
}

void FlagSet::Add(const std::string& name, const std::string& value_hint, const std::string& help,
                  std::optional<std::vector<int32_t>>* target) {
  AddValue(name, value_hint, help, "token ids with commas between them, such as 1,2,3",
           [target](const std::string& value) {
             const auto ids = ParseTokenIds(value);
             if (!ids.ok()) return false;
             if (!target->has_value()) target->emplace();
             (*target)->insert((*target)->end(), ids->begin(), ids->end());
             return true;
           });
}

std::string FlagSet::Unknown(const std::string& argument) const {
  const std::string flag = argument.substr(0, argument.find('='));
  std::vector<std::string> known;
  for (const CLI::Option* option : parser_->get_options()) known.push_back("--" + NameOf(*option));
  const std::string nearest =
      DidYouMean(absl::StrReplaceAll(flag, {{"-", "_"}, {"--", "--"}}), known);
  return absl::StrCat("unknown flag '", flag, "'",
                      nearest.empty() ? "; --help lists the flags" : nearest);
}

absl::StatusOr<std::vector<std::string>> FlagSet::Parse(const std::vector<std::string>& arguments) {
  // CLI11 takes "--name=" for a flag whose value is the next argument.
  std::vector<std::string> split;
  for (const std::string& argument : arguments) {
    absl::string_view name = argument;
    const bool empty_value = absl::ConsumeSuffix(&name, "=") && name.find('=') == name.npos &&
                             parser_->get_option_no_throw(std::string(name)) != nullptr;
    split.push_back(std::string(empty_value ? name : argument));
    if (empty_value) split.emplace_back();
  }
  std::reverse(split.begin(), split.end());  // as CLI11 wants them
  try {
    parser_->parse(std::move(split));
  } catch (const CLI::ParseError& error) {
    return absl::InvalidArgumentError(error.what());
  }
  if (const auto unknown = parser_->unknown()) {
    return absl::InvalidArgumentError(Unknown(*unknown));
  }
  return parser_->words();
}

std::string FlagSet::Help() const {
  std::vector<std::pair<std::string, std::string>> lines;
  size_t width = 0;
  for (const CLI::Option* option : parser_->get_options()) {
    const std::string name = NameOf(*option), hint = option->get_type_name();
    lines.emplace_back(absl::StrCat("--", name, hint.empty() ? "" : " ", hint),
                       option->get_description());
    width = std::max(width, lines.back().first.size());
  }
  std::string text;
  for (const auto& [flag, help] : lines) {
    absl::StrAppend(&text, "  ", flag, std::string(width + 2 - flag.size(), ' '), help, "\n");
  }
  return text;
}

}  // namespace kvasir
