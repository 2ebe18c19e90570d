//! Python's operators where the engine's act in another way. The source of a template is rewritten
//! to call these (template_operators.rs).

use std::cmp::Ordering;

use minijinja::value::{Rest, Tuple, ValueKind};
use minijinja::{Environment, Error, State, Value};

use crate::python_arguments::{charge, type_error, type_name, value_error};
use crate::python_format::printf;
use crate::python_methods::DICT_METHODS;
use crate::python_objects::Method;

pub const ADD: &str = "_kvasir_add";
pub const REMAINDER: &str = "_kvasir_mod";
pub const CONTAINS: &str = "_kvasir_in";
pub const ATTRIBUTE: &str = "_kvasir_attribute";
/// `<`, `<=`, `>` and `>=`.
pub const COMPARISONS: [(&str, &str); 4] =
    [("<", "_kvasir_lt"), ("<=", "_kvasir_le"), (">", "_kvasir_gt"), (">=", "_kvasir_ge")];

fn unsupported(operator: &str, left: &Value, right: &Value) -> Error {
    let (left, right) = (type_name(left), type_name(right));
    type_error(format!("unsupported operand type(s) for {operator}: '{left}' and '{right}'"))
}

fn is_number(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Number | ValueKind::Bool)
}

fn is_float(value: &Value) -> bool {
    value.kind() == ValueKind::Number && !value.is_integer()
}

fn whole(value: &Value) -> Option<i128> {
    match value.kind() {
        ValueKind::Bool => Some(i128::from(value.is_true())),
        _ => i128::try_from(value.clone()).ok(),
    }
}

fn float(value: &Value) -> f64 {
    match value.kind() {
        ValueKind::Bool => f64::from(u8::from(value.is_true())),
        _ => f64::try_from(value.clone()).unwrap_or(f64::NAN),
    }
}

fn integer(number: i128) -> Value {
    i64::try_from(number).map_or_else(|_| Value::from(number), Value::from)
}

/// As the `escape` filter of Jinja2.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(character),
        }
    }
    out
}

fn add(state: &State, left: &Value, right: &Value) -> Result<Value, Error> {
    if is_number(left) && is_number(right) {
        if is_float(left) || is_float(right) {
            return Ok(Value::from(float(left) + float(right)));
        }
        let sum = whole(left).zip(whole(right)).and_then(|(left, right)| left.checked_add(right));
        return sum.map(integer).ok_or_else(|| value_error("a number is too large"));
    }
    if let (ValueKind::String, ValueKind::String) = (left.kind(), right.kind()) {
        let (text, more) = (left.as_str().unwrap_or(""), right.as_str().unwrap_or(""));
        charge(state, (text.len() + more.len()) as u64)?;
        // What is marked safe makes its other side so.
        return Ok(match (left.is_safe(), right.is_safe()) {
            (false, false) => Value::from([text, more].concat()),
            (true, true) => Value::from_safe_string([text, more].concat()),
            (true, false) => Value::from_safe_string([text, &escaped(more)].concat()),
            (false, true) => Value::from_safe_string([&escaped(text), more].concat()),
        });
    }
    let is_list = |value: &Value| type_name(value) == "list";
    if (left.is_tuple() && right.is_tuple()) || (is_list(left) && is_list(right)) {
        charge(state, 16 * (left.len().unwrap_or(0) + right.len().unwrap_or(0)) as u64)?;
        let items = left.try_iter()?.checked().chain(right.try_iter()?.checked());
        let items = items.collect::<Result<Vec<Value>, Error>>()?;
        return Ok(if left.is_tuple() { Tuple::from(items).into() } else { items.into() });
    }
    Err(unsupported("+", left, right))
}

fn sum(state: &mut State, values: Rest<Value>) -> Result<Value, Error> {
    let mut values = values.0.into_iter();
    let first = values.next().unwrap_or_default();
    values.try_fold(first, |left, right| add(state, &left, &right))
}

fn remainder(state: &mut State, left: &Value, right: &Value) -> Result<Value, Error> {
    if let (ValueKind::String, Some(format)) = (left.kind(), left.as_str()) {
        let text = printf(state, format, right)?;
        return Ok(if left.is_safe() { Value::from_safe_string(text) } else { Value::from(text) });
    }
    if !is_number(left) || !is_number(right) {
        return Err(unsupported("%", left, right));
    }
    if is_float(left) || is_float(right) {
        let (left, right) = (float(left), float(right));
        if right == 0.0 {
            return Err(value_error("float modulo by zero"));
        }
        let rest = left % right;
        let rest = if rest != 0.0 && (rest < 0.0) != (right < 0.0) { rest + right } else { rest };
        return Ok(Value::from(if rest == 0.0 { 0f64.copysign(right) } else { rest }));
    }
    let (Some(left), Some(right)) = (whole(left), whole(right)) else {
        return Err(value_error("a number is too large"));
    };
    if right == 0 {
        return Err(value_error("integer modulo by zero"));
    }
    let rest = left.checked_rem(right).unwrap_or(0);
    Ok(integer(if rest != 0 && (rest < 0) != (right < 0) { rest + right } else { rest }))
}

/// The order of two values of kinds that have one.
pub fn compare(operator: &str, left: &Value, right: &Value) -> Result<Option<Ordering>, Error> {
    if is_number(left) && is_number(right) {
        if is_float(left) || is_float(right) {
            return Ok(float(left).partial_cmp(&float(right)));
        }
        return Ok(Some(left.cmp(right)));
    }
    if let (ValueKind::String, ValueKind::String) = (left.kind(), right.kind()) {
        return Ok(Some(left.as_str().cmp(&right.as_str())));
    }
    let sequences = left.kind() == ValueKind::Seq && right.kind() == ValueKind::Seq;
    if sequences && left.is_tuple() == right.is_tuple() {
        for (left, right) in left.try_iter()?.zip(right.try_iter()?) {
            if left != right {
                return compare(operator, &left, &right);
            }
        }
        return Ok(left.len().partial_cmp(&right.len()));
    }
    let (left, right) = (type_name(left), type_name(right));
    Err(type_error(format!(
        "'{operator}' not supported between instances of '{left}' and '{right}'"
    )))
}

pub fn holds(operator: &str, left: &Value, right: &Value) -> Result<bool, Error> {
    let order = compare(operator, left, right)?;
    Ok(match operator {
        "<" => order == Some(Ordering::Less),
        "<=" => matches!(order, Some(Ordering::Less | Ordering::Equal)),
        ">" => order == Some(Ordering::Greater),
        _ => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
    })
}

fn contains(state: &mut State, item: &Value, container: &Value) -> Result<bool, Error> {
    match container.kind() {
        ValueKind::String if item.kind() != ValueKind::String => {
            let kind = type_name(item);
            Err(type_error(format!("'in <string>' requires string as left operand, not {kind}")))
        }
        ValueKind::None | ValueKind::Bool | ValueKind::Number => {
            let kind = type_name(container);
            Err(type_error(format!("argument of type '{kind}' is not iterable")))
        }
        ValueKind::Undefined => Ok(false),
        _ => state.perform_test("in", &[item.clone(), container.clone()]),
    }
}

/// `value.name` of a name that is a method where `value` is a dict.
fn attribute(value: &Value, name: &str) -> Result<Value, Error> {
    if value.kind() == ValueKind::Map && DICT_METHODS.contains(&name) && !is_namespace(value) {
        return Ok(Value::from_object(Method { of: value.clone(), name: name.to_owned() }));
    }
    value.get_attr(name)
}

/// The engine's namespace is a map of its own type.
pub fn is_namespace(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.type_name().ends_with("Namespace"))
}

pub fn add_to(environment: &mut Environment) {
    environment.add_function(ADD, sum);
    environment.add_function(REMAINDER, remainder);
    environment.add_function(CONTAINS, contains);
    environment.add_filter(ATTRIBUTE, attribute);
    let comparisons: [(&str, &str, &[&str]); 4] = [
        ("<", "_kvasir_lt", &["<", "lt", "lessthan"]),
        ("<=", "_kvasir_le", &["<=", "le"]),
        (">", "_kvasir_gt", &[">", "gt", "greaterthan"]),
        (">=", "_kvasir_ge", &[">=", "ge"]),
    ];
    for (operator, function, tests) in comparisons {
        environment.add_function(function, move |a: &Value, b: &Value| holds(operator, a, b));
        for test in tests {
            environment.add_test(*test, move |a: &Value, b: &Value| holds(operator, a, b));
        }
    }
}
