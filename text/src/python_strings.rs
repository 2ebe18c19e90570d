//! The methods of Python's `str`.

use minijinja::value::Tuple;
use minijinja::{Error, ErrorKind, State, Value};
use regex::Regex;
use std::sync::OnceLock;

use crate::python_arguments::{charge, type_error, type_name, value_error, Arguments};
use crate::python_format::MAX_WIDTH;

pub fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}

/// Ends of lines for Python.
fn is_line_end(character: char) -> bool {
    matches!(character, '\n'..='\r' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

pub fn split_lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(is_line_end) {
        let size = if rest[at..].starts_with("\r\n") {
            2
        } else {
            rest[at..].chars().next().map_or(1, char::len_utf8)
        };
        lines.push(if keep_ends { &rest[..at + size] } else { &rest[..at] });
        rest = &rest[at + size..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

/// At most `limit` cuts, from the left.
fn split<'a>(text: &'a str, separator: Option<&str>, limit: usize) -> Vec<&'a str> {
    let mut found = Vec::new();
    let mut rest = text;
    match separator {
        Some(separator) => {
            while found.len() < limit {
                let Some((part, after)) = rest.split_once(separator) else { break };
                found.push(part);
                rest = after;
            }
            found.push(rest);
        }
        None => {
            rest = rest.trim_start_matches(is_space);
            while found.len() < limit {
                let Some(at) = rest.find(is_space) else { break };
                found.push(&rest[..at]);
                rest = rest[at..].trim_start_matches(is_space);
            }
            if !rest.is_empty() {
                found.push(rest);
            }
        }
    }
    found
}

/// At most `limit` cuts, from the right.
fn rsplit<'a>(text: &'a str, separator: Option<&str>, limit: usize) -> Vec<&'a str> {
    let mut found = Vec::new();
    let mut rest = text;
    match separator {
        Some(separator) => {
            while found.len() < limit {
                let Some((before, part)) = rest.rsplit_once(separator) else { break };
                found.push(part);
                rest = before;
            }
            found.push(rest);
        }
        None => {
            rest = rest.trim_end_matches(is_space);
            while found.len() < limit {
                let Some(at) = rest.rfind(is_space) else { break };
                found.push(rest[at..].trim_start_matches(is_space));
                rest = rest[..at].trim_end_matches(is_space);
            }
            if !rest.is_empty() {
                found.push(rest);
            }
        }
    }
    found.reverse();
    found
}

fn strings(parts: &[&str]) -> Value {
    parts.iter().map(|part| Value::from(*part)).collect()
}

fn triple(parts: [&str; 3]) -> Value {
    Value::from(Tuple::from(parts.map(Value::from)))
}

fn titled(character: char, out: &mut String) {
    match character {
        '\u{1c4}'..='\u{1c6}' => out.push('\u{1c5}'),
        '\u{1c7}'..='\u{1c9}' => out.push('\u{1c8}'),
        '\u{1ca}'..='\u{1cc}' => out.push('\u{1cb}'),
        '\u{1f1}'..='\u{1f3}' => out.push('\u{1f2}'),
        _ => {
            let mut upper = character.to_uppercase();
            out.extend(upper.next());
            out.extend(upper.flat_map(char::to_lowercase));
        }
    }
}

fn capitalized(text: &str) -> String {
    let mut out = String::new();
    let mut characters = text.chars();
    if let Some(first) = characters.next() {
        titled(first, &mut out);
        // The whole in lower case, for a sigma at its end.
        let lower = text.to_lowercase();
        let skip = first.to_lowercase().count();
        out.extend(lower.chars().skip(skip));
    }
    out
}

fn title(text: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for character in text.chars() {
        let is_cased = character.is_lowercase()
            || character.is_uppercase()
            || matches!(character, '\u{1c5}' | '\u{1c8}' | '\u{1cb}' | '\u{1f2}');
        if inside {
            out.extend(character.to_lowercase());
        } else {
            titled(character, &mut out);
        }
        inside = is_cased;
    }
    out
}

fn is_title(text: &str) -> bool {
    let (mut inside, mut found) = (false, false);
    for character in text.chars() {
        match (character.is_uppercase(), character.is_lowercase()) {
            (true, _) if inside => return false,
            (_, true) if !inside => return false,
            (false, false) => inside = false,
            _ => (inside, found) = (true, true),
        }
    }
    found
}

fn folded(text: &str) -> String {
    let mut out = String::new();
    for character in text.chars() {
        if character.to_uppercase().count() > 1 {
            out.extend(character.to_uppercase().flat_map(char::to_lowercase));
        } else if character == '\u{3c2}' {
            out.push('\u{3c3}');
        } else {
            out.extend(character.to_lowercase());
        }
    }
    out
}

fn swapped(text: &str) -> String {
    let mut out = String::new();
    for character in text.chars() {
        if character.is_uppercase() {
            out.extend(character.to_lowercase());
        } else {
            out.extend(character.to_uppercase());
        }
    }
    out
}

/// Whether `text` has characters, all of a class of the regex syntax.
fn all_of(class: &'static OnceLock<Regex>, pattern: &str, text: &str) -> bool {
    class.get_or_init(|| Regex::new(pattern).expect("a fixed pattern")).is_match(text)
}

fn is_decimal(text: &str) -> bool {
    static CLASS: OnceLock<Regex> = OnceLock::new();
    all_of(&CLASS, r"^\p{Nd}+$", text)
}

fn is_digit(text: &str) -> bool {
    static CLASS: OnceLock<Regex> = OnceLock::new();
    let digits = r"^[\p{Nd}\x{b2}\x{b3}\x{b9}\x{2070}\x{2074}-\x{2079}\x{2080}-\x{2089}\x{2460}-\x{2468}\x{2474}-\x{247c}\x{2488}-\x{2490}\x{24ea}\x{24f5}-\x{24fd}\x{24ff}\x{2776}-\x{277e}\x{2780}-\x{2788}\x{278a}-\x{2792}]+$";
    all_of(&CLASS, digits, text)
}

fn is_letters(text: &str) -> bool {
    static CLASS: OnceLock<Regex> = OnceLock::new();
    all_of(&CLASS, r"^\p{L}+$", text)
}

fn is_identifier(text: &str) -> bool {
    static CLASS: OnceLock<Regex> = OnceLock::new();
    all_of(&CLASS, r"^[\p{L}\p{Nl}_][\p{L}\p{Nl}\p{Mn}\p{Mc}\p{Nd}\p{Pc}_]*$", text)
}

/// Whether `repr()` shows the character as it is.
pub fn is_printable(character: char) -> bool {
    static CLASS: OnceLock<Regex> = OnceLock::new();
    if character.is_ascii() {
        return (' '..='~').contains(&character);
    }
    !all_of(&CLASS, r"^[\p{C}\p{Z}]$", character.encode_utf8(&mut [0; 4]))
}

/// `text[start:end]` in characters, and how many stand before it; none past its end.
fn part(text: &str, start: Option<i64>, end: Option<i64>) -> Option<(usize, &str)> {
    let count = text.chars().count() as i64;
    let from_end = |place: i64| if place < 0 { (place + count).max(0) } else { place };
    let start = from_end(start.unwrap_or(0));
    let end = from_end(end.unwrap_or(count)).min(count);
    if start > count || start > end {
        return None;
    }
    let byte = |place: i64| {
        text.char_indices().nth(place as usize).map_or(text.len(), |(at, _)| at)
    };
    Some((start as usize, &text[byte(start)..byte(end)]))
}

fn starts_or_ends(text: &str, method: &str, args: &mut Arguments) -> Result<Value, Error> {
    let sought = args.needed("prefix")?;
    let (start, end) = (args.number("")?, args.number("")?);
    let Some((_, text)) = part(text, start, end) else { return Ok(Value::from(false)) };
    let holds = |affix: &str| {
        if method == "startswith" { text.starts_with(affix) } else { text.ends_with(affix) }
    };
    if let Some(affix) = sought.as_str() {
        return Ok(Value::from(holds(affix)));
    }
    if !sought.is_tuple() {
        let kind = type_name(&sought);
        return Err(type_error(format!(
            "{method} first arg must be str or a tuple of str, not {kind}"
        )));
    }
    for affix in sought.try_iter()? {
        let affix_text = affix.as_str().ok_or_else(|| {
            type_error(format!("tuple for {method} must only contain str, not {}", type_name(&affix)))
        })?;
        if holds(affix_text) {
            return Ok(Value::from(true));
        }
    }
    Ok(Value::from(false))
}

/// `center`, `ljust` and `rjust`.
fn justified(state: &State, text: &str, method: &str, args: &mut Arguments) -> Result<Value, Error> {
    let width = args.number("width")?.ok_or_else(|| type_error("a width is missing"))?;
    let fill = args.text("fillchar")?.unwrap_or_else(|| " ".to_owned());
    if fill.chars().count() != 1 {
        return Err(type_error("The fill character must be exactly one character long"));
    }
    let room = usize::try_from(width).unwrap_or(0).saturating_sub(text.chars().count());
    charge(state, room as u64)?;
    let left = match method {
        "ljust" => 0,
        "rjust" => room,
        _ => room / 2 + (room & width as usize & 1),
    };
    Ok(Value::from(format!("{}{text}{}", fill.repeat(left), fill.repeat(room - left))))
}

fn replaced(state: &State, text: &str, args: &mut Arguments) -> Result<Value, Error> {
    let (old, new) = (args.needed_text("old")?, args.needed_text("new")?);
    let count = args.number("")?.unwrap_or(-1);
    let most = usize::try_from(count).unwrap_or(usize::MAX);
    let places = (text.len() / old.len().max(1) + 1).min(most) as u64;
    charge(state, text.len() as u64 + places * new.len() as u64)?;
    Ok(Value::from(text.replacen(&old, &new, most)))
}

fn joined(state: &State, separator: &str, args: &mut Arguments) -> Result<Value, Error> {
    let values = args.needed("iterable")?;
    let mut out = String::new();
    for (i, value) in values.try_iter()?.checked().enumerate() {
        let value = value?;
        let text = value.as_str().ok_or_else(|| {
            let kind = type_name(&value);
            type_error(format!("sequence item {i}: expected str instance, {kind} found"))
        })?;
        charge(state, (separator.len() + text.len()) as u64)?;
        if i > 0 {
            out.push_str(separator);
        }
        out.push_str(text);
    }
    Ok(Value::from(out))
}

/// Numbers of a format are widths or indices; the engine allocates whatever width it is given.
fn bounded_widths(state: &State, format: &str) -> Result<(), Error> {
    let numbers = format.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    for digits in numbers {
        let number = digits.parse().unwrap_or(usize::MAX);
        if number > MAX_WIDTH {
            return Err(value_error("a width of the format is too large"));
        }
        charge(state, number as u64)?;
    }
    Ok(())
}

pub fn call(state: &mut State, text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    if method == "format" {
        bounded_widths(state, text)?;
        let value = Value::from(text);
        return minijinja_contrib::pycompat::unknown_method_callback(state, &value, method, args);
    }
    let mut args = Arguments::new(args)?;
    let result = match method {
        "upper" => Value::from(text.to_uppercase()),
        "lower" => Value::from(text.to_lowercase()),
        "title" => Value::from(title(text)),
        "capitalize" => Value::from(capitalized(text)),
        "casefold" => Value::from(folded(text)),
        "swapcase" => Value::from(swapped(text)),
        "islower" => Value::from(
            text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase),
        ),
        "isupper" => Value::from(
            text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase),
        ),
        "istitle" => Value::from(is_title(text)),
        "isspace" => Value::from(!text.is_empty() && text.chars().all(is_space)),
        "isdecimal" => Value::from(is_decimal(text)),
        "isdigit" => Value::from(is_digit(text)),
        "isnumeric" => Value::from(!text.is_empty() && text.chars().all(char::is_numeric)),
        "isalpha" => Value::from(is_letters(text)),
        "isalnum" => Value::from(
            !text.is_empty()
                && text
                    .chars()
                    .all(|c| c.is_numeric() || is_letters(c.encode_utf8(&mut [0; 4]))),
        ),
        "isascii" => Value::from(text.is_ascii()),
        "isidentifier" => Value::from(is_identifier(text)),
        "isprintable" => Value::from(text.chars().all(is_printable)),
        "strip" | "lstrip" | "rstrip" => {
            let set = args.text("chars")?;
            let cut = |c: char| set.as_ref().map_or_else(|| is_space(c), |set| set.contains(c));
            Value::from(match method {
                "strip" => text.trim_matches(cut),
                "lstrip" => text.trim_start_matches(cut),
                _ => text.trim_end_matches(cut),
            })
        }
        "split" | "rsplit" => {
            let (separator, most) = (args.text("sep")?, args.number("maxsplit")?.unwrap_or(-1));
            if separator.as_deref() == Some("") {
                return Err(value_error("empty separator"));
            }
            let limit = usize::try_from(most).unwrap_or(usize::MAX);
            let cut = if method == "split" { split } else { rsplit };
            strings(&cut(text, separator.as_deref(), limit))
        }
        "splitlines" => strings(&split_lines(text, args.flag("keepends")?)),
        "partition" | "rpartition" => {
            let separator = args.needed_text("sep")?;
            if separator.is_empty() {
                return Err(value_error("empty separator"));
            }
            if method == "partition" {
                match text.split_once(separator.as_str()) {
                    Some((before, after)) => triple([before, &separator, after]),
                    None => triple([text, "", ""]),
                }
            } else {
                match text.rsplit_once(separator.as_str()) {
                    Some((before, after)) => triple([before, &separator, after]),
                    None => triple(["", "", text]),
                }
            }
        }
        "removeprefix" => {
            let prefix = args.needed_text("prefix")?;
            Value::from(text.strip_prefix(prefix.as_str()).unwrap_or(text))
        }
        "removesuffix" => {
            let suffix = args.needed_text("suffix")?;
            Value::from(text.strip_suffix(suffix.as_str()).unwrap_or(text))
        }
        "find" | "rfind" | "index" | "rindex" => {
            let sought = args.needed_text("sub")?;
            let (start, end) = (args.number("")?, args.number("")?);
            let found = part(text, start, end).and_then(|(before, text)| {
                let at = if method.starts_with('r') { text.rfind(&sought) } else { text.find(&sought) };
                at.map(|at| before + text[..at].chars().count())
            });
            match found {
                Some(place) => Value::from(place),
                None if method.ends_with("find") => Value::from(-1),
                None => return Err(value_error("substring not found")),
            }
        }
        "count" => {
            let sought = args.needed_text("sub")?;
            let (start, end) = (args.number("")?, args.number("")?);
            Value::from(part(text, start, end).map_or(0, |(_, text)| text.matches(&sought).count()))
        }
        "startswith" | "endswith" => starts_or_ends(text, method, &mut args)?,
        "replace" => replaced(state, text, &mut args)?,
        "join" => joined(state, text, &mut args)?,
        "center" | "ljust" | "rjust" => justified(state, text, method, &mut args)?,
        "zfill" => {
            let width = args.number("width")?.ok_or_else(|| type_error("a width is missing"))?;
            let room = usize::try_from(width).unwrap_or(0).saturating_sub(text.chars().count());
            charge(state, room as u64)?;
            let sign = usize::from(text.starts_with(['+', '-']));
            Value::from(format!("{}{}{}", &text[..sign], "0".repeat(room), &text[sign..]))
        }
        "expandtabs" => {
            let size = usize::try_from(args.number("tabsize")?.unwrap_or(8)).unwrap_or(0);
            charge(state, text.len() as u64 * (size as u64).min(1 << 40))?;
            let (mut out, mut column) = (String::new(), 0);
            for character in text.chars() {
                if character == '\t' {
                    let blanks = if size > 0 { size - column % size } else { 0 };
                    out.push_str(&" ".repeat(blanks));
                    column += blanks;
                } else {
                    out.push(character);
                    column = if matches!(character, '\n' | '\r') { 0 } else { column + 1 };
                }
            }
            Value::from(out)
        }
        _ => return Err(Error::from(ErrorKind::UnknownMethod)),
    };
    args.finish()?;
    Ok(result)
}
