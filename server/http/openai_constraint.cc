#include "server/http/openai_constraint.h"

#include <algorithm>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/quoted.h"
#include "server/frontend/validation/constraint_validation.h"
#include "server/http/json_member.h"

namespace kvasir {
namespace {

using nlohmann::json;

class Reader {
 public:
  Reader(absl::string_view body, v1::Sampling* sampling) : body_(body), sampling_(sampling) {}

  // A new constraint; a second one is a fault of `field`.
  v1::Constraint* New(const JsonFields& fields, const char* field) {
    if (sampling_->has_constraint()) {
      fields.Fault(field, "the output can have one constraint; there is another field with one");
    }
    sampling_->clear_constraint();
    return sampling_->mutable_constraint();
  }

  // The schema in field `name`: an object as it was written, or JSON in a string (vLLM). `path`
  // leads to `fields`.
  void Schema(const JsonFields& fields, const char* name, std::vector<absl::string_view> path) {
    const json* schema = fields.Find(name);
    if (schema == nullptr) return fields.Fault(name, "there is none; send the JSON schema");
    v1::Constraint* constraint = New(fields, name);
    if (schema->is_string()) return constraint->set_json_schema(schema->get<std::string>());
    if (!schema->is_object() && !schema->is_boolean()) {
      return fields.Fault(name, "must be a JSON schema");
    }
    path.push_back(name);
    const absl::string_view written = JsonMember(body_, path);
    constraint->set_json_schema(written.empty() ? schema->dump() : std::string(written));
  }

  void Choice(const JsonFields& fields, const char* name) {
    const json& choice = *fields.Find(name);
    if (!choice.is_array() || choice.size() > static_cast<size_t>(kMaxChoices) ||
        !std::all_of(choice.begin(), choice.end(),
                     [](const json& option) { return option.is_string(); })) {
      return fields.Fault(name, absl::StrCat("must be a list of at most ", kMaxChoices, " texts"));
    }
    v1::Choice* options = New(fields, name)->mutable_choice();
    for (const json& option : choice) options->add_options(option.get<std::string>());
  }

  // vLLM's {"structures": [{"begin", "schema", "end"}, ...], "triggers": [...]}: each begin is its
  // own trigger here.
  void Tags(const JsonFields& fields, const char* name, const json& tag,
            const std::vector<absl::string_view>& path) {
    const auto structures = tag.find("structures");
    if (structures == tag.end() || !structures->is_array() ||
        structures->size() > static_cast<size_t>(kMaxTags)) {
      return fields.Fault(name, absl::StrCat("needs structures, a list of at most ", kMaxTags,
                                             " objects with begin, schema and end"));
    }
    v1::StructuralTag* tags = New(fields, name)->mutable_structural_tag();
    for (const json& each : *structures) {
      const auto text = [&](const char* key) {
        return each.is_object() && each.contains(key) && each[key].is_string();
      };
      if (!text("begin") || !text("end")) {
        return fields.Fault(name, "a structure needs begin and end, which are texts");
      }
      v1::StructuralTag::Tag* out = tags->add_tags();
      out->set_begin(each["begin"].get<std::string>());
      out->set_end(each["end"].get<std::string>());
      if (each.contains("schema")) out->set_json_schema(each["schema"].dump());
    }
  }

  // {"type": "text" | "json_object" | "json_schema" | "structural_tag", ...}. OpenAI's two APIs
  // differ in where the schema stands.
  void Format(const JsonFields& format, const json& value, std::vector<absl::string_view> path) {
    const std::string type = format.String("type").value_or("");
    if (type == "text") return;
    if (type == "json_object") {
      New(format, "type")->mutable_json()->set_only_object(true);
    } else if (type == "structural_tag") {
      Tags(format, "structures", value, path);
    } else if (type == "json_schema" && format.Find("json_schema") != nullptr) {
      if (const auto wrapped = format.Object("json_schema")) {
        path.push_back("json_schema");
        Schema(*wrapped, "schema", std::move(path));
      }
    } else if (type == "json_schema") {
      Schema(format, "schema", std::move(path));
    } else {
      format.Fault("type", absl::StrCat("is ", Quoted(type),
                                        "; use text, json_object, json_schema or "
                                        "structural_tag"));
    }
  }

 private:
  const absl::string_view body_;
  v1::Sampling* const sampling_;
};

// vLLM's fields of one kind, under the names that they have in `fields`.
struct Names {
  const char* json;
  const char* regex;
  const char* choice;
  const char* grammar;
};

void ReadKinds(const JsonFields& fields, const Names& names,
               const std::vector<absl::string_view>& path, Reader* reader) {
  if (fields.Find(names.json) != nullptr) reader->Schema(fields, names.json, path);
  if (const auto regex = fields.String(names.regex)) {
    reader->New(fields, names.regex)->set_regex(*regex);
  }
  if (fields.Find(names.choice) != nullptr) reader->Choice(fields, names.choice);
  if (const auto grammar = fields.String(names.grammar)) {
    reader->New(fields, names.grammar)->set_lark(*grammar);
  }
}

// What begins with `prefix`, is none of `known` and asks for something is a fault: it would be
// ignored.
void RefuseOthers(const JsonFields& fields, absl::string_view prefix,
                  std::initializer_list<absl::string_view> known) {
  constexpr size_t kShownBytes = 64;
  for (const auto& [name, value] : fields.object().items()) {
    if (!absl::StartsWith(name, prefix) || AsksForNothing(value)) continue;
    if (std::find(known.begin(), known.end(), name) != known.end()) continue;
    fields.Fault(name.substr(0, kShownBytes).c_str(),
                 "is not supported by this server; leave it out");
  }
}

}  // namespace

void ReadConstraint(const JsonFields& fields, absl::string_view body, v1::Sampling* sampling) {
  Reader reader(body, sampling);
  ReadKinds(fields, {"guided_json", "guided_regex", "guided_choice", "guided_grammar"}, {},
            &reader);
  fields.String("guided_decoding_backend");  // whichever: the output is the same
  RefuseOthers(fields, "guided_",
               {"guided_json", "guided_regex", "guided_choice", "guided_grammar",
                "guided_decoding_backend"});
  if (const auto outputs = fields.Object("structured_outputs")) {
    // With the last three vLLM's own client writes which engine it means.
    RefuseOthers(*outputs, "",
                 {"json", "regex", "choice", "grammar", "json_object", "structural_tag",
                  "disable_fallback", "_backend", "_backend_was_auto"});
    ReadKinds(*outputs, {"json", "regex", "choice", "grammar"}, {"structured_outputs"}, &reader);
    if (outputs->Bool("json_object").value_or(false)) {
      reader.New(*outputs, "json_object")->mutable_json()->set_only_object(true);
    }
    if (const json* tag = outputs->Find("structural_tag")) {
      const json parsed =
          tag->is_string() ? json::parse(tag->get<std::string>(), nullptr, false) : *tag;
      reader.Tags(*outputs, "structural_tag", parsed, {"structured_outputs", "structural_tag"});
    }
  }
  if (const auto format = fields.Object("response_format")) {
    reader.Format(*format, *fields.Find("response_format"), {"response_format"});
  }
  if (const auto text = fields.Object("text")) {
    if (const auto format = text->Object("format")) {
      reader.Format(*format, *text->Find("format"), {"text", "format"});
    }
  }
}

}  // namespace kvasir
