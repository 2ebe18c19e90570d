//! A conversation from outside, made into what a template sees.
//!
//! It is a JSON object: `messages`, and optionally `tools`, `documents`, `add_generation_prompt`,
//! `continue_final_message` (true, or the name of the field to continue), `chat_template` (a
//! template's name) and `kwargs` (further variables).

use minijinja::Value;
use serde_json::{Map, Value as Json};

use crate::error::{invalid, shown, Result};
use crate::python_methods::Dict;

/// Names under which a message's reasoning is passed. Templates read the first, gpt-oss's the
/// second.
const REASONING_FIELDS: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// What the template writes where the last message's text ends, to be found again.
const CONTINUE_TAG: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// Variables that are not for the caller to set otherwise.
const OWN_VARIABLES: [&str; 4] = ["messages", "tools", "documents", "add_generation_prompt"];

#[derive(Debug)]
pub struct Conversation {
    messages: Vec<Map<String, Json>>,
    tools: Json,
    documents: Json,
    kwargs: Map<String, Json>,
    add_generation_prompt: bool,
    /// The field of the last message that is to be continued.
    continued: Option<String>,
    pub template_name: Option<String>,
}

fn object(value: Json, what: &str) -> Result<Map<String, Json>> {
    match value {
        Json::Object(object) => Ok(object),
        _ => Err(invalid(format!("{what} must be an object"))),
    }
}

fn list_of_objects(value: Json, what: &str) -> Result<Json> {
    match &value {
        Json::Null => Ok(value),
        Json::Array(items) if items.iter().all(Json::is_object) => Ok(value),
        _ => Err(invalid(format!("{what} must be a list of objects, or null"))),
    }
}

fn flag(value: Json, what: &str) -> Result<bool> {
    match value {
        Json::Null => Ok(false),
        Json::Bool(flag) => Ok(flag),
        _ => Err(invalid(format!("{what} must be true or false"))),
    }
}

/// Clients send a call's arguments as a string that holds JSON; templates want the object.
fn open_arguments(message: &mut Map<String, Json>) {
    let Some(Json::Array(calls)) = message.get_mut("tool_calls") else { return };
    for call in calls {
        let arguments = call.get_mut("function").and_then(|function| function.get_mut("arguments"));
        if let Some(Json::String(text)) = arguments.as_deref() {
            if let Ok(opened @ Json::Object(_)) = serde_json::from_str(text) {
                *arguments.unwrap() = opened;
            }
        }
    }
}

/// A message as templates expect it: no nulls, the reasoning under the names they read.
fn prepare(mut message: Map<String, Json>) -> Map<String, Json> {
    message.retain(|_, value| !value.is_null());
    open_arguments(&mut message);
    let reasoning = REASONING_FIELDS.iter().find_map(|name| message.get(*name)).cloned();
    let Some(reasoning) = reasoning else { return message };
    let mut aliased = Map::new(); // in the reference's order, for templates that write it whole
    aliased.insert("thinking".to_owned(), reasoning.clone());
    aliased.extend(message);
    aliased.insert("reasoning_content".to_owned(), reasoning);
    aliased
}

impl Conversation {
    pub fn parse(text: &str) -> Result<Conversation> {
        let parsed: Json = serde_json::from_str(text)
            .map_err(|error| invalid(format!("the conversation is not JSON: {error}")))?;
        let mut fields = object(parsed, "the conversation")?;
        let mut take = |name: &str| fields.remove(name).unwrap_or(Json::Null);
        let messages = match take("messages") {
            Json::Array(messages) => messages
                .into_iter()
                .enumerate()
                .map(|(i, message)| object(message, &format!("messages[{i}]")).map(prepare))
                .collect::<Result<Vec<_>>>()?,
            _ => return Err(invalid("messages must be a list of objects")),
        };
        if messages.is_empty() {
            return Err(invalid("the conversation has no messages; send at least one"));
        }
        let kwargs = match take("kwargs") {
            Json::Null => Map::new(),
            kwargs => object(kwargs, "kwargs")?,
        };
        if let Some(name) = OWN_VARIABLES.iter().find(|name| kwargs.contains_key(**name)) {
            return Err(invalid(format!("kwargs may not set {name}; it has its own field")));
        }
        let conversation = Conversation {
            messages,
            tools: list_of_objects(take("tools"), "tools")?,
            documents: list_of_objects(take("documents"), "documents")?,
            kwargs,
            add_generation_prompt: flag(take("add_generation_prompt"), "add_generation_prompt")?,
            continued: match take("continue_final_message") {
                Json::Null | Json::Bool(false) => None,
                Json::Bool(true) => Some("content".to_owned()),
                Json::String(field) => Some(field),
                _ => {
                    return Err(invalid(
                        "continue_final_message must be true, false or a field's name",
                    ))
                }
            },
            template_name: match take("chat_template") {
                Json::Null => None,
                Json::String(name) => Some(name),
                _ => return Err(invalid("chat_template must be a template's name")),
            },
        };
        if let Some(unknown) = fields.keys().next() {
            return Err(invalid(format!(
                "the conversation has the unknown field \"{}\"; it may have messages, tools, \
                 documents, add_generation_prompt, continue_final_message, chat_template and kwargs",
                shown(unknown, 60)
            )));
        }
        if conversation.continued.is_some() && conversation.add_generation_prompt {
            return Err(invalid(
                "continue_final_message and add_generation_prompt exclude each other: the first \
                 goes on with the last message, the second begins a new one",
            ));
        }
        Ok(conversation)
    }

    pub fn has_tools(&self) -> bool {
        !self.tools.is_null()
    }

    pub fn role(&self, message: usize) -> &str {
        self.messages[message].get("role").and_then(Json::as_str).unwrap_or("")
    }

    /// Tags the text that is to be continued; returns that text.
    pub fn tag_continuation(&mut self, template: &str) -> Result<Option<String>> {
        let Some(field) = &self.continued else { return Ok(None) };
        let last = self.messages.last_mut().expect("checked when parsed");
        let text = last.get(field).cloned().ok_or_else(|| {
            invalid(format!("the final message has no \"{}\" to continue", shown(field, 60)))
        })?;
        // The reasoning stands under several names; whichever the template reads carries the tag.
        let fields: Vec<&str> = if REASONING_FIELDS.contains(&field.as_str()) {
            REASONING_FIELDS.into_iter().filter(|name| last.get(*name) == Some(&text)).collect()
        } else {
            vec![field]
        };
        if !fields.iter().any(|field| template.contains(*field)) {
            return Err(invalid(format!(
                "the chat template does not read the field \"{}\" that is to be continued",
                shown(field, 60)
            )));
        }
        let no_text = || invalid("the final message has no text to continue");
        let continued = match &text {
            Json::String(text) => {
                for field in fields {
                    last.insert(field.to_owned(), Json::String(format!("{text}{CONTINUE_TAG}")));
                }
                text.clone()
            }
            Json::Array(_) => {
                let parts = last.get_mut(field).and_then(Json::as_array_mut);
                let part = parts
                    .and_then(|parts| parts.iter_mut().rev().find_map(|part| part.get_mut("text")))
                    .ok_or_else(no_text)?;
                let text = part.as_str().ok_or_else(no_text)?.to_owned();
                *part = Json::String(format!("{text}{CONTINUE_TAG}"));
                text
            }
            _ => return Err(no_text()),
        };
        Ok(Some(continued))
    }

    /// The variables of the template; `edit` may change each string of them, message by message.
    pub fn variables(
        &self,
        edit: &dyn Fn(Option<usize>, &str) -> Option<String>,
        set: &mut dyn FnMut(&str, Value),
    ) {
        for (name, value) in &self.kwargs {
            set(name, to_value(value, &|text| edit(None, text)));
        }
        let messages: Vec<Value> = self
            .messages
            .iter()
            .enumerate()
            .map(|(i, message)| object_value(message, &|text| edit(Some(i), text)))
            .collect();
        set("messages", Value::from(messages));
        set("tools", to_value(&self.tools, &|text| edit(None, text)));
        set("documents", to_value(&self.documents, &|text| edit(None, text)));
        set("add_generation_prompt", Value::from(self.add_generation_prompt));
    }
}

/// Cuts a rendering at the tag: what follows the continued text is left out.
pub fn cut_at_continuation(rendered: &mut String, continued: &str) -> Result<()> {
    let tag = CONTINUE_TAG.trim_end();
    let place = rendered.rfind(tag).filter(|_| rendered.contains(continued.trim()));
    let Some(place) = place else {
        return Err(invalid(
            "the final message does not appear in the rendered conversation, so it cannot be \
             continued; the chat template leaves a part of it out",
        ));
    };
    let whole = rendered[place..].starts_with(CONTINUE_TAG);
    rendered.truncate(place);
    if !whole {
        // The template has trimmed the message, and so would have trimmed what now is its end.
        rendered.truncate(rendered.trim_end().len());
    }
    Ok(())
}

fn object_value(object: &Map<String, Json>, edit: &dyn Fn(&str) -> Option<String>) -> Value {
    let key = |key: &String| edit(key).map_or_else(|| Value::from(key.as_str()), Value::from);
    Dict::value(object.iter().map(|(name, value)| (key(name), to_value(value, edit))))
}

pub fn to_value(json: &Json, edit: &dyn Fn(&str) -> Option<String>) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(flag) => Value::from(*flag),
        Json::Number(number) => {
            if let Some(integer) = number.as_i64() {
                Value::from(integer)
            } else if let Some(integer) = number.as_u64() {
                Value::from(integer)
            } else {
                Value::from(number.as_f64().unwrap_or(f64::NAN))
            }
        }
        Json::String(text) => match edit(text) {
            Some(edited) => Value::from(edited),
            None => Value::from(text.as_str()),
        },
        Json::Array(items) => {
            Value::from(items.iter().map(|item| to_value(item, edit)).collect::<Vec<_>>())
        }
        Json::Object(object) => object_value(object, edit),
    }
}
