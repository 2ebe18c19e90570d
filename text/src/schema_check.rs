//! What the compiler of JSON schemas would do wrong, or work at without a bound: refused here, or
//! narrowed to what it does right. A narrower schema's outputs are outputs of the schema.

use serde_json::{json, Map, Value};

use crate::error::{invalid, Result};
use crate::schema_pattern::schema_pattern;

/// The compiler makes an automaton with a state for each remainder, and no fuel stops it.
const MAX_MULTIPLE_OF: u64 = 10_000;

/// The compiler compares each with each other, and no fuel stops it: 100 take 0.1 s, 300 take 5 s.
const MAX_PATTERNS: usize = 100;

/// Whole numbers below this are exact for the compiler: 2^53.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// Keywords whose values are no schemas.
const PLAIN: [&str; 5] = ["const", "enum", "default", "examples", "x-guidance"];

/// Keywords whose values hold schemas by names.
const NAMED: [&str; 5] = ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas"];

fn check_multiple_of(members: &Map<String, Value>) -> Result<()> {
    let Some(Value::Number(factor)) = members.get("multipleOf") else { return Ok(()) };
    // 0.25 has the remainders of 25.
    let text = factor.to_string();
    let mantissa = text.split(['e', 'E']).next().unwrap_or_default();
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let size = factor.as_f64().unwrap_or(f64::INFINITY);
    let is_served = (1e-10..=MAX_MULTIPLE_OF as f64).contains(&size)
        && digits.parse().is_ok_and(|whole: u64| whole <= MAX_MULTIPLE_OF);
    if is_served {
        return Ok(());
    }
    Err(invalid(format!(
        "multipleOf {factor} is not served: it must be above 0, and at most {MAX_MULTIPLE_OF} with \
         the point left out"
    )))
}

/// Bounds beyond what is exact come nearer to zero, where that makes the schema narrower.
fn narrow_bounds(members: &mut Map<String, Value>) -> Result<()> {
    for (name, narrows_at) in [
        ("maximum", MAX_EXACT),
        ("exclusiveMaximum", MAX_EXACT),
        ("minimum", -MAX_EXACT),
        ("exclusiveMinimum", -MAX_EXACT),
    ] {
        let Some(bound) = members.get(name).and_then(Value::as_f64) else { continue };
        if bound.abs() < MAX_EXACT {
            continue;
        }
        if bound.signum() != narrows_at.signum() {
            return Err(invalid(format!("{name} {bound} is not served: it must be below 2^53")));
        }
        members.insert(name.to_owned(), json!((narrows_at - narrows_at.signum()) as i64));
    }
    Ok(())
}

/// Values of a keyword in a schema and in the parts of its allOf.
fn bounds(schema: &Value, names: &[&str], found: &mut Vec<f64>) {
    found.extend(names.iter().filter_map(|name| schema.get(name)?.as_f64()));
    if let Some(Value::Array(parts)) = schema.get("allOf") {
        parts.iter().for_each(|part| bounds(part, names, found));
    }
}

/// An exclusive whole bound, and another above it before the next whole number (on the side away
/// from zero): the compiler lets the first one in.
fn check_exclusive(schema: &Value) -> Result<()> {
    let sides: [(&str, [&str; 2], f64); 2] = [
        ("exclusiveMinimum", ["maximum", "exclusiveMaximum"], 1.0),
        ("exclusiveMaximum", ["minimum", "exclusiveMinimum"], -1.0),
    ];
    for (name, others, sign) in sides {
        let (mut exclusive, mut other) = (Vec::new(), Vec::new());
        bounds(schema, &[name], &mut exclusive);
        bounds(schema, &others, &mut other);
        let is_wrong = |bound: f64| {
            let bound = sign * bound;
            bound >= 0.0
                && bound.fract() == 0.0
                && other.iter().any(|other| (bound..bound + 1.0).contains(&(sign * other)))
        };
        if let Some(bound) = exclusive.into_iter().find(|bound| is_wrong(*bound)) {
            return Err(invalid(format!(
                "{name} {bound} with another bound less than 1 beside it is not served; use a bound \
                 with a fraction"
            )));
        }
    }
    Ok(())
}

/// A name may come twice in an object where names are free, and then counts once.
fn check_count(members: &Map<String, Value>) -> Result<()> {
    let least = members.get("minProperties").and_then(Value::as_u64).unwrap_or(0);
    let required = match members.get("required") {
        Some(Value::Array(names)) => {
            let mut names: Vec<&str> = names.iter().filter_map(Value::as_str).collect();
            names.sort_unstable();
            names.dedup();
            names.len() as u64
        }
        _ => 0,
    };
    let is_closed = members.get("additionalProperties") == Some(&Value::Bool(false))
        && !members.contains_key("patternProperties");
    if least <= 1.max(required) || is_closed {
        return Ok(());
    }
    Err(invalid(format!(
        "minProperties {least} is not served where names are free: a name could come twice; list \
         the properties as required"
    )))
}

/// In patternProperties, with the parts of its allOf.
fn count_patterns(schema: &Value) -> usize {
    let own = schema.get("patternProperties").and_then(Value::as_object).map_or(0, Map::len);
    let parts = schema.get("allOf").and_then(Value::as_array);
    own + parts.map_or(0, |parts| parts.iter().map(count_patterns).sum())
}

fn check_patterns(schema: &Value) -> Result<()> {
    let count = count_patterns(schema);
    if count <= MAX_PATTERNS {
        return Ok(());
    }
    Err(invalid(format!(
        "patternProperties has {count} patterns, the limit is {MAX_PATTERNS}; join those that have \
         the same schema"
    )))
}

fn rewrite_patterns(members: &mut Map<String, Value>) -> Result<()> {
    if let Some(Value::String(pattern)) = members.get_mut("pattern") {
        *pattern = schema_pattern(pattern)?;
    }
    if let Some(Value::Object(patterns)) = members.get_mut("patternProperties") {
        for (pattern, schema) in std::mem::take(patterns) {
            let rewritten = schema_pattern(&pattern)?;
            if patterns.insert(rewritten, schema).is_some() {
                return Err(invalid(format!(
                    "patternProperties has a second pattern that is as \"{pattern}\""
                )));
            }
        }
    }
    Ok(())
}

/// Checks and narrows `schema` with all schemas in it. Values of JSON are not deep.
pub fn narrow(schema: &mut Value) -> Result<()> {
    check_exclusive(schema)?;
    check_patterns(schema)?;
    let Value::Object(members) = schema else { return Ok(()) };
    check_multiple_of(members)?;
    check_count(members)?;
    narrow_bounds(members)?;
    for (name, value) in members.iter_mut().filter(|(name, _)| !PLAIN.contains(&name.as_str())) {
        match value {
            Value::Object(named) if NAMED.contains(&name.as_str()) => {
                named.values_mut().try_for_each(narrow)?
            }
            Value::Array(schemas) => schemas.iter_mut().try_for_each(narrow)?,
            Value::Object(_) => narrow(value)?,
            _ => {}
        }
    }
    rewrite_patterns(members)
}
