#include "server/frontend/validation/constraint_validation.h"

#include <utility>

#include "nlohmann/json.hpp"

namespace kvasir {
namespace {

using nlohmann::json;

constexpr char kField[] = "sampling.constraint";

// Strings of a proto3 message are valid UTF-8, or the message would not have been parsed; those of
// another origin are refused by the compiler.
std::string Dump(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

Constraint OfChoice(const v1::Choice& choice, Violations* violations) {
  if (choice.options().empty()) {
    violations->Add("sampling.constraint.choice", "0 options, at least 1 is needed");
  }
  json options = json::array();
  if (violations->CheckCount("sampling.constraint.choice.options", choice.options_size(),
                             kMaxChoices, "options")) {
    for (const std::string& option : choice.options()) options.push_back(option);
  }
  return {.kind = Constraint::Kind::kChoice, .text = Dump(options)};
}

Constraint OfTags(const v1::StructuralTag& tag, Violations* violations) {
  if (tag.tags().empty()) {
    violations->Add("sampling.constraint.structural_tag", "0 tags, at least 1 is needed");
  }
  json tags = json::array();
  if (violations->CheckCount("sampling.constraint.structural_tag.tags", tag.tags_size(), kMaxTags,
                             "tags")) {
    for (const v1::StructuralTag::Tag& each : tag.tags()) {
      tags.push_back(
          {{"begin", each.begin()}, {"schema", each.json_schema()}, {"end", each.end()}});
    }
  }
  return {
      .kind = Constraint::Kind::kStructuralTag,
      .text = Dump(
          {{"tags", std::move(tags)}, {"at_once", tag.at_once()}, {"only_one", tag.only_one()}})};
}

}  // namespace

std::optional<Constraint> CheckConstraint(const v1::Sampling& sampling,
                                          const v1::Stopping& stopping, Violations* violations) {
  if (!sampling.has_constraint()) return std::nullopt;
  const v1::Constraint& wanted = sampling.constraint();
  if (stopping.ignore_eos()) {
    violations->Add("stopping.ignore_eos",
                    "an output with a constraint ends where that is complete; leave one out");
  }
  Constraint constraint;
  switch (wanted.kind_case()) {
    case v1::Constraint::kJsonSchema:
      constraint = {.kind = Constraint::Kind::kJsonSchema, .text = wanted.json_schema()};
      break;
    case v1::Constraint::kJson:
      constraint = {.kind = Constraint::Kind::kJsonSchema,
                    .text = wanted.json().only_object() ? R"({"type":"object"})" : "{}"};
      break;
    case v1::Constraint::kRegex:
      constraint = {.kind = Constraint::Kind::kRegex, .text = wanted.regex()};
      break;
    case v1::Constraint::kLark:
      constraint = {.kind = Constraint::Kind::kLark, .text = wanted.lark()};
      break;
    case v1::Constraint::kChoice:
      constraint = OfChoice(wanted.choice(), violations);
      break;
    case v1::Constraint::kStructuralTag:
      constraint = OfTags(wanted.structural_tag(), violations);
      break;
    case v1::Constraint::KIND_NOT_SET:
      violations->Add(kField,
                      "it says nothing, exactly 1 is needed; set json_schema, json, regex, lark, "
                      "choice or structural_tag");
      break;
  }
  constraint.after = wanted.after();
  return constraint;
}

}  // namespace kvasir
