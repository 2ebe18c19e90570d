//! What is known of each id: its name, what it adds to running text, and its kind.

use tokenizers::tokenizer::{Decoder, Model};
use tokenizers::DecoderWrapper;

use crate::error::{invalid, Result};
use crate::tokenizer::{Library, MAX_VOCAB_SIZE};
use crate::tokenizer_config::TokenizerConfig;

pub const PRESENT: u8 = 1;
pub const SPECIAL: u8 = 2;
pub const ADDED: u8 = 4;

/// All names and all bytes together; a hostile decoder could blow them up.
const MAX_TABLE_BYTES: usize = 1 << 30;

pub struct TokenTable {
    pub names: Vec<u8>,
    pub name_offsets: Vec<u32>, // [size + 1]
    pub bytes: Vec<u8>,
    pub byte_offsets: Vec<u32>, // [size + 1]
    pub flags: Vec<u8>,         // [size]
    pub bos_id: i32,
    pub eos_id: i32,
}

impl TokenTable {
    /// Empty for holes and ids out of range.
    pub fn name(&self, id: i32) -> &str {
        let offset = |id: usize| self.name_offsets.get(id).map(|offset| *offset as usize);
        let id = usize::try_from(id).unwrap_or(usize::MAX - 1);
        let (Some(begin), Some(end)) = (offset(id), offset(id + 1)) else { return "" };
        std::str::from_utf8(&self.names[begin..end]).unwrap_or("")
    }

    pub fn is_special(&self, id: u32) -> bool {
        self.flags.get(id as usize).is_some_and(|flags| flags & SPECIAL != 0)
    }

    pub fn new(library: &Library, config: &TokenizerConfig) -> Result<TokenTable> {
        let added = library.get_added_vocabulary().get_added_tokens_decoder();
        let model = library.get_model();
        let model_vocab = model.get_vocab();
        let size = added.keys().chain(model_vocab.values()).max().map_or(0, |id| id.saturating_add(1));
        if size == 0 {
            return Err(invalid("the vocabulary is empty"));
        }
        if size > MAX_VOCAB_SIZE {
            return Err(invalid(format!(
                "the vocabulary has the id {}; ids must be below {MAX_VOCAB_SIZE}",
                size - 1
            )));
        }
        drop(model_vocab);
        let spelling = Spelling::new(library);
        let mut table = TokenTable {
            names: Vec::new(),
            name_offsets: vec![0],
            bytes: Vec::new(),
            byte_offsets: vec![0],
            flags: Vec::with_capacity(size as usize),
            bos_id: -1,
            eos_id: -1,
        };
        for id in 0..size {
            let mut flags = 0;
            let name = match added.get(&id) {
                Some(token) => {
                    flags |= PRESENT | ADDED | if token.special { SPECIAL } else { 0 };
                    Some(token.content.clone())
                }
                None => model.id_to_token(id),
            };
            if let Some(name) = name {
                flags |= PRESENT;
                table.names.extend_from_slice(name.as_bytes());
                // Added tokens that are sought in normalised text are decoded from that form.
                spelling.append(library.id_to_token(id).unwrap_or(name), &mut table.bytes);
            }
            if table.names.len().max(table.bytes.len()) > MAX_TABLE_BYTES {
                return Err(invalid(format!(
                    "the tokens have more than {MAX_TABLE_BYTES} bytes together"
                )));
            }
            table.name_offsets.push(table.names.len() as u32);
            table.byte_offsets.push(table.bytes.len() as u32);
            table.flags.push(flags);
        }
        let id_of = |name: &Option<String>| {
            name.as_deref().and_then(|name| library.token_to_id(name)).map_or(-1, |id| id as i32)
        };
        table.bos_id = id_of(&config.bos_token);
        table.eos_id = id_of(&config.eos_token);
        Ok(table)
    }
}

/// How the decoder spells a token in running text.
struct Spelling<'a> {
    decoder: Option<&'a DecoderWrapper>,
    byte_level: bool,
    byte_fallback: bool,
    /// A token that was decoded before, and its text: what the next adds is its own. Without, some
    /// decoders take a token for the first and drop its blank.
    anchor: (String, String),
}

fn any_decoder(decoder: &DecoderWrapper, is: &dyn Fn(&DecoderWrapper) -> bool) -> bool {
    match decoder {
        DecoderWrapper::Sequence(sequence) => {
            sequence.get_decoders().iter().any(|part| any_decoder(part, is))
        }
        part => is(part),
    }
}

/// The byte that a character of the byte-level alphabet stands for (GPT-2's `bytes_to_unicode`).
fn byte_of(character: char) -> Option<u8> {
    let code = character as u32;
    let is_itself = |byte: u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    if code < 256 {
        return is_itself(code).then_some(code as u8);
    }
    (0..256).filter(|byte| !is_itself(*byte)).nth(code as usize - 256).map(|byte| byte as u8)
}

/// The bytes of a name in the byte-level alphabet; a name with other characters is text.
pub fn byte_level(name: &str, out: &mut Vec<u8>) {
    match name.chars().map(byte_of).collect::<Option<Vec<u8>>>() {
        Some(bytes) => out.extend(bytes),
        None => out.extend_from_slice(name.as_bytes()),
    }
}

/// The byte of a name of the form "<0xXX>".
pub fn fallback_byte(name: &str) -> Option<u8> {
    let digits = name.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

impl<'a> Spelling<'a> {
    fn new(library: &'a Library) -> Spelling<'a> {
        let decoder = library.get_decoder();
        let has = |is: &dyn Fn(&DecoderWrapper) -> bool| {
            decoder.is_some_and(|decoder| any_decoder(decoder, is))
        };
        let mut spelling = Spelling {
            decoder,
            byte_level: has(&|part| matches!(part, DecoderWrapper::ByteLevel(_))),
            byte_fallback: has(&|part| matches!(part, DecoderWrapper::ByteFallback(_))),
            anchor: Default::default(),
        };
        let anchor = ["a", "\u{2581}a", "\u{2581}the", "the", "e"].into_iter().find(|name| {
            let text = spelling.decode(vec![(*name).to_owned()]);
            library.token_to_id(name).is_some() && !text.is_empty()
        });
        if let Some(name) = anchor {
            spelling.anchor = (name.to_owned(), spelling.decode(vec![name.to_owned()]));
        }
        spelling
    }

    fn decode(&self, tokens: Vec<String>) -> String {
        match self.decoder {
            Some(decoder) => decoder.decode(tokens).unwrap_or_default(),
            None => tokens.join(" "),
        }
    }

    fn append(&self, token: String, out: &mut Vec<u8>) {
        if self.byte_level {
            return byte_level(&token, out);
        }
        if let (true, Some(byte)) = (self.byte_fallback, fallback_byte(&token)) {
            out.push(byte);
            return;
        }
        if self.anchor.0.is_empty() {
            out.extend_from_slice(self.decode(vec![token]).as_bytes());
            return;
        }
        let text = self.decode(vec![self.anchor.0.clone(), token]);
        out.extend_from_slice(text.strip_prefix(&self.anchor.1).unwrap_or(&text).as_bytes());
    }
}
