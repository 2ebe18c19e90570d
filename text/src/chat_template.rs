//! Conversations to prompts, by a model's own chat templates.
//!
//! What a template writes may be special tokens; what came from outside may not, whatever it
//! spells. To tell them apart, a conversation in which a special token's name stands is rendered
//! twice: once as it is, and once with a mark inside each such name. Where the marks come out, text
//! from outside stands. The two renderings must be equal but for the marks.

use std::collections::BTreeMap;
use std::io;

use daachorse::{DoubleArrayAhoCorasick, DoubleArrayAhoCorasickBuilder, MatchKind};
use minijinja::{Environment, Error as JinjaError, ErrorKind, Value};
use serde_json::Value as Json;

use crate::abi::Span;
use crate::civil_time::CivilTime;
use crate::conversation::{cut_at_continuation, Conversation};
use crate::error::{exhausted, invalid, shown, unimplemented, Error, Result};
use crate::jinja::{environment, RAISED};
use crate::template_source::rewrite;
use crate::tokenizer::Tokenizer;
use crate::tokenizer_config::token_name;

/// Longest prompt that a template may render: what the tokenizer takes.
const MAX_OUTPUT_BYTES: usize = 8 << 20;

/// Steps of the engine that a rendering may take: a base for what the template does by itself, and
/// a share for each byte of the conversation. Real templates need a tenth of it.
const BASE_FUEL: u64 = 2_000_000;
const FUEL_PER_BYTE: u64 = 16;

/// Code points that no text has, of which a mark is chosen.
const MARKS: std::ops::RangeInclusive<char> = '\u{FDD0}'..='\u{FDEF}';

/// Variables of tokenizer_config.json that templates see.
const SPECIAL_TOKEN_NAMES: [&str; 7] = [
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
];

struct Named {
    source: String,
    environment: Environment<'static>,
}

pub struct Chat {
    templates: BTreeMap<String, Named>,
    variables: Vec<(String, Value)>,
    specials: Option<DoubleArrayAhoCorasick<u32>>,
}

pub struct Rendering {
    pub text: String,
    /// Where names of special tokens are text from outside, in ascending order.
    pub plain: Vec<Span>,
}

/// Collects the output up to its limit.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT_BYTES {
            return Err(io::Error::other("the prompt is too long"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The error of a rendering in words for the caller.
fn template_error(error: JinjaError) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(link) = cause {
        if let Some(own) = link.downcast_ref::<JinjaError>() {
            if let Some(message) = own.detail().and_then(|detail| detail.strip_prefix(RAISED)) {
                return invalid(message);
            }
            if own.kind() == ErrorKind::OutOfFuel {
                return exhausted("the chat template takes too many steps for this conversation");
            }
            if own.kind() == ErrorKind::WriteFailure {
                return exhausted(format!(
                    "the chat template renders more than {MAX_OUTPUT_BYTES} bytes"
                ));
            }
        }
        cause = link.source();
    }
    let mut message = error.kind().to_string();
    if let Some(detail) = error.detail() {
        message = format!("{message}: {detail}");
    }
    match error.line() {
        Some(line) => invalid(format!("{message} (line {line} of the chat template)")),
        None => invalid(message),
    }
}

/// The special tokens that a config names, as templates see them.
fn special_token_variables(config: &Json) -> Vec<(String, Value)> {
    let mut variables = Vec::new();
    for name in SPECIAL_TOKEN_NAMES {
        if let Some(token) = config.get(name).and_then(token_name) {
            variables.push((name.to_owned(), Value::from(token)));
        }
    }
    if let Some(Json::Array(more)) = config.get("additional_special_tokens") {
        let names: Vec<Value> = more.iter().filter_map(token_name).map(Value::from).collect();
        variables.push(("additional_special_tokens".to_owned(), Value::from(names)));
    }
    if let Some(Json::Object(more)) = config.get("extra_special_tokens") {
        for (name, value) in more {
            if let Some(token) = token_name(value) {
                variables.push((name.clone(), Value::from(token)));
            }
        }
    }
    variables
}

/// Templates of a tokenizer_config.json or chat_template.json: a text, or a list of named ones.
fn listed_templates(config: &Json, what: &str) -> Result<Vec<(String, String)>> {
    let wrong = || {
        invalid(format!("{what}: chat_template must be a text, or a list of named templates"))
    };
    match config.get("chat_template") {
        None | Some(Json::Null) => Ok(Vec::new()),
        Some(Json::String(source)) => Ok(vec![("default".to_owned(), source.clone())]),
        Some(Json::Array(list)) => list
            .iter()
            .map(|entry| {
                let text = |key: &str| entry.get(key).and_then(Json::as_str).map(str::to_owned);
                Ok((text("name").ok_or_else(wrong)?, text("template").ok_or_else(wrong)?))
            })
            .collect(),
        Some(Json::Object(map)) => map
            .iter()
            .map(|(name, source)| {
                Ok((name.clone(), source.as_str().ok_or_else(wrong)?.to_owned()))
            })
            .collect(),
        Some(_) => Err(wrong()),
    }
}

fn parse(text: &str, what: &str) -> Result<Json> {
    if text.is_empty() {
        return Ok(Json::Null);
    }
    serde_json::from_str(text).map_err(|error| invalid(format!("{what}: {error}")))
}

impl Chat {
    /// `files`: named templates that stand in files of their own, which win over those of the
    /// configs. Without any template the result is an error.
    pub fn new(
        files: &[(&str, &str)],
        tokenizer_config: &str,
        chat_template_json: &str,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<Chat> {
        let config = parse(tokenizer_config, "tokenizer_config.json")?;
        let mut sources: Vec<(String, String)> =
            files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        if sources.is_empty() {
            sources = listed_templates(&config, "tokenizer_config.json")?;
        }
        if sources.is_empty() {
            let legacy = parse(chat_template_json, "chat_template.json")?;
            sources = listed_templates(&legacy, "chat_template.json")?;
        }
        if sources.is_empty() {
            return Err(unimplemented("the model has no chat template"));
        }
        let mut templates = BTreeMap::new();
        for (name, source) in sources {
            let mut environment = environment();
            environment.add_template_owned("chat", rewrite(&source)).map_err(|error| {
                let error = template_error(error);
                invalid(format!("chat template \"{}\": {}", shown(&name, 60), error.message))
            })?;
            templates.insert(name, Named { source, environment });
        }
        let mut variables = special_token_variables(&config);
        let mut names: Vec<String> = Vec::new();
        if let Some(tokenizer) = tokenizer {
            for (variable, id) in
                [("bos_token", tokenizer.table.bos_id), ("eos_token", tokenizer.table.eos_id)]
            {
                let name = tokenizer.table.name(id);
                if !name.is_empty() && !variables.iter().any(|(known, _)| known == variable) {
                    variables.push((variable.to_owned(), Value::from(name)));
                }
            }
            names = tokenizer.special_tokens().map(str::to_owned).collect();
        }
        names.sort();
        names.dedup();
        let specials = if names.is_empty() {
            None
        } else {
            let finder = DoubleArrayAhoCorasickBuilder::new()
                .match_kind(MatchKind::LeftmostLongest)
                .build(&names)
                .map_err(|error| invalid(error.to_string()))?;
            Some(finder)
        };
        Ok(Chat { templates, variables, specials })
    }

    fn template(&self, conversation: &Conversation) -> Result<&Named> {
        if let Some(name) = &conversation.template_name {
            return self.templates.get(name).ok_or_else(|| self.unknown(name));
        }
        let tool_use = if conversation.has_tools() { self.templates.get("tool_use") } else { None };
        tool_use.or_else(|| self.templates.get("default")).ok_or_else(|| {
            invalid(format!(
                "the model has several chat templates and no default; name one of: {}",
                self.names()
            ))
        })
    }

    fn names(&self) -> String {
        self.templates.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
    }

    fn unknown(&self, name: &str) -> Error {
        invalid(format!(
            "the model has no chat template \"{}\"; it has: {}",
            shown(name, 60),
            self.names()
        ))
    }

    /// `find_plain`: whether to tell where names of special tokens are text from outside.
    pub fn render(&self, conversation: &str, now: CivilTime, find_plain: bool) -> Result<Rendering> {
        let fuel = BASE_FUEL + FUEL_PER_BYTE * conversation.len() as u64;
        let text_from_outside = conversation;
        let mut conversation = Conversation::parse(conversation)?;
        let template = self.template(&conversation)?;
        let continued = conversation.tag_continuation(&template.source)?;
        let render = |edit: &dyn Fn(Option<usize>, &str) -> Option<String>| -> Result<String> {
            let mut text = self.render_once(template, &conversation, now, fuel, edit)?;
            if let Some(continued) = &continued {
                cut_at_continuation(&mut text, continued)?;
            }
            Ok(text)
        };
        let text = render(&|_, _| None)?;
        let specials = self.specials.as_ref().filter(|_| find_plain);
        let Some(specials) = specials.filter(|specials| specials.leftmost_find_iter(&text).next().is_some())
        else {
            return Ok(Rendering { text, plain: Vec::new() });
        };
        let mark = MARKS.clone().find(|mark| !text.contains(*mark) && !text_from_outside.contains(*mark));
        let mark = mark.ok_or_else(|| invalid("the conversation has too many noncharacters"))?;
        let marked = |text: &str| mark_names(specials, text, mark);
        // Some templates take apart what an assistant wrote at its special tokens; what they make
        // of it then stays as it is.
        let assistant = |message: Option<usize>| {
            message.is_some_and(|i| conversation.role(i) == "assistant")
        };
        let attempts: [&dyn Fn(Option<usize>, &str) -> Option<String>; 2] = [
            &|_, text| marked(text),
            &|message, text| if assistant(message) { None } else { marked(text) },
        ];
        for edit in attempts {
            let Ok(rendered) = render(edit) else { continue };
            if let Some(plain) = marked_spans(specials, &rendered, mark, &text) {
                return Ok(Rendering { text, plain });
            }
        }
        Err(invalid(
            "the conversation spells one of the model's special tokens, and the chat template acts \
             upon it; leave it out",
        ))
    }

    fn render_once(
        &self,
        template: &Named,
        conversation: &Conversation,
        now: CivilTime,
        fuel: u64,
        edit: &dyn Fn(Option<usize>, &str) -> Option<String>,
    ) -> Result<String> {
        let mut context: BTreeMap<String, Value> = BTreeMap::new();
        let strftime = move |format: &str| now.strftime(format);
        context.insert("strftime_now".to_owned(), Value::from_function(strftime));
        for (name, value) in &self.variables {
            context.insert(name.clone(), value.clone());
        }
        conversation.variables(edit, &mut |name, value| {
            context.insert(name.to_owned(), value);
        });
        // Fuel is a setting of the environment, and its clone shares the compiled templates.
        let mut environment = template.environment.clone();
        environment.set_fuel(Some(fuel));
        let chat = environment.get_template("chat").map_err(template_error)?;
        let mut out = Bounded(Vec::new());
        chat.render_captured_to(Value::from(context), &mut out).map_err(template_error)?;
        String::from_utf8(out.0).map_err(|_| invalid("the chat template does not render UTF-8"))
    }
}

/// `text` with a mark after the first character of each special token's name; none without names.
fn mark_names(specials: &DoubleArrayAhoCorasick<u32>, text: &str, mark: char) -> Option<String> {
    let mut out = String::new();
    let mut done = 0;
    for found in specials.leftmost_find_iter(text) {
        let first = text[found.start()..].chars().next().map_or(0, char::len_utf8);
        out.push_str(&text[done..found.start() + first]);
        out.push(mark);
        done = found.start() + first;
    }
    if done == 0 {
        return None;
    }
    out.push_str(&text[done..]);
    Some(out)
}

/// The spans of `text` that the marks of `marked` tell; none when the two differ in more than marks.
fn marked_spans(
    specials: &DoubleArrayAhoCorasick<u32>,
    marked: &str,
    mark: char,
    text: &str,
) -> Option<Vec<Span>> {
    let mut spans: Vec<Span> = Vec::new();
    let mut at = 0; // in text
    for (i, part) in marked.split(mark).enumerate() {
        if i > 0 {
            let first = text[..at].chars().next_back().map_or(0, char::len_utf8);
            let begin = at - first;
            let found = specials.leftmost_find_iter(&text[begin..]).next();
            let size = found.filter(|found| found.start() == 0).map_or(first, |found| found.end());
            let begin = begin.max(spans.last().map_or(0, |span| span.end));
            spans.push(Span { begin, end: (at - first + size).max(begin) });
        }
        if !text[at..].starts_with(part) {
            return None;
        }
        at += part.len();
    }
    (at == text.len()).then_some(spans)
}

