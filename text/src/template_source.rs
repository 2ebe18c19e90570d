//! Chat templates as the engine takes them. Two things of Jinja2 are rewritten, within their line:
//!
//!  - `{% generation %}` marks what a model wrote, for training; here it is a block of no effect.
//!  - A loop over None or a number is an error in Python and silence in the engine; templates rely
//!    on the error to refuse what they cannot render. So every loop asks the filter below first.

/// The filter that refuses what Python cannot iterate.
pub const EACH_FILTER: &str = "_kvasir_each";

/// Bytes of the string literal that `text` begins with.
fn literal_len(text: &str) -> usize {
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

/// Bytes of the tag that `text` begins with, up to `end` and with it.
fn tag_len(text: &str, end: &str) -> usize {
    let mut at = 2;
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with(end) {
            return at + end.len();
        }
        at += match rest.as_bytes()[0] {
            b'"' | b'\'' => literal_len(rest),
            _ => rest.chars().next().map_or(1, char::len_utf8),
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

/// `inside` of a block tag, without its marks.
fn rewrite_block(inside: &str) -> Option<String> {
    let words = top_level_words(inside);
    match words.first()?.1 {
        "generation" => Some(inside.replacen("generation", "if true", 1)),
        "endgeneration" => Some(inside.replacen("endgeneration", "endif", 1)),
        "for" => {
            let (at, word) = words.iter().find(|(_, word)| *word == "in")?;
            let begin = at + word.len();
            let end = words
                .iter()
                .find(|(at, word)| *at > begin && matches!(*word, "if" | "recursive"))
                .map_or_else(
                    || inside.trim_end_matches(|c: char| c.is_whitespace() || "-+".contains(c)).len(),
                    |(at, _)| *at,
                );
            if end <= begin {
                return None;
            }
            let (head, tail) = (&inside[..begin], &inside[end..]);
            Some(format!("{head} ({})|{EACH_FILTER} {tail}", inside[begin..end].trim()))
        }
        _ => None,
    }
}

pub fn rewrite(source: &str) -> String {
    let mut out = String::with_capacity(source.len() + 256);
    let mut rest = source;
    let mut raw = false;
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let size = match rest.as_bytes().get(1) {
            Some(b'#') if !raw => rest.find("#}").map_or(rest.len(), |end| end + 2),
            Some(b'{') if !raw => tag_len(rest, "}}"),
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
                if let (false, Some(inside)) = (raw, rewrite_block(inside)) {
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
    }

    #[test]
    fn generation_becomes_a_block_of_no_effect() {
        assert_eq!(rewrite("{%- generation -%}a{% endgeneration %}"), "{%- if true -%}a{% endif %}");
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
