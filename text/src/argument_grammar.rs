//! The arguments of a tool call in a notation that is not JSON: each declared parameter once, in the
//! schema's order, its value by its own schema. Parameters that the schema does not declare are not
//! written, though it may allow them.

use serde::Deserialize;
use serde_json::{json, Map, Value};

use crate::argument_text::{analyse, Analysis, Text};
use crate::error::{invalid, shown, Result};
use crate::grammar_source::{lark_regex, lark_string, schema_value, Marker, Part, ANY_TEXT};
use crate::tokenizer::Tokenizer;

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Strings {
    /// As they are, up to what stands after the value; other values as JSON.
    Raw,
    /// Between two marks; other values as JSON.
    Marked,
    /// All values as JSON, but for True and False.
    Python,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Notation {
    /// Before a value; {} stands for the parameter's name.
    before: String,
    after: String,
    between: String,
    strings: Strings,
    mark: String,
    /// What a string cannot spell: where the reader sees its end.
    forbidden: Vec<String>,
}

/// Says which values there are, not which arguments; none of these is kept here.
const REFUSED: [&str; 15] = [
    "patternProperties",
    "propertyNames",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "anyOf",
    "oneOf",
    "allOf",
    "not",
    "if",
    "$ref",
    "$dynamicRef",
    "enum",
    "const",
    "unevaluatedProperties",
];

struct Writer<'a> {
    notation: &'a Notation,
    tokenizer: &'a Tokenizer,
    root: &'a Value,
    prefix: &'a str,
    rules: usize,
    lark: &'a mut String,
}

/// Adds a rule `name` of the arguments that `parameters` allows.
pub fn arguments(
    name: &str,
    parameters: &Value,
    notation: &Notation,
    tokenizer: &Tokenizer,
    lark: &mut String,
) -> Result<()> {
    let declared = declared(parameters)?;
    let mut writer =
        Writer { notation, tokenizer, root: parameters, prefix: name, rules: 0, lark };
    let mut written = Vec::new();
    for (key, schema, required) in &declared {
        let rule = writer
            .parameter(key, schema)
            .map_err(|error| invalid(format!("parameter {}: {}", shown(key, 100), error.message)))?;
        written.push((rule, *required));
    }
    let between = Marker::literal(&Marker::new(&notation.between, tokenizer)?.parts);
    writer.sequence(name, &written, &between);
    Ok(())
}

/// Names, schemas, and whether each is required. What is required and not declared is declared.
fn declared(parameters: &Value) -> Result<Vec<(String, Value, bool)>> {
    let Value::Object(object) = parameters else {
        return Err(invalid("the parameters are no object"));
    };
    if let Some(key) = REFUSED.iter().find(|key| object.contains_key(**key)) {
        return Err(invalid(format!(
            "its parameters have {key} beside properties, which the notation of this model's calls \
             cannot keep"
        )));
    }
    let none = Map::new();
    let properties = match object.get("properties") {
        None => &none,
        Some(Value::Object(properties)) => properties,
        Some(_) => return Err(invalid("its properties are no object")),
    };
    let mut required: Vec<&str> = Vec::new();
    match object.get("required") {
        None => {}
        Some(Value::Array(names)) if names.iter().all(Value::is_string) => {
            required.extend(names.iter().filter_map(Value::as_str));
        }
        Some(_) => return Err(invalid("its required is no list of names")),
    }
    let mut declared: Vec<(String, Value, bool)> = Vec::new();
    for (name, schema) in properties {
        let is_required = required.contains(&name.as_str());
        match schema {
            Value::Bool(false) if is_required => {
                return Err(invalid(format!("{} is required and false", shown(name, 100))));
            }
            Value::Bool(false) => {}
            _ => declared.push((name.clone(), schema.clone(), is_required)),
        }
    }
    let others = object.get("additionalProperties").unwrap_or(&Value::Bool(true));
    for name in required {
        if properties.contains_key(name) || declared.iter().any(|(known, ..)| known == name) {
            continue;
        }
        if *others == Value::Bool(false) {
            return Err(invalid(format!("{} is required and not allowed", shown(name, 100))));
        }
        declared.push((name.to_owned(), others.clone(), true));
    }
    let count = |key: &str| object.get(key).and_then(Value::as_u64);
    let least = declared.iter().filter(|(.., required)| *required).count() as u64;
    if count("minProperties").is_some_and(|least_wanted| least_wanted > least)
        || count("maxProperties").is_some_and(|most| most < declared.len() as u64)
    {
        return Err(invalid(
            "minProperties and maxProperties are kept only where required and properties keep them",
        ));
    }
    Ok(declared)
}

impl Writer<'_> {
    fn next_rule(&mut self) -> String {
        self.rules += 1;
        format!("{}_{}", self.prefix, self.rules)
    }

    fn literal(&self, text: &str) -> Result<String> {
        let literal = Marker::literal(&Marker::new(text, self.tokenizer)?.parts);
        Ok(if literal.is_empty() { "\"\"".to_owned() } else { literal })
    }

    /// Those that are not required may be left out.
    fn sequence(&mut self, name: &str, written: &[(String, bool)], between: &str) {
        if between.is_empty() {
            let all = written.iter().map(|(rule, required)| {
                if *required { rule.clone() } else { format!("{rule}?") }
            });
            let all: Vec<String> = all.collect();
            let all = if all.is_empty() { "\"\"".to_owned() } else { all.join(" ") };
            self.lark.push_str(&format!("{name}: {all}\n"));
            return;
        }
        // From the last to the first: what may follow when none, and when one is written before.
        let (mut first, mut then) = ("\"\"".to_owned(), "\"\"".to_owned());
        for (rule, required) in written.iter().rev() {
            let (new_first, new_then) = (self.next_rule(), self.next_rule());
            let or = |other: &str| if *required { String::new() } else { format!(" | {other}") };
            self.lark.push_str(&format!(
                "{new_first}: {rule} {then}{}\n{new_then}: {between} {rule} {then}{}\n",
                or(&first),
                or(&then)
            ));
            (first, then) = (new_first, new_then);
        }
        self.lark.push_str(&format!("{name}: {first}\n"));
    }

    fn parameter(&mut self, key: &str, schema: &Value) -> Result<String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        let is_spelled = match self.notation.strings {
            Strings::Raw => {
                !key.contains(|c: char| c.is_control() || "<>".contains(c)) && key.trim() == key
            }
            _ => key.chars().all(plain),
        };
        if key.is_empty() || !is_spelled {
            return Err(invalid("the notation of this model's calls cannot spell its name"));
        }
        let before = self.literal(&self.notation.before.replace("{}", key))?;
        let (value, ends) = self.value(schema)?;
        let after = if ends { String::new() } else { self.literal(&self.notation.after)? };
        let rule = self.next_rule();
        self.lark.push_str(&format!("{rule}: {before} {value} {after}\n"));
        Ok(rule)
    }

    /// A rule of the value, and whether that has what stands after it too.
    fn value(&mut self, schema: &Value) -> Result<(String, bool)> {
        match self.notation.strings {
            Strings::Python if schema.get("type") == Some(&json!("boolean")) => {
                let others = ["enum", "const", "anyOf", "oneOf", "allOf", "not", "$ref"];
                if others.iter().any(|key| schema.get(key).is_some()) {
                    return Ok((self.json(schema)?, false));
                }
                Ok(("(\"True\" | \"False\")".to_owned(), false))
            }
            Strings::Python => Ok((self.json(schema)?, false)),
            Strings::Marked => Ok((self.marked(schema)?, false)),
            Strings::Raw => {
                let analysis = analyse(schema, self.root)?;
                if analysis.texts.is_empty() {
                    return Ok((self.json(schema)?, false));
                }
                // The reader takes all but null for the string that they are.
                let after = self.notation.after.clone();
                let mut rules = Vec::new();
                for text in &analysis.texts {
                    rules.push(self.text(text, &after, !after.starts_with('\n'))?);
                }
                if analysis.null {
                    rules.push(format!("\"null\" {}", self.literal(&after)?));
                }
                Ok((format!("({})", rules.join(" | ")), true))
            }
        }
    }

    fn json(&mut self, schema: &Value) -> Result<String> {
        let rule = self.next_rule();
        let mut schema = schema.clone();
        if let (Value::Object(members), Value::Object(root)) = (&mut schema, self.root) {
            for key in ["$defs", "definitions"] {
                let Some(definitions) = root.get(key) else { continue };
                members.entry(key).or_insert_with(|| definitions.clone());
            }
        }
        self.lark.push_str(&format!("{rule}: %json {}\n", schema_value(schema)?));
        Ok(rule)
    }

    /// Strings between marks, lists of them, and all else as JSON.
    fn marked(&mut self, schema: &Value) -> Result<String> {
        let analysis = match analyse(schema, self.root) {
            Ok(analysis) => analysis,
            Err(_) => return self.json(schema),
        };
        if !analysis.texts.is_empty() {
            let text = self.marked_text(&analysis)?;
            if !analysis.others && !analysis.null {
                return Ok(text);
            }
            return Ok(format!("({text} | {})", self.json(schema)?));
        }
        let known = ["type", "items", "minItems", "maxItems", "description", "title", "default"];
        let is_list = schema.get("type") == Some(&json!("array"))
            && schema.as_object().is_some_and(|all| all.keys().all(|k| known.contains(&&**k)));
        let items = schema.get("items").filter(|_| is_list);
        let analysis = items.and_then(|items| analyse(items, self.root).ok());
        match analysis.filter(|all| !all.texts.is_empty() && !all.others && !all.null) {
            Some(analysis) => {
                let item = self.marked_text(&analysis)?;
                self.list(schema, &item)
            }
            None => self.json(schema),
        }
    }

    fn list(&mut self, schema: &Value, item: &str) -> Result<String> {
        let count = |key: &str| schema.get(key).and_then(Value::as_u64);
        let least = count("minItems").unwrap_or(0);
        let more = match count("maxItems") {
            Some(most) if most < least => return Err(invalid("maxItems is less than minItems")),
            Some(0) => return Ok("\"[]\"".to_owned()),
            Some(1) => String::new(),
            Some(most) => {
                format!("(\",\" {item}){{{},{}}}", least.max(1) - 1, most - 1)
            }
            None => format!("(\",\" {item}){{{},}}", least.max(1) - 1),
        };
        let rule = self.next_rule();
        let empty = if least == 0 { "\"[]\" | " } else { "" };
        self.lark.push_str(&format!("{rule}: {empty}\"[\" {item} {more} \"]\"\n"));
        Ok(rule)
    }

    fn marked_text(&mut self, analysis: &Analysis) -> Result<String> {
        let mark = self.notation.mark.clone();
        let open = self.literal(&mark)?;
        let mut rules = Vec::new();
        for text in &analysis.texts {
            rules.push(format!("{open} {}", self.text(text, &mark, false)?));
        }
        Ok(format!("({})", rules.join(" | ")))
    }

    /// A rule of one of `text`, up to and with `close`. `trimmed`: a line break at either end would be
    /// lost.
    fn text(&mut self, text: &Text, close: &str, trimmed: bool) -> Result<String> {
        let rule = self.next_rule();
        let token = rule.to_uppercase();
        let mut all: Vec<String> = text.regexes.iter().map(|regex| lark_regex(regex)).collect();
        if all.is_empty() {
            all.push(lark_regex(&format!("{ANY_TEXT}*")));
        } else if trimmed {
            all.push(format!("~{}", lark_regex(&format!("\\n{ANY_TEXT}*|{ANY_TEXT}*\\n"))));
        }
        let mut forbidden: Vec<String> =
            self.notation.forbidden.iter().map(|each| regex::escape(each)).collect();
        if !self.notation.mark.is_empty() {
            forbidden.push(regex::escape(&self.notation.mark));
        }
        let forbidden = format!("{ANY_TEXT}*({}){ANY_TEXT}*", forbidden.join("|"));
        all.push(format!("~{}", lark_regex(&forbidden)));
        self.lark.push_str(&format!("{token}: {}\n", all.join(" & ")));

        let close = Marker::new(close, self.tokenizer)?.parts;
        let (lead, rest) = match close.split_first() {
            Some((Part::Text(lead), rest)) => (lead.as_str(), rest),
            _ => ("", close.as_slice()),
        };
        if rest.is_empty() {
            // The first place of what ends it.
            self.lark.push_str(&format!("{rule}[lazy]: {token} {}\n", lark_string(lead)));
            return Ok(rule);
        }
        // Text has no special token in it, so that ends it.
        let some = lark_regex(&format!("{ANY_TEXT}+"));
        let body = if lead.is_empty() {
            format!("{token} & {some}")
        } else {
            format!("{token} {}", lark_string(lead))
        };
        let maybe = if lead.is_empty() && text.may_be_empty { "?" } else { "" };
        let rest = Marker::literal(rest);
        self.lark.push_str(&format!("{token}_ALL: {body}\n{rule}: {token}_ALL{maybe} {rest}\n"));
        Ok(rule)
    }
}
