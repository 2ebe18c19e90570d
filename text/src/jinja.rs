//! The engine, set up as Hugging Face sets up Jinja2 for chat templates.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value};

use crate::jinja_filters::{self, text_of};
use crate::python_methods;
use crate::python_operators;
use crate::python_text::{python_str, JsonDumps};

/// Calls and loops in each other. Real templates reach ten; each level costs some 2 KB of stack.
const RECURSION_LIMIT: usize = 150;

/// Stands before the message of `raise_exception`, to tell it from the engine's errors.
pub const RAISED: char = '\u{1}';

fn operation_error(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

fn raise_exception(message: &Value) -> Result<Value, Error> {
    Err(operation_error(format!("{RAISED}{}", text_of(message)?)))
}

/// `tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
fn to_json(value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let argument = |place: usize, name: &str| -> Result<Option<Value>, Error> {
        let given: Option<Value> = kwargs.get(name)?;
        Ok(given.or_else(|| args.get(place).cloned()).filter(|value| !value.is_none()))
    };
    let indent = match argument(1, "indent")? {
        Some(indent) => Some(match indent.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::try_from(indent)?.min(64)),
        }),
        None => None,
    };
    let (item_separator, key_separator) = match argument(2, "separators")? {
        Some(separators) => {
            (text_of(&separators.get_item_by_index(0)?)?, text_of(&separators.get_item_by_index(1)?)?)
        }
        None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
    };
    let dumps = JsonDumps {
        ensure_ascii: argument(0, "ensure_ascii")?.is_some_and(|flag| flag.is_true()),
        indent,
        item_separator,
        key_separator,
        sort_keys: argument(3, "sort_keys")?.is_some_and(|flag| flag.is_true()),
    };
    kwargs.assert_all_used()?;
    dumps.dumps(value).map(Value::from)
}

fn join(
    state: &mut minijinja::State,
    value: Value,
    separator: Option<&Value>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let attribute: Option<Value> = kwargs.get("attribute")?;
    let separator = match kwargs.get::<Option<Value>>("d")? {
        Some(named) => text_of(&named)?,
        None => separator.map(text_of).transpose()?.unwrap_or_default(),
    };
    kwargs.assert_all_used()?;
    let mut out = String::new();
    for (i, item) in value.try_iter()?.checked().enumerate() {
        let item = match &attribute {
            Some(name) => item?.get_item(name)?,
            None => item?,
        };
        if i > 0 {
            out.push_str(&separator);
        }
        let before = out.len();
        python_str(&item, &mut out)?;
        state.consume_fuel(((out.len() - before + separator.len()) / 64) as u64)?;
    }
    Ok(Value::from(out))
}

pub fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the delimiters are the usual ones"));
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_recursion_limit(RECURSION_LIMIT);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(python_methods::call);
    environment.set_formatter(|out, _, value| {
        let mut text = String::new();
        python_str(value, &mut text)?;
        out.write_str(&text).map_err(Error::from)
    });
    jinja_filters::add_to(&mut environment);
    python_operators::add_to(&mut environment);
    environment.add_filter("tojson", to_json);
    environment.add_filter("string", |value: &Value| text_of(value));
    environment.add_filter("join", join);
    environment.add_function("raise_exception", raise_exception);
    environment
}
