//! The tokenizer's functions of the C header.

use std::ffi::{c_char, c_void};

use crate::abi::{guard, slice, Buffer, Ints, Owned, Span, View};
use crate::error::{invalid, Result};
use crate::gguf_splits;
use crate::gguf_vocabulary::{self, Vocabulary};
use crate::sentencepiece;
use crate::tokenizer::{EncodeOptions, Tokenizer};

#[repr(C)]
pub struct TokenTableView {
    num_tokens: usize,
    names: *const c_char,
    name_offsets: *const u32,
    bytes: *const c_char,
    byte_offsets: *const u32,
    flags: *const u8,
    bos_id: i32,
    eos_id: i32,
}

#[repr(C)]
pub struct EncodeOptionsView {
    add_special_tokens: bool,
    parse_special_tokens: bool,
    plain: *const Span,
    num_plain: usize,
    cancelled: Option<unsafe extern "C" fn(*mut c_void) -> bool>,
    context: *mut c_void,
}

#[repr(C)]
pub struct VocabularyView {
    model: View,
    pre: View,
    tokens: *const View,
    scores: *const f32,
    token_types: *const i32,
    merges: *const View,
    precompiled_charsmap: View,
    num_tokens: usize,
    num_scores: usize,
    num_token_types: usize,
    num_merges: usize,
    bos_id: i32,
    eos_id: i32,
    unk_id: i32,
    sep_id: i32,
    cls_id: i32,
    pad_id: i32,
    mask_id: i32,
    add_bos: i8,
    add_eos: i8,
    add_space_prefix: i8,
    remove_extra_whitespaces: i8,
    ignore_merges: i8,
}

unsafe fn make(
    out: *mut *mut Tokenizer,
    error: *mut Buffer,
    make: impl FnOnce() -> Result<Tokenizer>,
) -> i32 {
    guard(error, || {
        *out = Box::into_raw(Box::new(make()?));
        Ok(())
    })
}

/// # Safety
/// See kvasir_text.h, for this and every function below.
#[no_mangle]
pub unsafe extern "C" fn kvasir_text_tokenizer_from_json(
    tokenizer_json: View,
    config_json: View,
    out: *mut *mut Tokenizer,
    error: *mut Buffer,
) -> i32 {
    make(out, error, || {
        Tokenizer::from_json(tokenizer_json.bytes(), config_json.text("tokenizer_config.json")?)
    })
}

/// # Safety
/// See kvasir_text.h.
#[no_mangle]
pub unsafe extern "C" fn kvasir_text_tokenizer_from_sentencepiece(
    model: View,
    config_json: View,
    out: *mut *mut Tokenizer,
    error: *mut Buffer,
) -> i32 {
    make(out, error, || {
        sentencepiece::tokenizer(model.bytes(), config_json.text("tokenizer_config.json")?)
    })
}

/// # Safety
/// See kvasir_text.h.
#[no_mangle]
pub unsafe extern "C" fn kvasir_text_tokenizer_from_vocabulary(
    view: *const VocabularyView,
    out: *mut *mut Tokenizer,
    error: *mut Buffer,
) -> i32 {
    make(out, error, || {
        let view = &*view;
        let texts = |data: *const View, size: usize, what: &str| -> Result<Vec<&str>> {
            slice(data, size).iter().map(|text| text.text(what)).collect()
        };
        let flag = |flag: i8| (flag >= 0).then_some(flag != 0);
        let id = |id: i32| u32::try_from(id).ok();
        gguf_vocabulary::tokenizer(&Vocabulary {
            model: view.model.text("the vocabulary's model")?,
            pre: view.pre.text("the vocabulary's pre")?,
            tokens: texts(view.tokens, view.num_tokens, "a token")?,
            scores: slice(view.scores, view.num_scores),
            token_types: slice(view.token_types, view.num_token_types),
            merges: texts(view.merges, view.num_merges, "a merge")?,
            precompiled_charsmap: view.precompiled_charsmap.bytes(),
            bos_id: id(view.bos_id),
            eos_id: id(view.eos_id),
            unk_id: id(view.unk_id),
            sep_id: id(view.sep_id),
            cls_id: id(view.cls_id),
            pad_id: id(view.pad_id),
            mask_id: id(view.mask_id),
            add_bos: flag(view.add_bos),
            add_eos: flag(view.add_eos),
            add_space_prefix: flag(view.add_space_prefix),
            remove_extra_whitespaces: flag(view.remove_extra_whitespaces),
            ignore_merges: flag(view.ignore_merges),
        })
    })
}

/// # Safety
/// See kvasir_text.h.
#[no_mangle]
pub unsafe extern "C" fn kvasir_text_split_name(
    patterns: *const View,
    num_patterns: usize,
    gpt2_pattern: bool,
    ignore_merges: bool,
) -> View {
    let mut name = "";
    guard(std::ptr::null_mut(), || {
        let texts: Result<Vec<&str>> =
            slice(patterns, num_patterns).iter().map(|text| text.text("a pattern")).collect();
        name = gguf_splits::name_of(&texts?, gpt2_pattern, ignore_merges).unwrap_or("");
        Ok(())
    });
    View { data: name.as_ptr(), size: name.len() }
}

/// # Safety
/// See kvasir_text.h.
#[no_mangle]
pub unsafe extern "C" fn kvasir_text_tokenizer_free(tokenizer: *mut Tokenizer) {
    if !tokenizer.is_null() {
        guard(std::ptr::null_mut(), || {
            drop(Box::from_raw(tokenizer));
            Ok(())
        });
    }
}

/// # Safety
/// See kvasir_text.h.
#[no_mangle]
pub unsafe extern "C" fn kvasir_text_tokenizer_table(tokenizer: *const Tokenizer) -> TokenTableView {
    let table = &(*tokenizer).table;
    TokenTableView {
        num_tokens: table.flags.len(),
        names: table.names.as_ptr().cast(),
        name_offsets: table.name_offsets.as_ptr(),
        bytes: table.bytes.as_ptr().cast(),
        byte_offsets: table.byte_offsets.as_ptr(),
        flags: table.flags.as_ptr(),
        bos_id: table.bos_id,
        eos_id: table.eos_id,
    }
}

/// # Safety
/// See kvasir_text.h.
#[no_mangle]
pub unsafe extern "C" fn kvasir_text_token_id(tokenizer: *const Tokenizer, name: View) -> i32 {
    let mut id = -1;
    guard(std::ptr::null_mut(), || {
        let found = (*tokenizer).token_id(name.text("a token's name")?);
        id = found.and_then(|id| i32::try_from(id).ok()).unwrap_or(-1);
        Ok(())
    });
    id
}

/// # Safety
/// See kvasir_text.h.
#[no_mangle]
pub unsafe extern "C" fn kvasir_text_encode(
    tokenizer: *const Tokenizer,
    text: View,
    options: *const EncodeOptionsView,
    ids: *mut Ints,
    error: *mut Buffer,
) -> i32 {
    guard(error, || {
        let text = text.text("text")?;
        let options = &*options;
        let plain = slice(options.plain, options.num_plain);
        if plain.windows(2).any(|pair| pair[0].end > pair[1].begin) {
            return Err(invalid("the plain spans are not in ascending order"));
        }
        let ask = || match options.cancelled {
            Some(cancelled) => cancelled(options.context),
            None => false,
        };
        let encoded = (*tokenizer).encode(
            text,
            &EncodeOptions {
                add_special_tokens: options.add_special_tokens,
                parse_special_tokens: options.parse_special_tokens,
                plain,
                cancelled: &ask,
            },
        )?;
        Owned::put(ids, encoded);
        Ok(())
    })
}

/// # Safety
/// See kvasir_text.h.
#[no_mangle]
pub unsafe extern "C" fn kvasir_text_decode(
    tokenizer: *const Tokenizer,
    ids: *const i32,
    num_ids: usize,
    skip_special_tokens: bool,
    text: *mut Buffer,
    error: *mut Buffer,
) -> i32 {
    guard(error, || {
        let decoded = (*tokenizer).decode(slice(ids, num_ids), skip_special_tokens)?;
        Owned::put(text, decoded.into_bytes());
        Ok(())
    })
}
