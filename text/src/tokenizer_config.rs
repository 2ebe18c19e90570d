//! The parts of tokenizer_config.json that change what a tokenizer does.

use std::collections::BTreeMap;

use serde_json::Value;
use tokenizers::AddedToken;

use crate::error::{invalid, shown, Result};

#[derive(Default)]
pub struct TokenizerConfig {
    /// By id, from `added_tokens_decoder`.
    pub added_tokens: BTreeMap<u32, AddedToken>,
    pub bos_token: Option<String>,
    pub eos_token: Option<String>,
    pub add_bos_token: Option<bool>,
    pub add_eos_token: Option<bool>,
    /// `add_prefix_space: false` and `legacy: false`, which converting a SentencePiece model heeds.
    pub add_prefix_space: Option<bool>,
    pub legacy: Option<bool>,
}

/// A token stands as its name, or as an object with the name in "content".
pub fn token_name(value: &Value) -> Option<&str> {
    match value {
        Value::String(name) => Some(name),
        Value::Object(object) => object.get("content").and_then(Value::as_str),
        _ => None,
    }
}

fn optional_bool(config: &Value, key: &str) -> Result<Option<bool>> {
    match config.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(_) => Err(invalid(format!("tokenizer_config.json: {key} must be true or false"))),
    }
}

fn optional_token(config: &Value, key: &str) -> Result<Option<String>> {
    match config.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => token_name(value).map(|name| Some(name.to_owned())).ok_or_else(|| {
            invalid(format!("tokenizer_config.json: {key} must be a token's name"))
        }),
    }
}

fn added_token(id: &str, value: &Value) -> Result<(u32, AddedToken)> {
    let place = || format!("tokenizer_config.json: added_tokens_decoder[\"{}\"]", shown(id, 40));
    let id: u32 =
        id.parse().map_err(|_| invalid(format!("{} does not stand under an id", place())))?;
    let content = value
        .get("content")
        .and_then(Value::as_str)
        .ok_or_else(|| invalid(format!("{} has no content", place())))?;
    let flag = |key: &str| value.get(key).and_then(Value::as_bool);
    let special = flag("special").unwrap_or(false);
    let token = AddedToken::from(content, special)
        .normalized(flag("normalized").unwrap_or(!special))
        .single_word(flag("single_word").unwrap_or(false))
        .lstrip(flag("lstrip").unwrap_or(false))
        .rstrip(flag("rstrip").unwrap_or(false));
    Ok((id, token))
}

/// An empty text sets nothing.
pub fn parse_tokenizer_config(text: &str) -> Result<TokenizerConfig> {
    if text.is_empty() {
        return Ok(TokenizerConfig::default());
    }
    let config: Value = serde_json::from_str(text)
        .map_err(|error| invalid(format!("tokenizer_config.json: {error}")))?;
    if !config.is_object() {
        return Err(invalid("tokenizer_config.json must be an object"));
    }
    let added_tokens = match config.get("added_tokens_decoder") {
        None | Some(Value::Null) => BTreeMap::new(),
        Some(Value::Object(listed)) => {
            listed.iter().map(|(id, value)| added_token(id, value)).collect::<Result<_>>()?
        }
        Some(_) => {
            return Err(invalid("tokenizer_config.json: added_tokens_decoder must be an object"))
        }
    };
    Ok(TokenizerConfig {
        added_tokens,
        bos_token: optional_token(&config, "bos_token")?,
        eos_token: optional_token(&config, "eos_token")?,
        add_bos_token: optional_bool(&config, "add_bos_token")?,
        add_eos_token: optional_bool(&config, "add_eos_token")?,
        add_prefix_space: optional_bool(&config, "add_prefix_space")?,
        legacy: optional_bool(&config, "legacy")?,
    })
}
