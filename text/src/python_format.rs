//! `format % values`, as Python has it.

use minijinja::value::ValueKind;
use minijinja::{Error, State, Value};

use crate::python_arguments::{charge, type_error, type_name, value_error};
use crate::python_text::{python_repr_of, python_str};

/// Widest field and longest fraction.
pub(crate) const MAX_WIDTH: usize = 100_000;

#[derive(Default)]
struct Spec {
    left: bool,
    sign: bool,
    blank: bool,
    zero: bool,
    alternate: bool,
    width: usize,
    precision: Option<usize>,
}

impl Spec {
    /// `sign` and `prefix` stay before the zeros.
    fn padded(&self, sign: &str, body: &str, is_number: bool) -> String {
        let room = self.width.saturating_sub(sign.chars().count() + body.chars().count());
        if self.left {
            format!("{sign}{body}{}", " ".repeat(room))
        } else if self.zero && is_number {
            format!("{sign}{}{body}", "0".repeat(room))
        } else {
            format!("{}{sign}{body}", " ".repeat(room))
        }
    }

    fn sign_of(&self, is_negative: bool) -> &'static str {
        match (is_negative, self.sign, self.blank) {
            (true, _, _) => "-",
            (_, true, _) => "+",
            (_, _, true) => " ",
            _ => "",
        }
    }

    fn integer(&self, value: &Value, kind: char) -> Result<String, Error> {
        let number = match value.kind() {
            ValueKind::Bool => i128::from(value.is_true()),
            ValueKind::Number if value.is_integer() => i128::try_from(value.clone())?,
            ValueKind::Number if matches!(kind, 'd' | 'i' | 'u') => {
                f64::try_from(value.clone())?.trunc() as i128
            }
            _ => {
                let (kind_name, found) = if matches!(kind, 'd' | 'i' | 'u') {
                    ("a real number", type_name(value))
                } else {
                    ("an integer", type_name(value))
                };
                return Err(type_error(format!("%{kind} format: {kind_name} is required, not {found}")));
            }
        };
        let size = number.unsigned_abs();
        let digits = match kind {
            'x' => format!("{size:x}"),
            'X' => format!("{size:X}"),
            'o' => format!("{size:o}"),
            _ => size.to_string(),
        };
        let zeros = self.precision.unwrap_or(0).saturating_sub(digits.len());
        let prefix = match (self.alternate, kind) {
            (true, 'x') => "0x",
            (true, 'X') => "0X",
            (true, 'o') => "0o",
            _ => "",
        };
        let sign = format!("{}{prefix}", self.sign_of(number < 0));
        Ok(self.padded(&sign, &("0".repeat(zeros) + &digits), true))
    }

    fn float(&self, value: &Value, kind: char) -> Result<String, Error> {
        let number = match value.kind() {
            ValueKind::Bool => f64::from(u8::from(value.is_true())),
            ValueKind::Number => f64::try_from(value.clone())?,
            _ => {
                return Err(type_error(format!("must be real number, not {}", type_name(value))));
            }
        };
        let sign = self.sign_of(number.is_sign_negative() && !number.is_nan());
        let precision = self.precision.unwrap_or(6);
        let size = number.abs();
        let mut body = if size.is_nan() {
            "nan".to_owned()
        } else if size.is_infinite() {
            "inf".to_owned()
        } else {
            match kind.to_ascii_lowercase() {
                'f' => format!("{size:.precision$}"),
                'e' => scientific(size, precision),
                _ => general(size, precision.max(1), self.alternate),
            }
        };
        if kind.is_ascii_uppercase() {
            body = body.to_uppercase();
        }
        Ok(self.padded(sign, &body, number.is_finite()))
    }
}

/// 1.5e+03
fn scientific(size: f64, precision: usize) -> String {
    let text = format!("{size:.precision$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

fn general(size: f64, precision: usize, keep_zeros: bool) -> String {
    let text = format!("{size:.*e}", precision - 1);
    let exponent: i32 = text.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
    let trim = |digits: String| {
        if keep_zeros || !digits.contains('.') {
            return digits;
        }
        digits.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    if exponent < -4 || exponent >= precision as i32 {
        let text = scientific(size, precision - 1);
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "+00"));
        return format!("{}e{exponent}", trim(digits.to_owned()));
    }
    let fraction = (precision as i32 - 1 - exponent).max(0) as usize;
    trim(format!("{size:.fraction$}"))
}

/// The values one after the other, or by name.
struct Values<'a> {
    all: &'a Value,
    tuple: Option<Vec<Value>>,
    used: usize,
}

impl Values<'_> {
    fn next(&mut self) -> Result<Value, Error> {
        let value = match &self.tuple {
            Some(values) => values.get(self.used).cloned(),
            None => (self.used == 0).then(|| self.all.clone()),
        };
        self.used += 1;
        value.ok_or_else(|| type_error("not enough arguments for format string"))
    }
}

pub fn printf(state: &State, format: &str, given: &Value) -> Result<String, Error> {
    let tuple = if given.is_tuple() { Some(given.try_iter()?.collect()) } else { None };
    let mut values = Values { all: given, tuple, used: 0 };
    let mut out = String::new();
    let mut rest = format;
    let mut is_named = false;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let mut named = None;
        if let Some(after) = rest.strip_prefix('(') {
            let end = after.find(')').ok_or_else(|| value_error("incomplete format key"))?;
            if given.kind() != ValueKind::Map {
                return Err(type_error("format requires a mapping"));
            }
            let found = given.get_item(&Value::from(&after[..end]))?;
            if found.is_undefined() {
                return Err(value_error(format!("KeyError: '{}'", &after[..end])));
            }
            (named, is_named) = (Some(found), true);
            rest = &after[end + 1..];
        }
        let mut characters = rest.chars().peekable();
        let mut spec = Spec::default();
        while let Some(flag) = characters.next_if(|c| "-+ 0#".contains(*c)) {
            match flag {
                '-' => spec.left = true,
                '+' => spec.sign = true,
                ' ' => spec.blank = true,
                '0' => spec.zero = true,
                _ => spec.alternate = true,
            }
        }
        let mut number = |values: &mut Values, spec: &mut Spec, is_width: bool| {
            if characters.next_if_eq(&'*').is_some() {
                let given = i64::try_from(values.next()?)?;
                spec.left |= is_width && given < 0;
                return Ok(usize::try_from(given.unsigned_abs()).unwrap_or(usize::MAX));
            }
            let mut number = 0usize;
            while let Some(digit) = characters.next_if(char::is_ascii_digit) {
                number = number.saturating_mul(10).saturating_add(digit as usize - '0' as usize);
            }
            Ok::<usize, Error>(number)
        };
        spec.width = number(&mut values, &mut spec, true)?;
        if rest[rest.len() - characters.clone().collect::<String>().len()..].starts_with('.') {
            characters.next();
            let mut digits = String::new();
            while let Some(digit) = characters.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            spec.precision = Some(digits.parse().unwrap_or(0));
        }
        while characters.next_if(|c| "hlL".contains(*c)).is_some() {}
        let kind = characters.next().ok_or_else(|| value_error("incomplete format"))?;
        rest = &rest[rest.len() - characters.collect::<String>().len()..];
        if spec.width > MAX_WIDTH || spec.precision.is_some_and(|precision| precision > MAX_WIDTH) {
            return Err(value_error("a width of the format is too large"));
        }
        if kind == '%' {
            out.push('%');
            continue;
        }
        let value = match named {
            Some(value) => value,
            None => values.next()?,
        };
        let before = out.len();
        match kind {
            's' | 'r' | 'a' => {
                let mut text = String::new();
                if kind == 's' {
                    python_str(&value, &mut text)?;
                } else {
                    python_repr_of(&value, &mut text)?;
                }
                if let Some(precision) = spec.precision {
                    text = text.chars().take(precision).collect();
                }
                out.push_str(&spec.padded("", &text, false));
            }
            'd' | 'i' | 'u' | 'x' | 'X' | 'o' => out.push_str(&spec.integer(&value, kind)?),
            'e' | 'E' | 'f' | 'F' | 'g' | 'G' => out.push_str(&spec.float(&value, kind)?),
            'c' => {
                let character = match (value.as_str(), value.as_i64()) {
                    (Some(text), _) if text.chars().count() == 1 => text.to_owned(),
                    (None, Some(code)) => u32::try_from(code)
                        .ok()
                        .and_then(char::from_u32)
                        .ok_or_else(|| value_error("%c arg not in range(0x110000)"))?
                        .to_string(),
                    _ => return Err(type_error("%c requires int or char")),
                };
                out.push_str(&spec.padded("", &character, false));
            }
            _ => return Err(value_error(format!("unsupported format character '{kind}'"))),
        }
        charge(state, (out.len() - before) as u64)?;
    }
    out.push_str(rest);
    let wanted = values.tuple.as_ref().map_or(1, Vec::len);
    let may_stay = values.tuple.is_none() && (is_named || matches!(given.kind(), ValueKind::Map | ValueKind::Seq));
    if values.used < wanted && !may_stay {
        return Err(type_error("not all arguments converted during string formatting"));
    }
    Ok(out)
}
