//! Values as Python writes them: `str()`, `repr()` and `json.dumps()`, which templates were made
//! for.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

use crate::python_arguments::type_error;
use crate::python_objects::{DictView, Generator, Group};
use crate::python_strings::is_printable;

/// Nesting that a value may have; JSON from outside is bounded before, values made by a template
/// are not.
const MAX_DEPTH: usize = 200;

fn failure(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

/// The shortest digits that read back as `number`, as Python prints a float.
pub fn python_float(number: f64, nan: &str, infinity: &str) -> String {
    if number.is_nan() {
        return nan.to_owned();
    }
    if number.is_infinite() {
        return format!("{}{infinity}", if number < 0.0 { "-" } else { "" });
    }
    let scientific = format!("{number:e}"); // "-1.25e-7"
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = format!("{number}");
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

fn is_float(value: &Value) -> bool {
    value.kind() == ValueKind::Number && !value.is_integer()
}

fn as_float(value: &Value) -> f64 {
    f64::try_from(value.clone()).unwrap_or(f64::NAN)
}

/// `str(value)`: what `{{ value }}` prints.
pub fn python_str(value: &Value, out: &mut String) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Undefined => {}
        ValueKind::String => out.push_str(value.as_str().unwrap_or("")),
        _ => python_repr(value, out, 0)?,
    }
    Ok(())
}

fn string_repr(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if is_printable(c) => out.push(c),
            c => out.push_str(&match c as u32 {
                code @ 0..=0xff => format!("\\x{code:02x}"),
                code @ 0x100..=0xffff => format!("\\u{code:04x}"),
                code => format!("\\U{code:08x}"),
            }),
        }
    }
    out.push(quote);
}

/// `repr(value)`.
pub fn python_repr_of(value: &Value, out: &mut String) -> Result<(), Error> {
    python_repr(value, out, 0)
}

fn python_repr(value: &Value, out: &mut String, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(failure("a value is nested too deeply"));
    }
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::String => string_repr(value.as_str().unwrap_or(""), out),
        ValueKind::Number if is_float(value) => {
            out.push_str(&python_float(as_float(value), "nan", "inf"))
        }
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter()?.enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                python_repr(&key, out, depth + 1)?;
                out.push_str(": ");
                python_repr(&value.get_item(&key)?, out, depth + 1)?;
            }
            out.push('}');
        }
        ValueKind::Iterable if value.downcast_object_ref::<Generator>().is_some() => {
            out.push_str("<generator object>")
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let view = value.downcast_object_ref::<DictView>();
            if let Some(view) = view {
                out.push_str(view.kind);
                out.push('(');
            }
            let is_tuple = value.is_tuple() || value.downcast_object_ref::<Group>().is_some();
            let (open, close) = if is_tuple { ('(', ')') } else { ('[', ']') };
            out.push(open);
            let mut count = 0;
            for item in value.try_iter()?.checked() {
                if count > 0 {
                    out.push_str(", ");
                }
                python_repr(&item?, out, depth + 1)?;
                count += 1;
            }
            if value.is_tuple() && count == 1 {
                out.push(',');
            }
            out.push(close);
            if view.is_some() {
                out.push(')');
            }
        }
        _ => out.push_str(&value.to_string()), // None, True, integers and the engine's own objects
    }
    Ok(())
}

/// `json.dumps` with the arguments that Hugging Face's `tojson` passes on.
pub struct JsonDumps {
    pub ensure_ascii: bool,
    pub indent: Option<String>,
    pub item_separator: String,
    pub key_separator: String,
    pub sort_keys: bool,
}

impl JsonDumps {
    pub fn dumps(&self, value: &Value) -> Result<String, Error> {
        let mut out = String::new();
        self.write(value, &mut out, 0)?;
        Ok(out)
    }

    fn line(&self, out: &mut String, depth: usize) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            for _ in 0..depth {
                out.push_str(indent);
            }
        }
    }

    fn string(&self, text: &str, out: &mut String) {
        out.push('"');
        for character in text.chars() {
            match character {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if (c as u32) < 0x20 || (self.ensure_ascii && !(' '..='~').contains(&c)) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }

    fn key(&self, key: &Value, out: &mut String) -> Result<(), Error> {
        let text = match key.kind() {
            ValueKind::String => key.as_str().unwrap_or("").to_owned(),
            ValueKind::Number if is_float(key) => {
                python_float(as_float(key), "NaN", "Infinity")
            }
            ValueKind::Number => key.to_string(),
            ValueKind::Bool => if key.is_true() { "true" } else { "false" }.to_owned(),
            ValueKind::None => "null".to_owned(),
            kind => {
                return Err(failure(format!(
                    "keys must be str, int, float, bool or None, not {kind}"
                )))
            }
        };
        self.string(&text, out);
        Ok(())
    }

    fn write(&self, value: &Value, out: &mut String, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(failure("a value is nested too deeply"));
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if is_float(value) => {
                out.push_str(&python_float(as_float(value), "NaN", "Infinity"))
            }
            ValueKind::Number => out.push_str(&value.to_string()),
            ValueKind::String => self.string(value.as_str().unwrap_or(""), out),
            ValueKind::Iterable
                if value.downcast_object_ref::<Generator>().is_some()
                    || value.downcast_object_ref::<DictView>().is_some() =>
            {
                return Err(type_error("Object of type generator is not JSON serializable"));
            }
            ValueKind::Seq | ValueKind::Iterable => {
                let mut count = 0;
                out.push('[');
                for item in value.try_iter()?.checked() {
                    if count > 0 {
                        out.push_str(&self.item_separator);
                    }
                    self.line(out, depth + 1);
                    self.write(&item?, out, depth + 1)?;
                    count += 1;
                }
                if count > 0 {
                    self.line(out, depth);
                }
                out.push(']');
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                out.push('{');
                for (i, key) in keys.iter().enumerate() {
                    if i > 0 {
                        out.push_str(&self.item_separator);
                    }
                    self.line(out, depth + 1);
                    self.key(key, out)?;
                    out.push_str(&self.key_separator);
                    self.write(&value.get_item(key)?, out, depth + 1)?;
                }
                if !keys.is_empty() {
                    self.line(out, depth);
                }
                out.push('}');
            }
            ValueKind::Undefined => {
                return Err(failure("Object of type Undefined is not JSON serializable"))
            }
            kind => {
                return Err(failure(format!("Object of type {kind} is not JSON serializable")))
            }
        }
        Ok(())
    }
}
