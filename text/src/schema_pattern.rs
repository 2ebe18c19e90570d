//! Patterns of JSON schemas, which are of JavaScript, as the compiler takes them, which are of Rust.
//! Where dialects read one construct in several ways, what is kept is what each of them accepts:
//! an output that matches here matches for JavaScript's and for Python's validators too.

use regex_syntax::hir::{print::Printer, Class, ClassUnicode, ClassUnicodeRange, Hir, HirKind};

use crate::error::{invalid, shown, Result};

/// White space for all: Rust and Python have U+0085 besides, JavaScript U+FEFF, Python U+001C to 1F.
const BLANK: &str = r"\t-\r \xa0\u{1680}\u{2000}-\u{200a}\u{2028}\u{2029}\u{202f}\u{205f}\u{3000}";
/// White space for any.
const ANY_BLANK: &str = r"\s\x1c-\x1f\u{feff}";
/// What `.` leaves out for any.
const LINE_ENDS: &str = r"\n\r\u{2028}\u{2029}";

/// The pattern in Rust's syntax.
fn translated(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 32);
    let mut rest = pattern.chars().peekable();
    let (mut in_class, mut negated) = (false, false);
    while let Some(character) = rest.next() {
        match character {
            '\\' => match rest.next() {
                Some('d') if !negated => out.push_str(if in_class { "0-9" } else { "[0-9]" }),
                Some('w') if !negated => {
                    out.push_str(if in_class { "0-9A-Za-z_" } else { "[0-9A-Za-z_]" })
                }
                // Numerals that are no digits are of a word for Python.
                Some('w') => out.push_str(r"\w\p{N}"),
                Some('W') if !negated => out.push_str(r"[^\w\p{N}]"),
                Some('s') if negated => out.push_str(ANY_BLANK),
                Some('s') if in_class => out.push_str(BLANK),
                Some('s') => out.push_str(&format!("[{BLANK}]")),
                // The complement of what may stand for a blank; twice negated, of what must.
                Some('S') if negated => out.push_str(&format!("[^{BLANK}]")),
                Some('S') => out.push_str(&format!("[^{ANY_BLANK}]")),
                Some('D') if negated => out.push_str("[^0-9]"),
                Some('W') if negated => out.push_str("[^0-9A-Za-z_]"),
                Some('b') if in_class => out.push_str(r"\x08"),
                Some(other) => {
                    out.push('\\');
                    out.push(other);
                }
                None => out.push('\\'),
            },
            '[' if !in_class => {
                in_class = true;
                out.push('[');
                negated = rest.next_if_eq(&'^').is_some();
                if negated {
                    out.push('^');
                }
                // Python takes a bracket at the beginning for itself, JavaScript for the end.
            }
            ']' if in_class => {
                (in_class, negated) = (false, false);
                out.push(']');
            }
            // Nested classes and operators of sets are Rust's alone.
            '[' | '&' | '~' if in_class => {
                out.push('\\');
                out.push(character);
            }
            '-' if in_class && rest.peek() == Some(&'-') => out.push_str(r"\-"),
            '.' if !in_class => out.push_str(&format!("[^{LINE_ENDS}]")),
            _ => out.push(character),
        }
    }
    out
}

/// The compiler writes the characters of a class as JSON; for a class with all control characters
/// (the line break may be missing) it writes an escaped quote and backslash too, whether the class
/// has them or not. A class that lacks one of these loses a control character, and is written well.
fn mended(class: ClassUnicode) -> ClassUnicode {
    let has = |c: char| class.iter().any(|range| range.start() <= c && c <= range.end());
    let controls = ('\0'..='\u{1f}').filter(|c| *c != '\n').all(has);
    if !controls || (has('"') && has('\\')) {
        return class;
    }
    let mut mended = class.clone();
    mended.difference(&ClassUnicode::new([ClassUnicodeRange::new('\u{1}', '\u{1}')]));
    mended
}

fn rewritten(hir: Hir) -> Hir {
    match hir.into_kind() {
        HirKind::Empty => Hir::empty(),
        HirKind::Literal(literal) => Hir::literal(literal.0),
        HirKind::Class(Class::Unicode(class)) => Hir::class(Class::Unicode(mended(class))),
        HirKind::Class(class) => Hir::class(class),
        HirKind::Look(look) => Hir::look(look),
        HirKind::Repetition(mut repetition) => {
            repetition.sub = Box::new(rewritten(*repetition.sub));
            Hir::repetition(repetition)
        }
        HirKind::Capture(capture) => rewritten(*capture.sub),
        HirKind::Concat(parts) => Hir::concat(parts.into_iter().map(rewritten).collect()),
        HirKind::Alternation(parts) => Hir::alternation(parts.into_iter().map(rewritten).collect()),
    }
}

/// `pattern` for the compiler; its own words where it is broken.
pub fn schema_pattern(pattern: &str) -> Result<String> {
    let hir = regex_syntax::parse(&translated(pattern)).map_err(|error| {
        let reason = match &error {
            regex_syntax::Error::Parse(error) => error.kind().to_string(),
            regex_syntax::Error::Translate(error) => error.kind().to_string(),
            error => error.to_string(),
        };
        invalid(format!("the pattern \"{}\" is not served: {reason}", shown(pattern, 100)))
    })?;
    let mut out = String::new();
    Printer::new()
        .print(&rewritten(hir), &mut out)
        .map_err(|_| invalid(format!("the pattern \"{}\" is not served", shown(pattern, 100))))?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::schema_pattern;

    #[test]
    fn dialects_meet() {
        let matches = |pattern: &str, text: &str| {
            regex::Regex::new(&schema_pattern(pattern).unwrap()).unwrap().is_match(text)
        };
        for (pattern, yes, no) in [
            (r"^\d\w$", "1a", "\u{661}a"),
            (r"^\D$", "a", "\u{661}"),
            (r"^[^\d]$", "a", "\u{661}"),
            (r"^\W$", "-", "\u{3280}"),
            (r"^[^\w]$", "-", "\u{3280}"),
            (r"^\s\S$", " a", "\u{85}a"),
            (r"^\S$", "a", "\u{1c}"),
            (r"^[^\s]$", "a", "\u{feff}"),
            (r"^.$", "a", "\u{2028}"),
            (r"^[[a]$", "[", "b"),
            (r"^[[:alpha:]]$", "a]", "b"),
            (r"^[a&&b]$", "&", "c"),
            (r"^[\b]$", "\u{8}", "b"),
            ("^[^\"]$", "a", "\u{1}"),
            (r"^(?:a|b)+?$", "ab", "c"),
        ] {
            assert!(matches(pattern, yes), "{pattern}");
            assert!(!matches(pattern, no), "{pattern}");
        }
        assert!(schema_pattern("(?=a)").is_err());
    }
}
