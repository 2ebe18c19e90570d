//! The border to C: views in, owned buffers out, and a guard that lets no panic through.

use std::any::Any;
use std::mem::ManuallyDrop;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Once;

use crate::error::{invalid, Code, Error, Result};

#[repr(C)]
#[derive(Clone, Copy)]
pub struct View {
    pub data: *const u8,
    pub size: usize,
}

impl View {
    /// # Safety
    /// `data` points to `size` bytes that live and do not change for `'a`; null when `size` is 0.
    pub unsafe fn bytes<'a>(self) -> &'a [u8] {
        slice(self.data, self.size)
    }

    /// The bytes as text; `what` names them in the error.
    ///
    /// # Safety
    /// As `bytes`.
    pub unsafe fn text<'a>(self, what: &str) -> Result<&'a str> {
        let bytes = self.bytes();
        std::str::from_utf8(bytes).map_err(|error| {
            invalid(format!(
                "{what} is not valid UTF-8 at byte {} of {}",
                error.valid_up_to(),
                bytes.len()
            ))
        })
    }
}

/// # Safety
/// `data` points to `size` elements that live and do not change for `'a`; null when `size` is 0.
pub unsafe fn slice<'a, T>(data: *const T, size: usize) -> &'a [T] {
    if size == 0 || data.is_null() {
        return &[];
    }
    std::slice::from_raw_parts(data, size)
}

/// A vector on its way out: the caller gives it back to the function that frees its kind.
#[repr(C)]
pub struct Owned<T> {
    pub data: *mut T,
    pub size: usize,
    pub capacity: usize,
}

pub type Buffer = Owned<u8>;
pub type Ints = Owned<i32>;

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub begin: usize,
    pub end: usize,
}

pub type Spans = Owned<Span>;

impl<T> Owned<T> {
    /// # Safety
    /// `out` is null or points to a structure that owns nothing.
    pub unsafe fn put(out: *mut Self, vector: Vec<T>) {
        if out.is_null() {
            return;
        }
        let mut vector = ManuallyDrop::new(vector);
        *out = Owned { data: vector.as_mut_ptr(), size: vector.len(), capacity: vector.capacity() };
    }

    unsafe fn free(out: *mut Self) {
        if out.is_null() || (*out).data.is_null() {
            return;
        }
        drop(Vec::from_raw_parts((*out).data, (*out).size, (*out).capacity));
        *out = Owned { data: std::ptr::null_mut(), size: 0, capacity: 0 };
    }
}

/// # Safety
/// `buffer` is null, zeroed, or was filled by a call of this library.
#[no_mangle]
pub unsafe extern "C" fn kvasir_text_buffer_free(buffer: *mut Buffer) {
    Owned::free(buffer)
}

/// # Safety
/// As `kvasir_text_buffer_free`.
#[no_mangle]
pub unsafe extern "C" fn kvasir_text_ints_free(ints: *mut Ints) {
    Owned::free(ints)
}

/// # Safety
/// As `kvasir_text_buffer_free`.
#[no_mangle]
pub unsafe extern "C" fn kvasir_text_spans_free(spans: *mut Spans) {
    Owned::free(spans)
}

fn panic_message(panic: Box<dyn Any + Send>) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without a message");
    text.to_owned()
}

/// Runs `call` for one function of the header; its error, or its panic, goes into `error`.
///
/// # Safety
/// `error` is null or points to a buffer that owns nothing.
pub unsafe fn guard(error: *mut Buffer, call: impl FnOnce() -> Result<()>) -> i32 {
    match catch(call) {
        Ok(()) => 0,
        Err(Error { code, message }) => {
            Buffer::put(error, message.into_bytes());
            code as i32
        }
    }
}

/// `call`'s result, with a panic as an error. For an input that a crate trips over, a panic is an
/// answer; so the default hook, which prints, is taken out.
pub fn catch<T>(call: impl FnOnce() -> Result<T>) -> Result<T> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        Err(Error { code: Code::Internal, message: panic_message(panic) })
    })
}
