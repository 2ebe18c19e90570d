//! Expressions of Jinja2, rewritten where the engine's operators are not Python's: `a + b` becomes a
//! call that knows text that is marked safe, `a % b` one that formats, `a < b` and `a in b` ones that
//! refuse what has no order or holds nothing. The rest of an expression stays as it is written, and
//! one that is not understood stays whole: the engine then says what is wrong with it.

use crate::python_methods::DICT_METHODS;
use crate::python_operators::{ADD, ATTRIBUTE, COMPARISONS, CONTAINS, REMAINDER};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Name,
    Number,
    Text,
    Sign,
    End,
}

#[derive(Clone, Copy, Debug)]
struct Token<'a> {
    kind: Kind,
    text: &'a str,
    /// Blanks before it, which stay: the lines of errors count them.
    blanks: &'a str,
}

/// Deeper ones are left to the engine, which refuses them.
const MAX_DEPTH: usize = 60;

const TWO_SIGNS: [&str; 6] = ["**", "//", "==", "!=", "<=", ">="];

pub fn literal_len(text: &str) -> usize {
    let quote = text.as_bytes()[0];
    let mut escaped = false;
    for (i, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            _ if byte == quote => return i + 1,
            _ => {}
        }
    }
    text.len()
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut found = Vec::new();
    let mut rest = text;
    loop {
        let trimmed = rest.trim_start();
        let blanks = &rest[..rest.len() - trimmed.len()];
        let Some(first) = trimmed.chars().next() else {
            found.push(Token { kind: Kind::End, text: "", blanks });
            return found;
        };
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        let (kind, size) = if first == '"' || first == '\'' {
            (Kind::Text, literal_len(trimmed))
        } else if first.is_ascii_digit() {
            let bytes = trimmed.as_bytes();
            let mut size = trimmed.find(|c: char| !is_name(c)).unwrap_or(trimmed.len());
            let is_fraction = bytes.get(size) == Some(&b'.')
                && bytes.get(size + 1).is_some_and(u8::is_ascii_digit);
            if is_fraction {
                let after = &trimmed[size + 1..];
                size += 1 + after.find(|c: char| !is_name(c)).unwrap_or(after.len());
            }
            let signed = trimmed[..size].ends_with(['e', 'E']) && !trimmed.starts_with("0x");
            if signed && bytes.get(size).is_some_and(|sign| b"+-".contains(sign)) {
                let after = &trimmed[size + 1..];
                size += 1 + after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
            }
            (Kind::Number, size)
        } else if is_name(first) {
            (Kind::Name, trimmed.find(|c| !is_name(c)).unwrap_or(trimmed.len()))
        } else if TWO_SIGNS.iter().any(|sign| trimmed.starts_with(sign)) {
            (Kind::Sign, 2)
        } else {
            (Kind::Sign, first.len_utf8())
        };
        found.push(Token { kind, text: &trimmed[..size], blanks });
        rest = &trimmed[size..];
    }
}

/// A literal with the escapes that the engine knows.
fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let mut after = rest[at + 1..].chars();
        let escape = after.next();
        rest = after.as_str();
        match escape {
            Some('a') => out.push_str("\\x07"),
            Some('v') => out.push_str("\\x0b"),
            Some('\n') => {}
            Some('U') => {
                let code = rest.get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok());
                match code.and_then(char::from_u32) {
                    Some(character) => {
                        out.push(character);
                        rest = &rest[8..];
                    }
                    None => out.push_str("\\U"),
                }
            }
            Some(other) => {
                out.push('\\');
                out.push(other);
            }
            None => out.push('\\'),
        }
    }
    out.push_str(rest);
    out
}

struct Rewriter<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
    depth: usize,
}

type Rewritten = Option<String>;

impl<'a> Rewriter<'a> {
    fn peek(&self) -> Token<'a> {
        self.tokens[self.at]
    }

    fn is(&self, text: &str) -> bool {
        let token = self.peek();
        token.text == text && matches!(token.kind, Kind::Name | Kind::Sign)
    }

    fn take(&mut self) -> String {
        let token = self.peek();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        let text = if token.kind == Kind::Text { literal(token.text) } else { token.text.to_owned() };
        format!("{}{text}", token.blanks)
    }

    /// Expressions and what stands between them, up to a closing bracket or the end.
    fn sequence(&mut self) -> Rewritten {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let mut out = String::new();
        loop {
            let token = self.peek();
            let separates = match token.kind {
                Kind::End => break,
                Kind::Sign => match token.text {
                    ")" | "]" | "}" => break,
                    "," | ":" | "=" => true,
                    _ => false,
                },
                Kind::Name => matches!(token.text, "and" | "or" | "not" | "if" | "else"),
                _ => false,
            };
            out.push_str(&if separates { self.take() } else { self.comparison()? });
        }
        self.depth -= 1;
        Some(out)
    }

    fn comparison(&mut self) -> Rewritten {
        let left = self.sum()?;
        let mut rest: Vec<(String, String)> = Vec::new(); // operator as written, operand
        loop {
            let is_compared = ["==", "!=", "<", "<=", ">", ">=", "in"].iter().any(|op| self.is(op));
            let is_not_in = self.is("not")
                && self.tokens.get(self.at + 1).is_some_and(|next| next.text == "in");
            let operator = if is_not_in {
                self.take() + &self.take()
            } else if is_compared {
                self.take()
            } else {
                break;
            };
            rest.push((operator, self.sum()?));
        }
        let [(operator, right)] = &rest[..] else {
            let rest = rest.iter().map(|(operator, operand)| format!("{operator}{operand}"));
            return Some(left + &rest.collect::<String>());
        };
        let trimmed = operator.split_whitespace().collect::<Vec<_>>().join(" ");
        if let Some((_, function)) = COMPARISONS.iter().find(|(sign, _)| *sign == trimmed) {
            return Some(format!(" {function}({left},{right})"));
        }
        match trimmed.as_str() {
            "in" => Some(format!(" {CONTAINS}({left},{right})")),
            "not in" => Some(format!(" (not {CONTAINS}({left},{right}))")),
            _ => Some(format!("{left}{operator}{right}")),
        }
    }

    fn sum(&mut self) -> Rewritten {
        let mut left = self.concatenation()?;
        loop {
            if self.is("+") {
                let mut operands = vec![left];
                while self.is("+") {
                    self.take();
                    operands.push(self.concatenation()?);
                }
                left = format!(" {ADD}({})", operands.join(","));
            } else if self.is("-") {
                let operator = self.take();
                left = left + &operator + &self.concatenation()?;
            } else {
                return Some(left);
            }
        }
    }

    fn concatenation(&mut self) -> Rewritten {
        let mut out = self.product()?;
        while self.is("~") {
            out = out + &self.take() + &self.product()?;
        }
        Some(out)
    }

    fn product(&mut self) -> Rewritten {
        let mut left = self.power()?;
        loop {
            if self.is("%") {
                self.take();
                left = format!(" {REMAINDER}({left},{})", self.power()?);
            } else if ["*", "/", "//"].iter().any(|operator| self.is(operator)) {
                left = left + &self.take() + &self.power()?;
            } else {
                return Some(left);
            }
        }
    }

    fn power(&mut self) -> Rewritten {
        let mut out = self.unary()?;
        while self.is("**") {
            out = out + &self.take() + &self.unary()?;
        }
        Some(out)
    }

    fn unary(&mut self) -> Rewritten {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let out = if self.is("-") {
            self.take() + &self.unary()?
        } else if self.is("+") {
            self.take();
            format!("(0 - (0 - {}))", self.unary()?)
        } else {
            let primary = self.primary()?;
            self.filters(primary)?
        };
        self.depth -= 1;
        Some(out)
    }

    fn bracketed(&mut self) -> Rewritten {
        let open = self.take();
        let close = match open.trim_start() {
            "(" => ")",
            "[" => "]",
            _ => "}",
        };
        let inside = self.sequence()?;
        if !self.is(close) {
            return None;
        }
        Some(open + &inside + &self.take())
    }

    /// A value, with its attributes, items and calls.
    fn primary(&mut self) -> Rewritten {
        let token = self.peek();
        let mut out = match token.kind {
            Kind::Text => {
                let mut text = self.take();
                while self.peek().kind == Kind::Text {
                    text += &self.take();
                }
                text
            }
            Kind::Name | Kind::Number => self.take(),
            Kind::Sign if matches!(token.text, "(" | "[" | "{") => self.bracketed()?,
            _ => return None,
        };
        loop {
            if self.is(".") {
                let dot = self.take();
                if !matches!(self.peek().kind, Kind::Name | Kind::Number) {
                    return None;
                }
                let name = self.take();
                if DICT_METHODS.contains(&name.trim()) && !self.is("(") {
                    out = format!(" ({out}|{ATTRIBUTE}('{}'))", name.trim());
                } else {
                    out = out + &dot + &name;
                }
            } else if self.is("[") || self.is("(") {
                out += &self.bracketed()?;
            } else {
                return Some(out);
            }
        }
    }

    /// Filters and tests after a value.
    fn filters(&mut self, value: String) -> Rewritten {
        let mut out = value;
        loop {
            if self.is("|") {
                out += &self.take();
                if self.peek().kind != Kind::Name {
                    return None;
                }
                out += &self.take();
                while self.is(".") {
                    out = out + &self.take() + &self.take();
                }
                if self.is("(") {
                    out += &self.bracketed()?;
                }
            } else if self.is("is") {
                out += &self.take();
                if self.is("not") {
                    out += &self.take();
                }
                if self.peek().kind != Kind::Name {
                    return None;
                }
                out += &self.take();
                let next = self.peek();
                let takes_value = match next.kind {
                    Kind::Text | Kind::Number => true,
                    Kind::Name => !matches!(next.text, "else" | "or" | "and" | "is" | "if" | "not" | "in"),
                    Kind::Sign => matches!(next.text, "(" | "[" | "{"),
                    Kind::End => false,
                };
                if self.is("(") {
                    out += &self.bracketed()?;
                } else if takes_value {
                    out += &self.primary()?;
                }
            } else {
                return Some(out);
            }
        }
    }
}

/// `expression` (or several, with commas), rewritten.
pub fn rewrite_expression(expression: &str) -> String {
    let mut rewriter = Rewriter { tokens: tokens(expression), at: 0, depth: 0 };
    match rewriter.sequence() {
        Some(out) if rewriter.peek().kind == Kind::End => out + rewriter.peek().blanks,
        _ => expression.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::rewrite_expression;

    #[test]
    fn operators_become_calls() {
        for (from, to) in [
            ("a", "a"),
            (" a+b + c ", " _kvasir_add( a,b, c) "),
            ("a - b + c", " _kvasir_add(a - b, c)"),
            ("i % 2 == 0", " _kvasir_mod(i, 2) == 0"),
            ("a not in b and c", " (not _kvasir_in(a, b)) and c"),
            ("1 < 2 < 3", "1 < 2 < 3"),
            ("x if a < b else y", "x if _kvasir_lt( a, b) else y"),
            ("f(a + b, c=d[1:])|g(x in y)", "f( _kvasir_add(a, b), c=d[1:])|g( _kvasir_in(x, y))"),
            ("d.items", " (d|_kvasir_attribute('items'))"),
            ("d.items()", "d.items()"),
            ("a is not none and b is divisibleby 3", "a is not none and b is divisibleby 3"),
            ("'a + b' ~ \"c\"", "'a + b' ~ \"c\""),
            ("{'a': 1 + 2}['b' + c]", "{'a': _kvasir_add( 1, 2)}[ _kvasir_add('b', c)]"),
            ("a +", "a +"),
            ("(a", "(a"),
        ] {
            assert_eq!(rewrite_expression(from), to, "{from}");
        }
    }
}
