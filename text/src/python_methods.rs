//! Methods of Python's types that templates call.

use std::collections::HashMap;
use std::sync::Arc;

use minijinja::value::{from_args, Enumerator, Object, ObjectRepr, Tuple, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

use crate::python_arguments::{value_error, Arguments};
use crate::python_objects::DictView;
use crate::python_strings;

/// Names that are methods of a dict before they are keys of it: `d.items` is never `d["items"]`.
pub const DICT_METHODS: [&str; 11] = [
    "clear", "copy", "fromkeys", "get", "items", "keys", "pop", "popitem", "setdefault", "update",
    "values",
];

/// A Python dict of JSON. Unlike the engine's own map, `d.items()` is the method even where the
/// dict has a key of that name, as the schemas of arrays have.
#[derive(Debug, Default)]
pub struct Dict {
    pairs: Vec<(Value, Value)>,
    places: HashMap<Value, usize>,
}

impl Dict {
    pub fn insert(&mut self, key: Value, value: Value) {
        match self.places.get(&key) {
            Some(place) => self.pairs[*place].1 = value,
            None => {
                self.places.insert(key.clone(), self.pairs.len());
                self.pairs.push((key, value));
            }
        }
    }

    pub fn value(pairs: impl IntoIterator<Item = (Value, Value)>) -> Value {
        let mut dict = Dict::default();
        for (key, value) in pairs {
            dict.insert(key, value);
        }
        Value::from_object(dict)
    }
}

impl Object for Dict {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.places.get(key).map(|place| self.pairs[*place].1.clone())
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
        dict_method(&self.pairs, |key| self.get_value(key), method, args)
    }
}

fn dict_method(
    pairs: &[(Value, Value)],
    get: impl Fn(&Value) -> Option<Value>,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let view = |kind, items| {
        from_args::<()>(args)?;
        Ok(Value::from_object(DictView { kind, items }))
    };
    match method {
        "get" => {
            let (key, default): (&Value, Option<Value>) = from_args(args)?;
            Ok(get(key).unwrap_or_else(|| default.unwrap_or(Value::from(()))))
        }
        "keys" => view("dict_keys", pairs.iter().map(|(key, _)| key.clone()).collect()),
        "values" => view("dict_values", pairs.iter().map(|(_, value)| value.clone()).collect()),
        "items" => view(
            "dict_items",
            pairs
                .iter()
                .map(|(key, value)| Value::from(Tuple::from([key.clone(), value.clone()])))
                .collect(),
        ),
        "copy" => {
            let () = from_args(args)?;
            Ok(Dict::value(pairs.iter().cloned()))
        }
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

fn list_method(value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    match method {
        "index" => {
            let (sought,): (&Value,) = from_args(args)?;
            let place = value.try_iter()?.position(|item| item == *sought);
            place.map(Value::from).ok_or_else(|| value_error("it is not in the list"))
        }
        "count" => {
            let (sought,): (&Value,) = from_args(args)?;
            Ok(Value::from(value.try_iter()?.filter(|item| item == sought).count()))
        }
        "copy" if !value.is_tuple() => {
            let () = from_args(args)?;
            Ok(Value::from(value.try_iter()?.collect::<Vec<_>>()))
        }
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

fn number_method(value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    Arguments::new(args)?.finish()?;
    match (method, i128::try_from(value.clone())) {
        ("bit_length", Ok(number)) if value.is_integer() => {
            Ok(Value::from(128 - number.unsigned_abs().leading_zeros()))
        }
        ("is_integer", _) => {
            let number = f64::try_from(value.clone())?;
            Ok(Value::from(number.is_finite() && number.fract() == 0.0))
        }
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

pub fn call(
    state: &mut State,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::String => {
            python_strings::call(state, value.as_str().unwrap_or(""), method, args)
        }
        ValueKind::Map if DICT_METHODS.contains(&method) => {
            let pairs = value
                .try_iter()?
                .map(|key| Ok((key.clone(), value.get_item(&key)?)))
                .collect::<Result<Vec<_>, Error>>()?;
            let get = |key: &Value| value.get_item(key).ok().filter(|found| !found.is_undefined());
            dict_method(&pairs, get, method, args)
        }
        ValueKind::Seq => list_method(value, method, args),
        ValueKind::Number => number_method(value, method, args),
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}
