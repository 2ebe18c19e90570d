#include "client/commands/constraint_flags.h"

#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "client/commands/command.h"

namespace kvasir {

void ConstraintFlags::Register(FlagSet& set) {
  set.Add("json_schema", "FILE", "the output is JSON by the schema in a file; - = standard input",
          &json_schema_file);
  set.Add("json_object", "the output is a JSON object", &json_object);
  set.Add("regex", "R", "the output matches this regular expression as a whole", &regex);
  set.Add("grammar", "FILE", "the output is of the Lark grammar in a file; - = standard input",
          &grammar_file);
  set.Add("choice", "TEXT", "the output is this text, or another --choice; repeatable", &choices);
  set.Add("after", "TEXT", "the constraint holds for what follows this text, such as '</think>'",
          &after);
}

absl::Status ConstraintFlags::Fill(v1::Sampling* sampling) const {
  const int kinds = (json_schema_file ? 1 : 0) + (json_object ? 1 : 0) + (regex ? 1 : 0) +
                    (grammar_file ? 1 : 0) + (choices.empty() ? 0 : 1);
  if (kinds > 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(kinds,
                     " constraints given; give at most one of --json_schema, --json_object, "
                     "--regex, --grammar and --choice"));
  }
  if (kinds == 0) {
    return after.empty() ? absl::OkStatus()
                         : absl::InvalidArgumentError("--after goes with a constraint");
  }
  v1::Constraint* constraint = sampling->mutable_constraint();
  constraint->set_after(after);
  if (json_object) constraint->mutable_json()->set_only_object(true);
  if (regex) constraint->set_regex(*regex);
  for (const std::string& choice : choices) constraint->mutable_choice()->add_options(choice);
  if (!json_schema_file && !grammar_file) return absl::OkStatus();
  absl::StatusOr<std::string> text =
      ReadTextFile(json_schema_file ? *json_schema_file : *grammar_file);
  if (!text.ok()) return text.status();
  if (json_schema_file) {
    constraint->set_json_schema(*std::move(text));
  } else {
    constraint->set_lark(*std::move(text));
  }
  return absl::OkStatus();
}

}  // namespace kvasir
