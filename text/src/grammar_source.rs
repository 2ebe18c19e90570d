//! What a request asks of its output, as the grammar that llguidance compiles.

use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use serde::Deserialize;
use serde_json::{json, Value};

use crate::call_grammar::tool_calls;
use crate::error::{invalid, Result};
use crate::schema_check::narrow;
use crate::tokenizer::{EncodeOptions, Tokenizer};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    JsonSchema,
    Regex,
    Lark,
    Choice,
    StructuralTag,
    ToolCalls,
}

pub struct Source<'a> {
    pub kind: Kind,
    pub text: &'a str,
    /// Free text comes before, up to this; empty = none.
    pub after: &'a str,
}

/// Between two tokens of JSON: a blank, or a line break with an indent. Without a bound a model
/// could go on with blanks for ever.
const WHITESPACE: &str = r"[\x20\x09]|\r?\n[\x20\x09]{0,32}";

pub const ANY_TEXT: &str = "(?s:.)";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tag {
    pub begin: String,
    pub schema: String,
    pub end: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StructuralTag {
    tags: Vec<Tag>,
    at_once: bool,
    only_one: bool,
}

pub fn read<'a, T: Deserialize<'a>>(text: &'a str, what: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| invalid(format!("{what}: {error}")))
}

/// A schema with the whitespace that is kept here, unless its own x-guidance says another.
pub fn schema(text: &str) -> Result<Value> {
    if text.trim().is_empty() {
        return schema("{}");
    }
    schema_value(read(text, "the JSON schema is not JSON")?)
}

pub fn schema_value(mut value: Value) -> Result<Value> {
    if value == Value::Bool(true) {
        value = json!({});
    }
    narrow(&mut value)?;
    let Value::Object(object) = &mut value else {
        return Err(invalid("the JSON schema must be an object, or true"));
    };
    let options = object.entry("x-guidance").or_insert_with(|| json!({}));
    let Value::Object(options) = options else {
        return Err(invalid("x-guidance in a JSON schema must be an object"));
    };
    // Without \u0061 for "a": a free name could be one that has a schema, in another spelling.
    options.entry("json_allowed_escapes").or_insert_with(|| json!("nrbtf\\\""));
    if !options.contains_key("whitespace_flexible") {
        options.entry("whitespace_pattern").or_insert_with(|| json!(WHITESPACE));
    }
    Ok(value)
}

/// The whole output must match, so anchors at its ends say nothing; the compiler knows none.
fn without_anchors(regex: &str) -> &str {
    let regex = regex.strip_prefix('^').unwrap_or(regex);
    match regex.strip_suffix('$') {
        Some(rest) if rest.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 0 => rest,
        _ => regex,
    }
}

fn choice(text: &str) -> Result<GrammarWithLexer> {
    let options: Vec<String> = read(text, "the choice is not a list of texts")?;
    if options.is_empty() || options.iter().any(String::is_empty) {
        return Err(invalid("a choice needs at least one text, and none may be empty"));
    }
    let escaped: Vec<String> = options.iter().map(|option| regex::escape(option)).collect();
    Ok(GrammarWithLexer::from_regex(&escaped.join("|")))
}

pub fn lark_regex(regex: &str) -> String {
    format!("/{}/", llguidance::regex_to_lark(regex, ""))
}

pub fn lark_string(text: &str) -> String {
    Value::from(text).to_string()
}

/// Text as it is sought in the output: special tokens by their ids, what is between them literally.
pub struct Marker {
    pub parts: Vec<Part>,
}

pub enum Part {
    Text(String),
    Token(i32),
}

impl Marker {
    pub fn new(text: &str, tokenizer: &Tokenizer) -> Result<Marker> {
        let ids = tokenizer.encode(
            text,
            &EncodeOptions {
                add_special_tokens: false,
                parse_special_tokens: true,
                plain: &[],
                cancelled: &|| false,
            },
        )?;
        // Where special tokens stand: they are spelled by their names, in order.
        let mut parts = Vec::new();
        let mut rest = text;
        for id in ids.into_iter().filter(|id| tokenizer.table.is_special(*id as u32)) {
            let name = tokenizer.table.name(id);
            let Some(place) = rest.find(name).filter(|_| !name.is_empty()) else { continue };
            if place > 0 {
                parts.push(Part::Text(rest[..place].to_owned()));
            }
            parts.push(Part::Token(id));
            rest = &rest[place + name.len()..];
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Marker { parts })
    }

    pub fn literal(parts: &[Part]) -> String {
        let spelled = parts.iter().map(|part| match part {
            Part::Text(text) => lark_string(text),
            Part::Token(id) => format!("<[{id}]>"),
        });
        spelled.collect::<Vec<_>>().join(" ")
    }

    /// A rule `name` of free text up to the marker's first place, and the marker.
    pub fn after_free_text(&self, name: &str, lark: &mut String) {
        let rest = Marker::literal(self.parts.get(1..).unwrap_or_default());
        match self.parts.first() {
            Some(Part::Text(text)) => {
                let regex = lark_regex(&format!("{ANY_TEXT}*{}", regex::escape(text)));
                lark.push_str(&format!("{name}: {name}_text {rest}\n{name}_text[lazy]: {regex}\n"));
            }
            // No free text has a special token in it.
            Some(Part::Token(id)) => lark.push_str(&format!("{name}: FREE? <[{id}]> {rest}\n")),
            None => lark.push_str(&format!("{name}: \"\"\n")),
        }
    }
}

pub fn free_terminal() -> String {
    format!("FREE: {}\n", lark_regex(&format!("{ANY_TEXT}+")))
}

fn structural_tag(text: &str, tokenizer: &Tokenizer) -> Result<GrammarWithLexer> {
    let wanted: StructuralTag = read(text, "the structural tag is not as it should be")?;
    if wanted.tags.is_empty() || wanted.tags.iter().any(|tag| tag.begin.is_empty()) {
        return Err(invalid("a structural tag needs at least one tag, each with a begin"));
    }
    let mut lark = free_terminal();
    let (mut opened, mut found) = (Vec::new(), Vec::new());
    for (i, tag) in wanted.tags.iter().enumerate() {
        let begin = Marker::new(&tag.begin, tokenizer)?;
        let end = Marker::new(&tag.end, tokenizer)?;
        lark.push_str(&format!("body{i}: json{i} {}\n", Marker::literal(&end.parts)));
        lark.push_str(&format!("json{i}: %json {}\n", schema(&tag.schema)?));
        lark.push_str(&format!("open{i}: {} body{i}\n", Marker::literal(&begin.parts)));
        begin.after_free_text(&format!("head{i}"), &mut lark);
        opened.push(format!("open{i}"));
        found.push(format!("head{i} body{i}"));
    }
    let (opened, found) = (opened.join(" | "), found.join(" | "));
    lark.push_str(&match (wanted.at_once, wanted.only_one) {
        (true, true) => format!("start: {opened}\n"),
        (true, false) => format!("start: ({opened}) ({found})* FREE?\n"),
        (false, true) => format!("start: {found} | FREE\n"),
        (false, false) => format!("start: ({found})* FREE?\n"),
    });
    Ok(GrammarWithLexer::from_lark(lark))
}

pub fn grammar(source: &Source, tokenizer: &Tokenizer) -> Result<TopLevelGrammar> {
    let mut body = match source.kind {
        Kind::JsonSchema => GrammarWithLexer::from_json_schema(schema(source.text)?),
        Kind::Regex => GrammarWithLexer::from_regex(without_anchors(source.text)),
        Kind::Lark => GrammarWithLexer::from_lark(source.text.to_owned()),
        Kind::Choice => choice(source.text)?,
        Kind::StructuralTag => structural_tag(source.text, tokenizer)?,
        Kind::ToolCalls => tool_calls(source.text, tokenizer)?,
    };
    if source.after.is_empty() {
        return Ok(TopLevelGrammar::from_grammar(body));
    }
    let mut lark = String::from("start: head @body\n");
    let marker = Marker::new(source.after, tokenizer)?;
    marker.after_free_text("head", &mut lark);
    if matches!(marker.parts.first(), Some(Part::Token(_))) {
        lark.push_str(&free_terminal());
    }
    body.name = Some("body".to_owned());
    Ok(TopLevelGrammar {
        grammars: vec![GrammarWithLexer::from_lark(lark), body],
        max_tokens: None,
    })
}

/// The compiler's message for people: without its state, and not longer than it helps. `own_text`:
/// the grammar is what the user wrote, so a place in it helps; else it is one made of that.
pub fn reason(message: &str, own_text: bool) -> String {
    if message.starts_with("NoExtension") {
        return "no token can come next: no output is what it asks for".to_owned();
    }
    let end = ["\n<state>", "\n<non-verbose/>", "\n<backtrace>"]
        .iter()
        .filter_map(|mark| message.find(mark))
        .min()
        .unwrap_or(message.len());
    let mut message = message[..end].trim();
    if !own_text {
        message = without_place(message);
    }
    let lines: Vec<&str> = message.lines().map(str::trim_end).collect();
    let line = lines.join("; ");
    let most = line.char_indices().nth(600).map_or(line.len(), |(at, _)| at);
    line[..most].replace(char::is_control, " ")
}

/// "at 1(8): what is wrong", and below it the line of the grammar: what is wrong alone.
fn without_place(message: &str) -> &str {
    let is_place = |place: &str| place.bytes().all(|byte| byte.is_ascii_digit() || b"()".contains(&byte));
    let Some((place, rest)) = message.strip_prefix("at ").and_then(|rest| rest.split_once(": ")) else {
        return message;
    };
    if !is_place(place) {
        return message;
    }
    let is_source = |line: &str| {
        line.split_once(" | ").is_some_and(|(number, _)| number.trim().parse::<u32>().is_ok())
    };
    let mut end = 0;
    for line in rest.split_inclusive('\n').take_while(|line| !is_source(line)) {
        end += line.len();
    }
    rest[..end].trim_end()
}
