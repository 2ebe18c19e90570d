//! Objects of Python and Jinja2 that act in another way than the engine's own.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use minijinja::value::{Enumerator, Object, ObjectRepr, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

use crate::python_arguments::{type_error, Arguments};
use crate::python_methods::Dict;

/// What `map`, `select` and their like give: true even when nothing is in it, without a length, and
/// empty once it was gone through.
#[derive(Debug)]
pub struct Generator(Arc<Mutex<std::vec::IntoIter<Value>>>);

struct Drain(Arc<Mutex<std::vec::IntoIter<Value>>>);

impl Iterator for Drain {
    type Item = Value;
    fn next(&mut self) -> Option<Value> {
        self.0.lock().map_or(None, |mut rest| rest.next())
    }
}

impl Generator {
    pub fn value(items: Vec<Value>) -> Value {
        Value::from_object(Generator(Arc::new(Mutex::new(items.into_iter()))))
    }
}

impl Object for Generator {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }
    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Iter(Box::new(Drain(self.0.clone())))
    }
    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        None
    }
    fn is_true(self: &Arc<Self>) -> bool {
        true
    }
    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<generator object>")
    }
}

/// `d.items()`, `d.keys()` and `d.values()`.
#[derive(Debug)]
pub struct DictView {
    pub kind: &'static str,
    pub items: Vec<Value>,
}

impl Object for DictView {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }
    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.items.clone())
    }
    fn is_true(self: &Arc<Self>) -> bool {
        !self.items.is_empty()
    }
}

/// One group of `groupby`: a tuple whose parts have names too.
#[derive(Debug)]
pub struct Group {
    pub grouper: Value,
    pub list: Value,
}

impl Object for Group {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match (key.as_str(), key.as_i64()) {
            (Some("grouper"), _) | (_, Some(0 | -2)) => Some(self.grouper.clone()),
            (Some("list"), _) | (_, Some(1 | -1)) => Some(self.list.clone()),
            _ => None,
        }
    }
    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(2)
    }
}

/// A method that was named and not called, `d.items`: true, and nothing of the dict.
#[derive(Debug)]
pub struct Method {
    pub of: Value,
    pub name: String,
}

impl Object for Method {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
    fn call(self: &Arc<Self>, state: &mut State, args: &[Value]) -> Result<Value, Error> {
        self.of.call_method(state, &self.name, args)
    }
    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<built-in method {} of dict object>", self.name)
    }
}

/// `dict(...)` and `dict.fromkeys(...)`.
#[derive(Debug)]
pub struct DictMaker;

impl Object for DictMaker {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, _state: &mut State, args: &[Value]) -> Result<Value, Error> {
        let (placed, named): (&[Value], minijinja::value::Kwargs) =
            minijinja::value::from_args(args)?;
        let mut pairs: Vec<(Value, Value)> = Vec::new();
        match placed {
            [] => {}
            [from] if from.kind() == ValueKind::Map => {
                for key in from.try_iter()? {
                    pairs.push((key.clone(), from.get_item(&key)?));
                }
            }
            [from] => {
                for pair in from.try_iter()?.checked() {
                    let pair: Vec<Value> = pair?.try_iter()?.collect();
                    let [key, value] = &pair[..] else {
                        return Err(type_error("dict() takes pairs"));
                    };
                    pairs.push((key.clone(), value.clone()));
                }
            }
            _ => return Err(Error::from(ErrorKind::TooManyArguments)),
        }
        for name in named.args() {
            pairs.push((Value::from(name), named.get(name)?));
        }
        Ok(Dict::value(pairs))
    }

    fn call_method(
        self: &Arc<Self>,
        _state: &mut State,
        method: &str,
        args: &[Value],
    ) -> Result<Value, Error> {
        if method != "fromkeys" {
            return Err(Error::from(ErrorKind::UnknownMethod));
        }
        let mut args = Arguments::new(args)?;
        let (keys, value) = (args.needed("iterable")?, args.next("value")?);
        args.finish()?;
        let value = value.unwrap_or(Value::from(()));
        let pairs = keys.try_iter()?.map(|key| (key, value.clone()));
        Ok(Dict::value(pairs))
    }
}

/// `cycler(...)`.
#[derive(Debug)]
pub struct Cycler {
    items: Vec<Value>,
    place: AtomicUsize,
}

impl Cycler {
    pub fn make(items: minijinja::value::Rest<Value>) -> Result<Value, Error> {
        if items.is_empty() {
            return Err(type_error("at least one item has to be provided"));
        }
        Ok(Value::from_object(Cycler { items: items.0, place: AtomicUsize::new(0) }))
    }
    fn current(&self) -> Value {
        self.items[self.place.load(Ordering::Relaxed) % self.items.len()].clone()
    }
}

impl Object for Cycler {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        (key.as_str() == Some("current")).then(|| self.current())
    }
    fn call_method(
        self: &Arc<Self>,
        _state: &mut State,
        method: &str,
        _args: &[Value],
    ) -> Result<Value, Error> {
        match method {
            "next" => {
                let current = self.current();
                self.place.fetch_add(1, Ordering::Relaxed);
                Ok(current)
            }
            "reset" => {
                self.place.store(0, Ordering::Relaxed);
                Ok(Value::from(()))
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }
}

/// `joiner(...)`: nothing at the first call, the separator at each later one.
#[derive(Debug)]
pub struct Joiner {
    separator: Value,
    calls: AtomicUsize,
}

impl Joiner {
    pub fn make(separator: Option<Value>) -> Value {
        let separator = separator.unwrap_or_else(|| Value::from(", "));
        Value::from_object(Joiner { separator, calls: AtomicUsize::new(0) })
    }
}

impl Object for Joiner {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
    fn call(self: &Arc<Self>, _state: &mut State, _args: &[Value]) -> Result<Value, Error> {
        match self.calls.fetch_add(1, Ordering::Relaxed) {
            0 => Ok(Value::from("")),
            _ => Ok(self.separator.clone()),
        }
    }
}
