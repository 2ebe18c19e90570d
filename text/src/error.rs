//! The error of every fallible function here: a code of the C header and a message for people.

use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Code {
    Cancelled = 1,
    InvalidArgument = 3,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Internal = 13,
}

#[derive(Debug)]
pub struct Error {
    pub code: Code,
    pub message: String,
}

pub type Result<T> = std::result::Result<T, Error>;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

pub fn invalid(message: impl Into<String>) -> Error {
    Error { code: Code::InvalidArgument, message: message.into() }
}

pub fn unimplemented(message: impl Into<String>) -> Error {
    Error { code: Code::Unimplemented, message: message.into() }
}

pub fn exhausted(message: impl Into<String>) -> Error {
    Error { code: Code::ResourceExhausted, message: message.into() }
}

pub fn cancelled() -> Error {
    Error { code: Code::Cancelled, message: "cancelled".to_owned() }
}

/// At most `limit` bytes of `text`, for messages.
pub fn shown(text: &str, limit: usize) -> String {
    let mut end = limit.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].escape_debug().to_string()
}
