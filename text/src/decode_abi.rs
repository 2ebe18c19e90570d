//! The functions of decode_stream.h.

use crate::abi::{guard, slice, Buffer, Owned};
use crate::decode_stream::DecodeStream;
use crate::tokenizer::Tokenizer;

/// # Safety
/// See decode_stream.h, for this and every function below: the tokenizer outlives the stream.
#[no_mangle]
pub unsafe extern "C" fn kvasir_text_stream_new(
    tokenizer: *const Tokenizer,
    out: *mut *mut DecodeStream<'static>,
    error: *mut Buffer,
) -> i32 {
    guard(error, || {
        *out = Box::into_raw(Box::new(DecodeStream::new(&*tokenizer)));
        Ok(())
    })
}

/// # Safety
/// See decode_stream.h.
#[no_mangle]
pub unsafe extern "C" fn kvasir_text_stream_free(stream: *mut DecodeStream<'static>) {
    if !stream.is_null() {
        guard(std::ptr::null_mut(), || {
            drop(Box::from_raw(stream));
            Ok(())
        });
    }
}

/// # Safety
/// See decode_stream.h.
#[no_mangle]
pub unsafe extern "C" fn kvasir_text_stream_prompt(
    stream: *mut DecodeStream<'static>,
    ids: *const i32,
    num_ids: usize,
    error: *mut Buffer,
) -> i32 {
    guard(error, || (*stream).append_prompt(slice(ids, num_ids)))
}

/// # Safety
/// See decode_stream.h.
#[no_mangle]
pub unsafe extern "C" fn kvasir_text_stream_append(
    stream: *mut DecodeStream<'static>,
    id: i32,
    text: *mut Buffer,
    error: *mut Buffer,
) -> i32 {
    guard(error, || {
        Owned::put(text, (*stream).append(id)?.into_bytes());
        Ok(())
    })
}

/// # Safety
/// See decode_stream.h.
#[no_mangle]
pub unsafe extern "C" fn kvasir_text_stream_end(
    stream: *mut DecodeStream<'static>,
    text: *mut Buffer,
    error: *mut Buffer,
) -> i32 {
    guard(error, || {
        Owned::put(text, (*stream).end()?.into_bytes());
        Ok(())
    })
}
