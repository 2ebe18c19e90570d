//! The arguments of a call as Python binds them: by their places, then by their names.

use minijinja::value::{from_args, Kwargs, Rest, ValueOrKwargs};
use minijinja::{Error, ErrorKind, State, Value};

/// Longest text that a call may make of a short one: what a template may render.
const MAX_TEXT_BYTES: u64 = 8 << 20;

pub fn type_error(message: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("TypeError: {message}"))
}

pub fn value_error(message: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("ValueError: {message}"))
}

/// Pays for a text of `bytes`, before it is made.
pub fn charge(state: &State, bytes: u64) -> Result<(), Error> {
    if bytes > MAX_TEXT_BYTES {
        return Err(Error::new(ErrorKind::OutOfFuel, "a text is too long"));
    }
    state.consume_fuel(bytes / 64)
}

/// What a filter is given besides its value, with the named arguments last.
pub type Given = Rest<ValueOrKwargs>;

pub fn values(given: Given) -> Vec<Value> {
    given.0.into_iter().map(Value::from).collect()
}

pub struct Arguments<'a> {
    placed: &'a [Value],
    named: Kwargs,
    next: usize,
}

impl<'a> Arguments<'a> {
    pub fn new(args: &'a [Value]) -> Result<Arguments<'a>, Error> {
        let (placed, named) = from_args(args)?;
        Ok(Arguments { placed, named, next: 0 })
    }

    /// The next argument; None and an absent one are the same.
    pub fn next(&mut self, name: &str) -> Result<Option<Value>, Error> {
        let placed = self.placed.get(self.next).cloned();
        self.next += 1;
        let value = match placed {
            Some(value) => Some(value),
            None => self.named.get::<Option<Value>>(name)?,
        };
        Ok(value.filter(|value| !value.is_none()))
    }

    /// As next(), but None is a value.
    pub fn next_even_none(&mut self, name: &str) -> Result<Option<Value>, Error> {
        let placed = self.placed.get(self.next).cloned();
        self.next += 1;
        match placed {
            Some(value) => Ok(Some(value)),
            None if self.named.has(name) => self.named.get::<Value>(name).map(Some),
            None => Ok(None),
        }
    }

    pub fn needed(&mut self, name: &str) -> Result<Value, Error> {
        self.next(name)?.ok_or_else(|| type_error(format!("the argument \"{name}\" is missing")))
    }

    pub fn flag(&mut self, name: &str) -> Result<bool, Error> {
        Ok(self.next(name)?.is_some_and(|value| value.is_true()))
    }

    pub fn number(&mut self, name: &str) -> Result<Option<i64>, Error> {
        self.next(name)?.map(i64::try_from).transpose()
    }

    pub fn text(&mut self, name: &str) -> Result<Option<String>, Error> {
        let text = |value: Value| match value.as_str() {
            Some(text) => Ok(text.to_owned()),
            None => Err(type_error(format!("must be str, not {}", type_name(&value)))),
        };
        self.next(name)?.map(text).transpose()
    }

    pub fn needed_text(&mut self, name: &str) -> Result<String, Error> {
        self.text(name)?.ok_or_else(|| type_error("must be str, not NoneType"))
    }

    /// To be called once every argument was asked for.
    pub fn finish(&self) -> Result<(), Error> {
        if self.placed.len() > self.next {
            return Err(Error::from(ErrorKind::TooManyArguments));
        }
        self.named.assert_all_used()
    }
}

/// A value's type as Python calls it.
pub fn type_name(value: &Value) -> &'static str {
    use minijinja::value::ValueKind;
    match value.kind() {
        ValueKind::Undefined => "Undefined",
        ValueKind::None => "NoneType",
        ValueKind::Bool => "bool",
        ValueKind::Number if value.is_integer() => "int",
        ValueKind::Number => "float",
        ValueKind::String => "str",
        ValueKind::Bytes => "bytes",
        ValueKind::Map => "dict",
        ValueKind::Iterable => "generator",
        ValueKind::Seq if value.is_tuple() => "tuple",
        ValueKind::Seq => "list",
        _ => "object",
    }
}
