//! The grammars' functions of the C header.

use crate::abi::{guard, slice, Buffer, Ints, Owned, View};
use crate::error::{invalid, Result};
use crate::grammar::{Grammars, Limits, OutputMatcher};
use crate::grammar_source::{Kind, Source};
use crate::tokenizer::Tokenizer;

#[repr(C)]
pub struct ConstraintView {
    kind: i32,
    text: View,
    after: View,
}

fn kind(number: i32) -> Result<Kind> {
    Ok(match number {
        0 => Kind::JsonSchema,
        1 => Kind::Regex,
        2 => Kind::Lark,
        3 => Kind::Choice,
        4 => Kind::StructuralTag,
        5 => Kind::ToolCalls,
        other => return Err(invalid(format!("there is no constraint of kind {other}"))),
    })
}

unsafe fn ids(tokens: *const i32, num_tokens: usize) -> Result<Vec<u32>> {
    let id = |id: &i32| u32::try_from(*id).map_err(|_| invalid(format!("{id} is no token id")));
    slice(tokens, num_tokens).iter().map(id).collect()
}

/// # Safety
/// See kvasir_text.h, for this and every function below.
#[no_mangle]
pub unsafe extern "C" fn kvasir_text_grammars_new(
    tokenizer: *const Tokenizer,
    vocab_size: usize,
    eos_ids: *const i32,
    num_eos_ids: usize,
    limits: *const Limits,
    out: *mut *mut Grammars,
    error: *mut Buffer,
) -> i32 {
    guard(error, || {
        let eos_ids = slice(eos_ids, num_eos_ids);
        *out = Box::into_raw(Box::new(Grammars::new(tokenizer, vocab_size, eos_ids, *limits)?));
        Ok(())
    })
}

unsafe fn free<T>(handle: *mut T) {
    if !handle.is_null() {
        guard(std::ptr::null_mut(), || {
            drop(Box::from_raw(handle));
            Ok(())
        });
    }
}

/// # Safety
/// See kvasir_text.h.
#[no_mangle]
pub unsafe extern "C" fn kvasir_text_grammars_free(grammars: *mut Grammars) {
    free(grammars)
}

/// # Safety
/// See kvasir_text.h.
#[no_mangle]
pub unsafe extern "C" fn kvasir_text_grammar_compile(
    grammars: *const Grammars,
    constraint: *const ConstraintView,
    out: *mut *mut OutputMatcher,
    error: *mut Buffer,
) -> i32 {
    guard(error, || {
        let constraint = &*constraint;
        let source = Source {
            kind: kind(constraint.kind)?,
            text: constraint.text.text("the constraint")?,
            after: constraint.after.text("the text before the constraint")?,
        };
        *out = Box::into_raw(Box::new((*grammars).compile(&source)?));
        Ok(())
    })
}

/// # Safety
/// See kvasir_text.h.
#[no_mangle]
pub unsafe extern "C" fn kvasir_text_matcher_clone(
    matcher: *const OutputMatcher,
    out: *mut *mut OutputMatcher,
    error: *mut Buffer,
) -> i32 {
    guard(error, || {
        *out = Box::into_raw(Box::new((*matcher).clone()));
        Ok(())
    })
}

/// # Safety
/// See kvasir_text.h.
#[no_mangle]
pub unsafe extern "C" fn kvasir_text_matcher_copy(
    matcher: *const OutputMatcher,
    out: *mut *mut OutputMatcher,
    error: *mut Buffer,
) -> i32 {
    guard(error, || {
        *out = Box::into_raw(Box::new((*matcher).copy()));
        Ok(())
    })
}

/// # Safety
/// See kvasir_text.h.
#[no_mangle]
pub unsafe extern "C" fn kvasir_text_matcher_free(matcher: *mut OutputMatcher) {
    free(matcher)
}

/// # Safety
/// See kvasir_text.h.
#[no_mangle]
pub unsafe extern "C" fn kvasir_text_matcher_mask(
    matcher: *mut OutputMatcher,
    mask: *mut u32,
    num_words: usize,
    error: *mut Buffer,
) -> i32 {
    guard(error, || {
        let matcher = &mut *matcher;
        if num_words != matcher.mask_words() {
            let words = matcher.mask_words();
            return Err(invalid(format!("a mask has {words} words, not {num_words}")));
        }
        matcher.mask(std::slice::from_raw_parts_mut(mask, num_words))
    })
}

/// # Safety
/// See kvasir_text.h.
#[no_mangle]
pub unsafe extern "C" fn kvasir_text_matcher_commit(
    matcher: *mut OutputMatcher,
    tokens: *const i32,
    num_tokens: usize,
    error: *mut Buffer,
) -> i32 {
    guard(error, || (*matcher).commit(&ids(tokens, num_tokens)?))
}

/// # Safety
/// See kvasir_text.h.
#[no_mangle]
pub unsafe extern "C" fn kvasir_text_matcher_forced(
    matcher: *const OutputMatcher,
    tokens: *mut Ints,
    error: *mut Buffer,
) -> i32 {
    guard(error, || {
        Owned::put(tokens, (*matcher).forced());
        Ok(())
    })
}

unsafe fn answer(call: impl FnOnce() -> bool) -> bool {
    let mut answer = false;
    guard(std::ptr::null_mut(), || {
        answer = call();
        Ok(())
    });
    answer
}

/// # Safety
/// See kvasir_text.h.
#[no_mangle]
pub unsafe extern "C" fn kvasir_text_matcher_is_accepting(matcher: *mut OutputMatcher) -> bool {
    answer(|| (*matcher).is_accepting())
}

/// # Safety
/// See kvasir_text.h.
#[no_mangle]
pub unsafe extern "C" fn kvasir_text_matcher_is_complete(matcher: *const OutputMatcher) -> bool {
    answer(|| (*matcher).is_complete())
}
