//! Stages of a decoder that rewrite the text as a whole, which comes in pieces.

use tokenizers::decoders::strip;
use tokenizers::normalizers::Replace;
use tokenizers::tokenizer::Decoder;
use tokenizers::DecoderWrapper;

use crate::decode_stream::{common_prefix, Stage};
use crate::error::Result;
use crate::tokenizer::from_library;

/// Some characters less at the text's begin and at its end.
pub struct Strip {
    content: char,
    start: usize, // still to be stripped at the begin
    stop: usize,
    held: String, // what may be the end
}

impl Strip {
    pub fn new(strip: &strip::Strip) -> Strip {
        let strip::Strip { content, start, stop, .. } = *strip;
        Strip { content, start, stop, held: String::new() }
    }
}

impl Stage for Strip {
    fn push(&mut self, token: String, out: &mut Vec<String>) -> Result<()> {
        let mut text = token.as_str();
        while self.start > 0 && !text.is_empty() {
            match text.strip_prefix(self.content) {
                Some(rest) => text = rest,
                None => self.start = 1,
            }
            self.start -= 1;
        }
        self.held.push_str(text);
        let at_end = self.held.chars().rev().take(self.stop);
        let may_go = at_end.take_while(|character| *character == self.content).count();
        let rest = self.held.split_off(self.held.len() - may_go * self.content.len_utf8());
        out.push(std::mem::replace(&mut self.held, rest));
        Ok(())
    }
}

/// Another text for each `pattern`.
pub struct Literal<'a> {
    pattern: String,
    content: &'a str,
    held: String, // shorter than the pattern
}

impl<'a> Literal<'a> {
    /// None for a pattern that is a regular expression.
    pub fn new(replace: &'a Replace) -> Option<Literal<'a>> {
        // The library shows a pattern in its file's form alone.
        let file = serde_json::to_value(replace).ok()?;
        let pattern = file.get("pattern")?.get("String")?.as_str()?.to_owned();
        let (content, held) = (replace.content.as_str(), String::new());
        (!pattern.is_empty()).then_some(Literal { pattern, content, held })
    }

    /// Bytes at the end of `text` that may become the pattern.
    fn begun(&self, text: &str) -> usize {
        let starts = text.char_indices().map(|(at, _)| at).rev();
        let near_end = starts.take_while(|at| text.len() - at < self.pattern.len());
        let may_begin = near_end.filter(|at| self.pattern.starts_with(&text[*at..]));
        may_begin.last().map_or(0, |at| text.len() - at)
    }
}

impl Stage for Literal<'_> {
    fn push(&mut self, token: String, out: &mut Vec<String>) -> Result<()> {
        let text = std::mem::take(&mut self.held) + &token;
        let mut rest = text.as_str();
        while let Some((before, behind)) = rest.split_once(self.pattern.as_str()) {
            out.push(before.to_owned());
            out.push(self.content.to_owned());
            rest = behind;
        }
        let (certain, begun) = rest.split_at(rest.len() - self.begun(rest));
        out.push(certain.to_owned());
        self.held = begun.to_owned();
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<String>) {
        out.push(std::mem::take(&mut self.held));
    }
}

/// Any other rewriting. What has been passed on stays, whatever becomes of it when more follows.
pub struct Whole<'a> {
    decoder: &'a DecoderWrapper,
    text: String,
    given: String, // how the decoder writes `text`
}

/// Bytes of its text from which a `Whole` forgets all but the last, of so many.
const MOST: usize = 1 << 10;
const KEPT: usize = 1 << 8;

impl<'a> Whole<'a> {
    pub fn new(decoder: &'a DecoderWrapper) -> Whole<'a> {
        Whole { decoder, text: String::new(), given: String::new() }
    }

    fn rewritten(&self) -> Result<String> {
        self.decoder.decode(vec![self.text.clone()]).map_err(from_library)
    }
}

impl Stage for Whole<'_> {
    fn push(&mut self, token: String, out: &mut Vec<String>) -> Result<()> {
        self.text.push_str(&token);
        let rewritten = self.rewritten()?;
        out.push(rewritten[common_prefix(&rewritten, &self.given)..].to_owned());
        self.given = rewritten;
        if self.text.len() > MOST {
            let mut from = self.text.len() - KEPT;
            while !self.text.is_char_boundary(from) {
                from += 1;
            }
            self.text.drain(..from);
            self.given = self.rewritten()?;
        }
        Ok(())
    }
}
