//! Filters and tests of Jinja2 that the engine does not have, or has in another way.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, State, Value};

use crate::python_arguments::{charge, type_error, type_name, value_error, values, Arguments, Given};
use crate::python_objects::{Cycler, DictMaker, DictView, Generator, Group, Joiner};
use crate::python_operators::{compare, escaped, is_namespace};
use crate::python_strings::{is_space, split_lines};
use crate::python_text::{python_repr_of, python_str};
use crate::template_source::EACH_FILTER;

pub fn text_of(value: &Value) -> Result<String, Error> {
    let mut text = String::new();
    python_str(value, &mut text)?;
    Ok(text)
}

fn is_generator(value: &Value) -> bool {
    value.downcast_object_ref::<Generator>().is_some()
}

/// What Python refuses to iterate. A loop knows its length, so a generator becomes a list.
fn each(value: Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::None | ValueKind::Bool | ValueKind::Number => {
            Err(type_error(format!("'{}' object is not iterable", type_name(&value))))
        }
        _ if is_generator(&value) => Ok(Value::from(value.try_iter()?.collect::<Vec<_>>())),
        _ => Ok(value),
    }
}

fn items_of(value: &Value) -> Result<Vec<Value>, Error> {
    each(value.clone())?.try_iter()?.checked().collect()
}

fn length(value: &Value) -> Result<Value, Error> {
    match value.len() {
        Some(len) if !is_generator(value) => Ok(Value::from(len)),
        _ if value.is_undefined() => Ok(Value::from(0)),
        None if value.kind() == ValueKind::Iterable && !is_generator(value) => {
            Ok(Value::from(value.try_iter()?.count()))
        }
        _ => Err(type_error(format!("object of type '{}' has no len()", type_name(value)))),
    }
}

/// An attribute as filters name it: "a.b.0", or an index. With a default, each missing part is it.
fn attribute_of(item: &Value, name: &Value, default: Option<&Value>) -> Result<Value, Error> {
    let Some(path) = name.as_str() else {
        let found = item.get_item(name)?;
        return Ok(default.filter(|_| found.is_undefined()).cloned().unwrap_or(found));
    };
    let mut found = item.clone();
    for part in path.split('.') {
        let is_index = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let key = if is_index {
            Value::from(part.parse::<i64>().unwrap_or(0))
        } else {
            Value::from(part)
        };
        found = found.get_item(&key)?;
        if let Some(default) = default.filter(|_| found.is_undefined()) {
            found = default.clone();
        }
    }
    Ok(found)
}

fn map(state: &mut State, value: Value, args: Given) -> Result<Value, Error> {
    let args = values(args);
    let (placed, named): (&[Value], Kwargs) = minijinja::value::from_args(&args)?;
    let items = items_of(&if_true(value)?)?;
    let mut mapped = Vec::with_capacity(items.len());
    if placed.is_empty() {
        let name: Value = named.get("attribute")?;
        let default: Option<Value> = named.get("default")?;
        named.assert_all_used()?;
        for item in items {
            state.consume_fuel(1)?;
            mapped.push(attribute_of(&item, &name, default.as_ref())?);
        }
        return Ok(Generator::value(mapped));
    }
    let name = placed[0].as_str().ok_or_else(|| type_error("a filter is named by its text"))?;
    for item in items {
        state.consume_fuel(1)?;
        let mut call = vec![item];
        call.extend(args.iter().skip(1).cloned());
        mapped.push(state.apply_filter(name, &call)?);
    }
    Ok(Generator::value(mapped))
}

/// What `map`, `select` and their like go through: nothing of what is not true.
fn if_true(value: Value) -> Result<Value, Error> {
    if value.is_true() { each(value) } else { Ok(Value::from(Vec::<Value>::new())) }
}

/// A filter of the engine whose list is a generator in Jinja2.
fn generating(
    filter: &'static str,
    lazily: fn(Value) -> Result<Value, Error>,
) -> impl Fn(&mut State, Value, Given) -> Result<Value, Error> + Send + Sync + 'static {
    move |state, value, args| {
        let mut call = vec![lazily(value)?];
        call.extend(values(args));
        let made = state.apply_filter(filter, &call)?;
        Ok(Generator::value(items_of(&made)?))
    }
}

fn reverse(value: &Value) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        return Ok(Value::from(text.chars().rev().collect::<String>()));
    }
    let mut items = items_of(value)?;
    items.reverse();
    Ok(if is_generator(value) { Value::from(items) } else { Generator::value(items) })
}

fn last(value: &Value) -> Result<Value, Error> {
    if is_generator(value) {
        return Err(type_error("'generator' object is not reversible"));
    }
    if let Some(text) = value.as_str() {
        return Ok(text.chars().next_back().map_or(Value::UNDEFINED, |c| Value::from(c.to_string())));
    }
    Ok(items_of(value)?.pop().unwrap_or_default())
}

fn list(value: Value) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        return Ok(text.chars().map(|c| Value::from(c.to_string())).collect());
    }
    Ok(Value::from(items_of(&value)?))
}

fn sort(state: &mut State, value: Value, args: Given) -> Result<Value, Error> {
    let args = values(args);
    let (placed, named): (&[Value], Kwargs) = minijinja::value::from_args(&args)?;
    let attribute: Option<Value> = named.get("attribute")?;
    let value = Value::from(items_of(&value)?);
    if attribute.is_none() {
        // Python finds out while it sorts.
        let mut items = value.try_iter()?;
        if let Some(first) = items.next() {
            for item in items {
                compare("<", &item, &first)?;
            }
        }
    }
    let mut call = vec![value];
    for (place, given) in placed.iter().enumerate() {
        let name = ["reverse", "case_sensitive", "attribute"].get(place);
        let name = name.ok_or_else(|| Error::from(minijinja::ErrorKind::TooManyArguments))?;
        call.push(Kwargs::from_iter([(*name, given.clone())]).into());
    }
    if placed.is_empty() {
        call.extend(args.iter().cloned());
    }
    state.apply_filter(SORT, &call)
}

const SORT: &str = "_kvasir_sort";

fn dictsort(state: &mut State, value: Value, args: Given) -> Result<Value, Error> {
    let args = values(args);
    let mut args = Arguments::new(&args)?;
    let case_sensitive = args.flag("case_sensitive")?;
    let by = args.text("by")?.unwrap_or_else(|| "key".to_owned());
    let reverse = args.flag("reverse")?;
    args.finish()?;
    let named = Kwargs::from_iter([
        ("case_sensitive", Value::from(case_sensitive)),
        ("by", Value::from(by)),
        ("reverse", Value::from(reverse)),
    ]);
    state.apply_filter("_kvasir_dictsort", &[value, named.into()])
}

fn groupby(state: &mut State, value: Value, args: Given) -> Result<Value, Error> {
    let mut call = vec![Value::from(items_of(&value)?)];
    call.extend(values(args));
    let groups = state.apply_filter("_kvasir_groupby", &call)?;
    let group = |group: Value| -> Result<Value, Error> {
        let list = group.get_attr("list")?;
        Ok(Value::from_object(Group { grouper: group.get_attr("grouper")?, list }))
    };
    groups.try_iter()?.map(group).collect::<Result<Vec<_>, _>>().map(Value::from)
}

fn default(value: Value, args: Given) -> Result<Value, Error> {
    let args = values(args);
    let mut args = Arguments::new(&args)?;
    let (otherwise, boolean) = (args.next_even_none("default_value")?, args.flag("boolean")?);
    args.finish()?;
    let is_missing = value.is_undefined() || (boolean && !value.is_true());
    Ok(if is_missing { otherwise.unwrap_or_else(|| Value::from("")) } else { value })
}

fn int(value: &Value, args: Given) -> Result<Value, Error> {
    let args = values(args);
    let mut args = Arguments::new(&args)?;
    let default = args.next_even_none("default")?.unwrap_or_else(|| Value::from(0));
    let base = args.number("base")?.unwrap_or(10);
    args.finish()?;
    let whole = |number: f64| number.is_finite().then_some(number.trunc() as i128);
    let number = match value.kind() {
        ValueKind::Bool => Some(i128::from(value.is_true())),
        ValueKind::Number if value.is_integer() => return Ok(value.clone()),
        ValueKind::Number => f64::try_from(value.clone()).ok().and_then(whole),
        ValueKind::String => {
            let text = value.as_str().unwrap_or("").trim_matches(is_space);
            parse_int(text, base).or_else(|| parse_float(text).and_then(whole))
        }
        _ => None,
    };
    Ok(number.map_or(default, |number| {
        i64::try_from(number).map_or_else(|_| Value::from(number), Value::from)
    }))
}

fn parse_int(text: &str, base: i64) -> Option<i128> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let lower = digits.to_lowercase();
    let prefix = match base {
        16 => "0x",
        8 => "0o",
        2 => "0b",
        _ => "",
    };
    let plain = lower.strip_prefix(prefix).unwrap_or(&lower);
    let is_spaced = !plain.starts_with('_') && !plain.ends_with('_') && !plain.contains("__");
    let base = u32::try_from(base).ok().filter(|base| (2..=36).contains(base) && is_spaced)?;
    let number = i128::from_str_radix(&plain.replace('_', ""), base).ok()?;
    let starts_with_sign = plain.starts_with(['+', '-']);
    (!starts_with_sign).then_some(if text.starts_with('-') { -number } else { number })
}

fn parse_float(text: &str) -> Option<f64> {
    let text = text.trim_matches(is_space);
    let is_spaced = !text.starts_with('_') && !text.ends_with('_') && !text.contains("__");
    is_spaced.then(|| text.replace('_', "").parse().ok()).flatten()
}

fn float(value: &Value, args: Given) -> Result<Value, Error> {
    let args = values(args);
    let mut args = Arguments::new(&args)?;
    let default = args.next_even_none("default")?.unwrap_or_else(|| Value::from(0.0));
    args.finish()?;
    let number = match value.kind() {
        ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        ValueKind::Number => f64::try_from(value.clone()).ok(),
        ValueKind::String => parse_float(value.as_str().unwrap_or("")),
        _ => None,
    };
    Ok(number.map_or(default, Value::from))
}

fn indent(state: &State, value: &Value, args: Given) -> Result<Value, Error> {
    let args = values(args);
    let mut args = Arguments::new(&args)?;
    let (width, first, blank) = (args.next("width")?, args.flag("first")?, args.flag("blank")?);
    args.finish()?;
    let indention = match width {
        Some(width) if width.as_str().is_some() => text_of(&width)?,
        Some(width) => " ".repeat(usize::try_from(width).unwrap_or(0).min(1000)),
        None => "    ".to_owned(),
    };
    let text = text_of(value)? + "\n";
    let mut out = String::new();
    for (i, line) in split_lines(&text, false).into_iter().enumerate() {
        charge(state, (indention.len() + line.len()) as u64)?;
        if i > 0 {
            out.push('\n');
        }
        if if i == 0 { first } else { blank || !line.is_empty() } {
            out.push_str(&indention);
        }
        out.push_str(line);
    }
    Ok(Value::from(out))
}

fn escape(value: &Value) -> Result<Value, Error> {
    if value.is_safe() {
        return Ok(value.clone());
    }
    Ok(Value::from_safe_string(escaped(&text_of(value)?)))
}

fn center(state: &mut State, value: &Value, width: Option<i64>) -> Result<Value, Error> {
    let text = Value::from(text_of(value)?);
    text.call_method(state, "center", &[Value::from(width.unwrap_or(80))])
}

fn wordcount(value: &Value) -> Result<Value, Error> {
    let text = text_of(value)?;
    let words = text.split(|c: char| !(c.is_alphanumeric() || c == '_'));
    Ok(Value::from(words.filter(|word| !word.is_empty()).count()))
}

fn truncate(value: &Value, args: Given) -> Result<Value, Error> {
    let args = values(args);
    let mut args = Arguments::new(&args)?;
    let length = args.number("length")?.unwrap_or(255);
    let killwords = args.flag("killwords")?;
    let end = args.text("end")?.unwrap_or_else(|| "...".to_owned());
    let leeway = args.number("leeway")?.unwrap_or(5);
    args.finish()?;
    let text = text_of(value)?;
    let end_length = end.chars().count() as i64;
    if length < end_length || leeway < 0 {
        return Err(value_error("truncate: the length or the leeway is too small"));
    }
    if text.chars().count() as i64 <= length.saturating_add(leeway) {
        return Ok(Value::from(text));
    }
    let cut: String = text.chars().take((length - end_length) as usize).collect();
    let kept = if killwords { &cut } else { cut.rsplit_once(' ').map_or(&cut[..], |(kept, _)| kept) };
    Ok(Value::from(format!("{kept}{end}")))
}

/// `urllib.parse.quote`; what a query has no `/`, and `+` for a blank.
fn quoted(text: &str, is_query: bool) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => {
                out.push(byte as char)
            }
            b'/' if !is_query => out.push('/'),
            b' ' if is_query => out.push('+'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn urlencode(value: &Value) -> Result<Value, Error> {
    let pairs = match value.kind() {
        ValueKind::Map => value
            .try_iter()?
            .map(|key| Ok((key.clone(), value.get_item(&key)?)))
            .collect::<Result<Vec<_>, Error>>()?,
        ValueKind::Seq | ValueKind::Iterable => value
            .try_iter()?
            .map(|pair| {
                Ok((pair.get_item(&Value::from(0))?, pair.get_item(&Value::from(1))?))
            })
            .collect::<Result<Vec<_>, Error>>()?,
        _ => return Ok(Value::from(quoted(&text_of(value)?, false))),
    };
    let mut parts = Vec::new();
    for (key, value) in pairs {
        parts.push(format!("{}={}", quoted(&text_of(&key)?, true), quoted(&text_of(&value)?, true)));
    }
    Ok(Value::from(parts.join("&")))
}

fn pprint(value: &Value) -> Result<String, Error> {
    let mut text = String::new();
    python_repr_of(value, &mut text)?;
    Ok(text)
}

/// Of objects Python has attributes; the keys of a dict are none.
fn attribute(value: &Value, name: &Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::Map if !is_namespace(value) => Ok(Value::UNDEFINED),
        _ => value.get_item(name),
    }
}

fn add_tests(environment: &mut Environment) {
    for name in ["startingwith", "endingwith", "containing", "safe"] {
        environment.remove_test(name);
    }
    environment.add_test("sequence", |value: &Value| {
        matches!(
            value.kind(),
            ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Undefined
        ) || (value.kind() == ValueKind::Iterable
            && value.len().is_some()
            && value.downcast_object_ref::<DictView>().is_none())
    });
    environment.add_test("iterable", |value: &Value| {
        matches!(
            value.kind(),
            ValueKind::String
                | ValueKind::Seq
                | ValueKind::Map
                | ValueKind::Iterable
                | ValueKind::Undefined
        )
    });
    environment.add_test("mapping", |value: &Value| {
        value.kind() == ValueKind::Map && !is_namespace(value)
    });
    environment.add_test("callable", |value: &Value| {
        matches!(value.kind(), ValueKind::Plain | ValueKind::Undefined)
    });
}

pub fn add_to(environment: &mut Environment) {
    for name in ["split", "lines", "bool", "zip", "chain"] {
        environment.remove_filter(name);
    }
    environment.remove_global("debug");
    environment.add_filter(EACH_FILTER, each);
    environment.add_filter("length", length);
    environment.add_filter("count", length);
    environment.add_filter("map", map);
    environment.add_filter("_kvasir_select", minijinja::filters::select);
    environment.add_filter("_kvasir_reject", minijinja::filters::reject);
    environment.add_filter("_kvasir_selectattr", minijinja::filters::selectattr);
    environment.add_filter("_kvasir_rejectattr", minijinja::filters::rejectattr);
    environment.add_filter("_kvasir_unique", minijinja::filters::unique);
    environment.add_filter("_kvasir_batch", minijinja::filters::batch);
    environment.add_filter("_kvasir_slice", minijinja::filters::slice);
    environment.add_filter("_kvasir_items", |value: &Value| minijinja::filters::items(value));
    environment.add_filter("select", generating("_kvasir_select", if_true));
    environment.add_filter("reject", generating("_kvasir_reject", if_true));
    environment.add_filter("selectattr", generating("_kvasir_selectattr", if_true));
    environment.add_filter("rejectattr", generating("_kvasir_rejectattr", if_true));
    environment.add_filter("unique", generating("_kvasir_unique", each));
    environment.add_filter("batch", generating("_kvasir_batch", each));
    environment.add_filter("slice", generating("_kvasir_slice", each));
    environment.add_filter("items", generating("_kvasir_items", each));
    environment.add_filter("reverse", reverse);
    environment.add_filter("last", last);
    environment.add_filter("list", list);
    environment.add_filter(SORT, minijinja::filters::sort);
    environment.add_filter("sort", sort);
    environment.add_filter("_kvasir_dictsort", minijinja::filters::dictsort);
    environment.add_filter("dictsort", dictsort);
    environment.add_filter("_kvasir_groupby", minijinja::filters::groupby);
    environment.add_filter("groupby", groupby);
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    environment.add_filter("indent", indent);
    environment.add_filter("escape", escape);
    environment.add_filter("e", escape);
    environment.add_filter("forceescape", |value: &Value| {
        Ok::<_, Error>(Value::from_safe_string(escaped(&text_of(value)?)))
    });
    environment.add_filter("center", center);
    environment.add_filter("wordcount", wordcount);
    environment.add_filter("truncate", truncate);
    environment.add_filter("urlencode", urlencode);
    environment.add_filter("pprint", pprint);
    environment.add_filter("attr", attribute);
    environment.add_function("cycler", Cycler::make);
    environment.add_function("joiner", Joiner::make);
    environment.add_global("dict", Value::from_object(DictMaker));
    add_tests(environment);
}
