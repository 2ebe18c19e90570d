//! Methods of Python's types that templates call: those of minijinja-contrib, and a few more.

use std::collections::HashMap;
use std::sync::Arc;

use minijinja::value::{from_args, Enumerator, Object, ObjectRepr, Tuple, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

/// A Python dict of JSON. Unlike the engine's own map, `d.items()` is the method even where the
/// dict has a key of that name, as the schemas of arrays have.
#[derive(Debug, Default)]
pub struct Dict {
    pairs: Vec<(Value, Value)>,
    places: HashMap<String, usize>,
}

impl Dict {
    pub fn insert(&mut self, key: &str, value: Value) {
        match self.places.get(key) {
            Some(place) => self.pairs[*place].1 = value,
            None => {
                self.places.insert(key.to_owned(), self.pairs.len());
                self.pairs.push((Value::from(key), value));
            }
        }
    }
}

impl Object for Dict {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.places.get(key.as_str()?).map(|place| self.pairs[*place].1.clone())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.pairs.iter().map(|(key, _)| key.clone()).collect())
    }

    fn call_method(
        self: &Arc<Self>,
        _state: &mut State,
        method: &str,
        args: &[Value],
    ) -> Result<Value, Error> {
        match method {
            "get" => {
                let (key, default): (&Value, Option<Value>) = from_args(args)?;
                Ok(self.get_value(key).unwrap_or_else(|| default.unwrap_or(Value::from(()))))
            }
            "keys" => Ok(self.pairs.iter().map(|(key, _)| key.clone()).collect()),
            "values" => Ok(self.pairs.iter().map(|(_, value)| value.clone()).collect()),
            "items" => Ok(self
                .pairs
                .iter()
                .map(|(key, value)| Value::from(Tuple::from([key.clone(), value.clone()])))
                .collect()),
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }
}

fn not_found() -> Error {
    Error::new(ErrorKind::InvalidOperation, "ValueError: substring not found")
}

fn parts<const N: usize>(parts: [&str; N]) -> Result<Value, Error> {
    Ok(Value::from(Tuple::from(parts.map(Value::from))))
}

/// `str.rsplit`.
fn rsplit(text: &str, separator: Option<&str>, most: Option<i64>) -> Vec<Value> {
    let limit = most.filter(|most| *most >= 0).map_or(usize::MAX, |most| most as usize);
    let mut found = Vec::new();
    let mut rest = text;
    match separator {
        Some(separator) if !separator.is_empty() => {
            while found.len() < limit {
                let Some(at) = rest.rfind(separator) else { break };
                found.push(Value::from(&rest[at + separator.len()..]));
                rest = &rest[..at];
            }
            found.push(Value::from(rest));
        }
        _ => {
            rest = rest.trim_end();
            while found.len() < limit {
                let Some(at) = rest.rfind(char::is_whitespace) else { break };
                let word = rest[at..].trim_start();
                found.push(Value::from(word));
                rest = rest[..at].trim_end();
            }
            rest = if found.len() < limit { rest.trim_start() } else { rest };
            if !rest.is_empty() {
                found.push(Value::from(rest));
            }
        }
    }
    found.reverse();
    found
}

pub fn call(
    state: &mut State,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    if let (ValueKind::String, Some(text)) = (value.kind(), value.as_str()) {
        match method {
            "rsplit" => {
                let (separator, most): (Option<&str>, Option<i64>) = from_args(args)?;
                return Ok(Value::from(rsplit(text, separator, most)));
            }
            "partition" => {
                let (separator,): (&str,) = from_args(args)?;
                return match text.split_once(separator) {
                    Some((before, after)) => parts([before, separator, after]),
                    None => parts([text, "", ""]),
                };
            }
            "rpartition" => {
                let (separator,): (&str,) = from_args(args)?;
                return match text.rsplit_once(separator) {
                    Some((before, after)) => parts([before, separator, after]),
                    None => parts(["", "", text]),
                };
            }
            "removeprefix" => {
                let (prefix,): (&str,) = from_args(args)?;
                return Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text)));
            }
            "removesuffix" => {
                let (suffix,): (&str,) = from_args(args)?;
                return Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text)));
            }
            "index" | "rindex" => {
                let (what,): (&str,) = from_args(args)?;
                let found = if method == "index" { text.find(what) } else { text.rfind(what) };
                let at = found.ok_or_else(not_found)?;
                return Ok(Value::from(text[..at].chars().count()));
            }
            "casefold" => {
                let () = from_args(args)?;
                return Ok(Value::from(text.to_lowercase()));
            }
            _ => {}
        }
    }
    if let (ValueKind::Seq, "index") = (value.kind(), method) {
        let (what,): (&Value,) = from_args(args)?;
        for (i, item) in value.try_iter()?.enumerate() {
            if item == *what {
                return Ok(Value::from(i));
            }
        }
        return Err(Error::new(ErrorKind::InvalidOperation, "ValueError: not in the list"));
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
}
