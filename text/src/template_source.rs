//! Chat templates as the engine takes them. Some things of Jinja2 are rewritten, within their line:
//!
//!  - `{% generation %}` marks what a model wrote, for training; here it is a scope of no effect.
//!  - A loop over None or a number is an error in Python and silence in the engine; templates rely
//!    on the error to refuse what they cannot render. So every loop asks the filter below first.
//!  - Operators that Python has in another way are calls (template_operators.rs).

use crate::template_operators::{literal_len, rewrite_expression};

/// The filter that refuses what Python cannot iterate.
pub const EACH_FILTER: &str = "_kvasir_each";

/// Bytes of the tag that `text` begins with, up to `end` and with it; brackets inside are closed.
fn tag_len(text: &str, end: &str) -> usize {
    let (mut at, mut depth) = (2, 0i32);
    while at < text.len() {
        let rest = &text[at..];
        if depth <= 0 && rest.starts_with(end) {
            return at + end.len();
        }
        at += match rest.as_bytes()[0] {
            b'"' | b'\'' => literal_len(rest),
            bracket => {
                match bracket {
                    b'(' | b'[' | b'{' => depth += 1,
                    b')' | b']' | b'}' => depth -= 1,
                    _ => {}
                }
                rest.chars().next().map_or(1, char::len_utf8)
            }
        };
    }
    text.len()
}

/// The words of a tag outside of brackets and literals, with where they begin.
fn top_level_words(text: &str) -> Vec<(usize, &str)> {
    let mut words = Vec::new();
    let (mut depth, mut at) = (0i32, 0);
    while at < text.len() {
        let rest = &text[at..];
        let first = rest.chars().next().unwrap_or(' ');
        let mut size = first.len_utf8();
        match first {
            '"' | '\'' => size = literal_len(rest),
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            c if c.is_alphanumeric() || c == '_' => {
                let is_part = |c: char| c.is_alphanumeric() || c == '_';
                size = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
                if depth == 0 && !text[..at].ends_with('.') {
                    words.push((at, &rest[..size]));
                }
            }
            _ => {}
        }
        at += size;
    }
    words
}

fn rewrite_loop(inside: &str, words: &[(usize, &str)]) -> Option<String> {
    let place = |name: &str, from: usize| {
        words.iter().find(|(at, word)| *at >= from && *word == name).map(|(at, _)| *at)
    };
    let begin = place("in", 0)? + 2;
    let recursive = place("recursive", begin).unwrap_or(inside.len());
    let condition = place("if", begin).unwrap_or(recursive);
    let over = inside[begin..condition].trim();
    if over.is_empty() {
        return None;
    }
    let filtered = match inside[condition..recursive].strip_prefix("if") {
        Some(condition) => format!("if{}", rewrite_expression(condition)),
        None => String::new(),
    };
    Some(format!(
        "{} ({})|{EACH_FILTER} {filtered}{}",
        &inside[..begin],
        rewrite_expression(over),
        &inside[recursive..]
    ))
}

/// Where a `set` has its value: after the first sign of equality outside of brackets.
fn assignment(inside: &str) -> Option<usize> {
    let (mut depth, mut at) = (0i32, 0);
    while at < inside.len() {
        let rest = &inside[at..];
        let first = rest.chars().next()?;
        let mut size = first.len_utf8();
        match first {
            '"' | '\'' => size = literal_len(rest),
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            '=' if depth == 0 => return Some(at + 1),
            '|' if depth == 0 => return None, // of a block
            _ => {}
        }
        at += size;
    }
    None
}

/// `inside` of a block tag, without its marks.
fn rewrite_block(inside: &str) -> Option<String> {
    let words = top_level_words(inside);
    let (at, word) = *words.first()?;
    let after = |place: usize| {
        Some(format!("{}{}", &inside[..place], rewrite_expression(&inside[place..])))
    };
    match word {
        "generation" => Some(inside.replacen("generation", "with", 1)),
        "endgeneration" => Some(inside.replacen("endgeneration", "endwith", 1)),
        "for" => rewrite_loop(inside, &words),
        "if" | "elif" => after(at + word.len()),
        "set" => after(assignment(inside)?),
        _ => None,
    }
}

/// `inside` of a tag, its marks for blanks set aside.
fn within_marks(inside: &str, rewritten: impl Fn(&str) -> Option<String>) -> Option<String> {
    let is_mark = |c: char| c == '-' || c == '+';
    let body = inside.strip_prefix(is_mark).unwrap_or(inside);
    let open = &inside[..inside.len() - body.len()];
    let body = body.strip_suffix(is_mark).unwrap_or(body);
    let close = &inside[open.len() + body.len()..];
    Some(format!("{open}{}{close}", rewritten(body)?))
}

pub fn rewrite(source: &str) -> String {
    let source: &str = &source.replace("\r\n", "\n").replace('\r', "\n"); // as Jinja2 reads every file
    let mut out = String::with_capacity(source.len() + 256);
    let mut rest = source;
    let mut raw = false;
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let size = match rest.as_bytes().get(1) {
            Some(b'#') if !raw => rest.find("#}").map_or(rest.len(), |end| end + 2),
            Some(b'{') if !raw => {
                let size = tag_len(rest, "}}");
                let inside = rest[2..size].strip_suffix("}}");
                if let Some(inside) =
                    inside.and_then(|inside| within_marks(inside, |body| Some(rewrite_expression(body))))
                {
                    out.push_str(&format!("{{{{{inside}}}}}"));
                    rest = &rest[size..];
                    continue;
                }
                size
            }
            Some(b'%') => {
                let size = tag_len(rest, "%}");
                let tag = &rest[..size];
                let inside = tag[2..].strip_suffix("%}").unwrap_or(&tag[2..]);
                let word = inside.trim_matches(|c: char| c.is_whitespace() || "-+".contains(c));
                if raw && word != "endraw" {
                    out.push('{');
                    rest = &rest[1..];
                    continue;
                }
                raw = word == "raw";
                if let (false, Some(inside)) = (raw, within_marks(inside, rewrite_block)) {
                    out.push_str("{%");
                    out.push_str(&inside);
                    out.push_str("%}");
                    rest = &rest[size..];
                    continue;
                }
                size
            }
            _ => 1,
        };
        out.push_str(&rest[..size]);
        rest = &rest[size..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::rewrite;

    #[test]
    fn loops_are_guarded() {
        assert_eq!(
            rewrite("{%- for m in messages[1:] if m.a -%}x{% endfor %}"),
            "{%- for m in (messages[1:])|_kvasir_each if m.a -%}x{% endfor %}"
        );
        assert_eq!(
            rewrite("{% for a, b in x.items() -%}"),
            "{% for a, b in (x.items())|_kvasir_each -%}"
        );
        assert_eq!(rewrite("{% for a in b%}"), "{% for a in (b)|_kvasir_each %}");
        assert_eq!(
            rewrite("{% for a in b + c if a < 1 recursive %}"),
            "{% for a in ( _kvasir_add(b, c))|_kvasir_each if _kvasir_lt( a, 1) recursive %}"
        );
    }

    #[test]
    fn operators_are_rewritten_where_expressions_stand() {
        assert_eq!(rewrite("{{- a + b -}}"), "{{- _kvasir_add( a, b) -}}");
        assert_eq!(rewrite("{%- if a in b -%}"), "{%- if _kvasir_in( a, b) -%}");
        assert_eq!(rewrite("{% set x = a + '=' %}"), "{% set x = _kvasir_add( a, '=') %}");
        assert_eq!(rewrite("{% set x | f(a=1) %}"), "{% set x | f(a=1) %}");
    }

    #[test]
    fn generation_becomes_a_block_of_no_effect() {
        assert_eq!(rewrite("{%- generation -%}a{% endgeneration %}"), "{%- with -%}a{% endwith %}");
    }

    #[test]
    fn literals_comments_and_raw_text_stay() {
        for text in [
            "{{ '{% for a in b %}' }}",
            "{# {% for a in b %} #}",
            "{% raw %}{% for a in b %}{% endraw %}",
            "{% set x = 'for a in b %}' %}",
            "a { b {",
            "{% for",
        ] {
            assert_eq!(rewrite(text), text);
        }
    }
}
