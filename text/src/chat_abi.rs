//! The chat templates' functions of the C header.

use crate::abi::{guard, slice, Buffer, Owned, Spans, View};
use crate::chat_template::Chat;
use crate::civil_time::CivilTime;
use crate::error::Result;
use crate::tokenizer::Tokenizer;

#[repr(C)]
pub struct NamedTemplateView {
    name: View,
    source: View,
}

/// # Safety
/// See kvasir_text.h, for this and every function below.
#[no_mangle]
pub unsafe extern "C" fn kvasir_text_chat_new(
    files: *const NamedTemplateView,
    num_files: usize,
    tokenizer_config_json: View,
    chat_template_json: View,
    tokenizer: *const Tokenizer,
    chat: *mut *mut Chat,
    error: *mut Buffer,
) -> i32 {
    guard(error, || {
        let files = slice(files, num_files)
            .iter()
            .map(|file| Ok((file.name.text("a template's name")?, file.source.text("template")?)))
            .collect::<Result<Vec<_>>>()?;
        let made = Chat::new(
            &files,
            tokenizer_config_json.text("tokenizer_config.json")?,
            chat_template_json.text("chat_template.json")?,
            tokenizer.as_ref(),
        )?;
        *chat = Box::into_raw(Box::new(made));
        Ok(())
    })
}

/// # Safety
/// See kvasir_text.h.
#[no_mangle]
pub unsafe extern "C" fn kvasir_text_chat_free(chat: *mut Chat) {
    if !chat.is_null() {
        guard(std::ptr::null_mut(), || {
            drop(Box::from_raw(chat));
            Ok(())
        });
    }
}

/// # Safety
/// See kvasir_text.h.
#[no_mangle]
pub unsafe extern "C" fn kvasir_text_chat_render(
    chat: *const Chat,
    conversation_json: View,
    now: View,
    prompt: *mut Buffer,
    plain: *mut Spans,
    error: *mut Buffer,
) -> i32 {
    guard(error, || {
        let now = CivilTime::parse(now.text("the local time")?)?;
        let conversation = conversation_json.text("the conversation")?;
        let rendering = (*chat).render(conversation, now, !plain.is_null())?;
        Owned::put(prompt, rendering.text.into_bytes());
        Owned::put(plain, rendering.plain);
        Ok(())
    })
}

/// # Safety
/// See kvasir_text.h.
#[no_mangle]
pub unsafe extern "C" fn kvasir_text_check_time(time: View, error: *mut Buffer) -> i32 {
    guard(error, || CivilTime::parse(time.text("the local time")?).map(|_| ()))
}
