//! Which strings a JSON schema allows, as regular expressions of their text.

use serde_json::Value;

use crate::error::{invalid, shown, Result};

/// Strings that all `regexes` match as a whole; any string when there are none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    pub regexes: Vec<String>,
    pub may_be_empty: bool,
}

#[derive(Default)]
pub struct Analysis {
    /// Alternatives; none: no string is allowed, or the schema says nothing of types.
    pub texts: Vec<Text>,
    pub null: bool,
    /// Values that are neither.
    pub others: bool,
}

const MAX_DEPTH: usize = 8;

/// Keywords that narrow a schema beside those of `schema`'s own branch.
const NARROWING: [&str; 5] = ["allOf", "anyOf", "oneOf", "not", "if"];

macro_rules! date {
    () => {
        "[0-9]{4}-(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-9])|(?:0[13-9]|1[0-2])-30|(?:0[13578]|1[02])-31)"
    };
}
macro_rules! time {
    () => {
        "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
    };
}
macro_rules! host {
    () => {
        "[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(?:\\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*"
    };
}

/// Formats of strings, in their usual spellings.
const FORMATS: [(&str, &str); 8] = [
    ("date", date!()),
    ("time", time!()),
    ("date-time", concat!("(?:", date!(), ")T", time!())),
    ("uuid", "[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"),
    ("hostname", host!()),
    ("email", concat!("[a-zA-Z0-9_+-]+(?:\\.[a-zA-Z0-9_+-]+)*@", host!())),
    (
        "ipv4",
        "(?:(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\\.){3}(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])",
    ),
    (
        "uri",
        "[a-zA-Z][a-zA-Z0-9+.-]*:(?:[a-zA-Z0-9!$&'()*+,/:;=?@._~-]|%[0-9a-fA-F]{2})+(?:#(?:[a-zA-Z0-9!$&'()*+,/:;=?@._~-]|%[0-9a-fA-F]{2})*)?",
    ),
];

pub fn analyse(schema: &Value, root: &Value) -> Result<Analysis> {
    let mut analysis = Analysis::default();
    add(schema, root, 0, &mut analysis)?;
    Ok(analysis)
}

fn not_kept(what: &str) -> crate::error::Error {
    invalid(format!("{what} is not kept for strings in the notation of this model's calls"))
}

/// Where a reference in the same schema leads.
fn resolved<'a>(reference: &str, root: &'a Value) -> Result<&'a Value> {
    let pointer = reference.strip_prefix('#');
    pointer
        .and_then(|pointer| root.pointer(pointer))
        .ok_or_else(|| invalid(format!("nothing is at $ref {}", shown(reference, 200))))
}

fn add(schema: &Value, root: &Value, depth: usize, out: &mut Analysis) -> Result<()> {
    let Value::Object(members) = schema else {
        out.others = true;
        return Ok(());
    };
    if depth > MAX_DEPTH {
        return Err(invalid("its references and branches nest too deep"));
    }
    let has = |key: &str| members.contains_key(key);
    let narrows: Vec<&str> = NARROWING.into_iter().filter(|key| has(key)).collect();
    let own = has("type") || has("enum") || has("const");
    if let Some(reference) = members.get("$ref").and_then(Value::as_str) {
        if own || !narrows.is_empty() {
            return Err(not_kept("$ref beside other keywords"));
        }
        return add(resolved(reference, root)?, root, depth + 1, out);
    }
    if own && narrows.is_empty() {
        return add_own(members, out);
    }
    match (narrows.as_slice(), own) {
        ([], _) => out.others = true,
        ([key @ ("anyOf" | "oneOf" | "allOf")], false) => {
            let Some(Value::Array(branches)) = members.get(*key) else {
                return Err(invalid(format!("{key} is no list")));
            };
            let before = out.texts.len();
            for branch in branches {
                add(branch, root, depth + 1, out)?;
            }
            let several = out.texts.len() > before + 1
                || (*key == "allOf" && branches.len() > 1 && out.texts.len() > before);
            if several && *key != "anyOf" {
                return Err(not_kept(&format!("{key} of several")));
            }
        }
        // What is no string follows its schema as JSON.
        _ => {
            let mut types = Analysis::default();
            if own {
                add_own(members, &mut types)?;
            }
            if !own || !types.texts.is_empty() {
                return Err(not_kept(&narrows.join(" and ")));
            }
            out.others = true;
        }
    }
    Ok(())
}

/// A schema of type, enum and const.
fn add_own(members: &serde_json::Map<String, Value>, out: &mut Analysis) -> Result<()> {
    let types: Vec<&str> = match members.get("type") {
        Some(Value::String(name)) => vec![name],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => vec!["string", "null", "any other"],
    };
    let values: Option<Vec<&Value>> = match (members.get("const"), members.get("enum")) {
        (Some(value), None) => Some(vec![value]),
        (None, Some(Value::Array(values))) => Some(values.iter().collect()),
        (None, None) => None,
        _ => return Err(not_kept("const beside enum")),
    };
    let allowed = |is: &dyn Fn(&Value) -> bool| values.as_ref().map_or(true, |v| v.iter().any(|x| is(x)));
    out.null |= types.contains(&"null") && allowed(&Value::is_null);
    out.others |= types.iter().any(|name| !["null", "string"].contains(name))
        && allowed(&|value| !value.is_null() && !value.is_string());
    if !types.contains(&"string") || !allowed(&Value::is_string) {
        return Ok(());
    }
    let mut text = Text { regexes: Vec::new(), may_be_empty: true };
    if let Some(values) = values {
        let strings: Vec<&str> = values.iter().filter_map(|value| value.as_str()).collect();
        let escaped: Vec<String> = strings.iter().map(|text| regex::escape(text)).collect();
        text.may_be_empty &= strings.contains(&"");
        text.regexes.push(escaped.join("|"));
    }
    let length = |key: &str| -> Result<Option<u64>> {
        match members.get(key) {
            None => Ok(None),
            Some(value) => match value.as_u64() {
                Some(length) => Ok(Some(length)),
                None => Err(invalid(format!("{key} is no length"))),
            },
        }
    };
    let (least, most) = (length("minLength")?.unwrap_or(0), length("maxLength")?);
    if least > 0 || most.is_some() {
        let most = most.map_or(String::new(), |most| most.to_string());
        text.regexes.push(format!("(?s:.){{{least},{most}}}"));
        text.may_be_empty &= least == 0;
    }
    if let Some(pattern) = members.get("pattern") {
        let Value::String(pattern) = pattern else {
            return Err(invalid("pattern is no text"));
        };
        text.may_be_empty &= regex::Regex::new(pattern).is_ok_and(|regex| regex.is_match(""));
        // Digits and letters of ASCII alone, as such patterns mean them.
        text.regexes.push(llguidance::regex_to_lark(&whole(pattern)?, "dw"));
    }
    if let Some(format) = members.get("format") {
        let name = format.as_str().unwrap_or_default();
        let Some((_, regex)) = FORMATS.iter().find(|(known, _)| *known == name) else {
            let known: Vec<&str> = FORMATS.iter().map(|(known, _)| *known).collect();
            return Err(invalid(format!(
                "format {} is not served in the notation of this model's calls; these are: {}",
                shown(name, 100),
                known.join(", ")
            )));
        };
        text.regexes.push((*regex).to_owned());
        text.may_be_empty = false;
    }
    out.texts.push(text);
    Ok(())
}

/// A pattern matches anywhere; this one as a whole.
fn whole(pattern: &str) -> Result<String> {
    let (mut depth, mut in_class, mut escaped, mut branches) = (0, false, false, false);
    for c in pattern.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ']' => in_class = false,
            _ if in_class => {}
            '[' => in_class = true,
            '(' => depth += 1,
            ')' => depth -= 1,
            '|' if depth == 0 => branches = true,
            _ => {}
        }
    }
    let begun = pattern.strip_prefix('^');
    let rest = begun.unwrap_or(pattern);
    let slashes = |text: &str| text.bytes().rev().take_while(|byte| *byte == b'\\').count();
    let ended = rest.strip_suffix('$').filter(|rest| slashes(rest) % 2 == 0);
    let inner = ended.unwrap_or(rest);
    if branches && (begun.is_some() || ended.is_some()) {
        return Err(not_kept("a pattern with ^ or $ and | outside of brackets"));
    }
    let lead = if begun.is_some() { "" } else { "(?s:.)*" };
    let tail = if ended.is_some() { "" } else { "(?s:.)*" };
    Ok(format!("{lead}(?:{inner}){tail}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn patterns_match_as_a_whole() {
        assert_eq!(whole("^a$").unwrap(), "(?:a)");
        assert_eq!(whole("a").unwrap(), "(?s:.)*(?:a)(?s:.)*");
        assert_eq!(whole("a|b").unwrap(), "(?s:.)*(?:a|b)(?s:.)*");
        assert_eq!(whole("^(a|b)$").unwrap(), "(?:(a|b))");
        assert_eq!(whole(r"^a\$").unwrap(), r"(?:a\$)(?s:.)*");
        assert!(whole("^a|b$").is_err());
    }

    #[test]
    fn strings_of_references_and_branches_are_found() {
        let root = json!({"$defs": {"unit": {"enum": ["c", "f", 1]}}});
        let unit = analyse(&json!({"anyOf": [{"$ref": "#/$defs/unit"}, {"type": "null"}]}), &root);
        let unit = unit.unwrap();
        assert_eq!(unit.texts, [Text { regexes: vec!["c|f".to_owned()], may_be_empty: false }]);
        assert!(unit.null && unit.others);
        let number = analyse(&json!({"type": "integer", "not": {"const": 3}}), &root).unwrap();
        assert!(number.texts.is_empty() && number.others);
        assert!(analyse(&json!({"type": "string", "not": {"const": "a"}}), &root).is_err());
        assert!(analyse(&json!({"$ref": "#/$defs/none"}), &root).is_err());
    }
}
