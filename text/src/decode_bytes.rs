//! Stages of a decoder that make characters of bytes.

use std::str::from_utf8;

use crate::decode_stream::Stage;
use crate::error::Result;
use crate::token_table::{byte_level, fallback_byte};

const REPLACEMENT: &str = "\u{FFFD}";

/// "<0xE4>" is a byte. The library reads a run of such tokens as a whole: as characters if all of
/// it is UTF-8, else as one U+FFFD for each. A stream cannot wait for a run's end, so whole
/// characters go on at once, and from the byte on that breaks the run, each is a U+FFFD.
#[derive(Default)]
pub struct ByteFallback {
    pending: Vec<u8>, // a character's begin
    broken: bool,
}

impl ByteFallback {
    fn give_up(&mut self, out: &mut Vec<String>) {
        out.extend(self.pending.drain(..).map(|_| REPLACEMENT.to_owned()));
    }
}

impl Stage for ByteFallback {
    fn push(&mut self, token: String, out: &mut Vec<String>) -> Result<()> {
        let Some(byte) = fallback_byte(&token) else {
            self.give_up(out);
            self.broken = false;
            out.push(token);
            return Ok(());
        };
        self.pending.push(byte);
        match from_utf8(&self.pending) {
            Ok(character) if !self.broken => {
                out.push(character.to_owned());
                self.pending.clear();
            }
            Err(error) if !self.broken && error.error_len().is_none() => {}
            _ => {
                self.broken = true;
                self.give_up(out);
            }
        }
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<String>) {
        self.give_up(out);
    }
}

/// All tokens together are bytes; each longest part that cannot become a character is a U+FFFD.
#[derive(Default)]
pub struct ByteLevel {
    pending: Vec<u8>, // a character's begin
}

impl Stage for ByteLevel {
    fn push(&mut self, token: String, out: &mut Vec<String>) -> Result<()> {
        byte_level(&token, &mut self.pending);
        let mut text = String::new();
        let mut at = 0;
        while let Some(chunk) = self.pending[at..].utf8_chunks().next() {
            text.push_str(chunk.valid());
            at += chunk.valid().len();
            let broken = chunk.invalid();
            // At the end a part may still become a character.
            let unfinished = from_utf8(broken).is_err_and(|error| error.error_len().is_none());
            if at + broken.len() == self.pending.len() && unfinished {
                break;
            }
            if !broken.is_empty() {
                text.push_str(REPLACEMENT);
            }
            at += broken.len();
        }
        self.pending.drain(..at);
        out.push(text);
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<String>) {
        if !self.pending.is_empty() {
            out.push(REPLACEMENT.to_owned());
        }
    }
}
