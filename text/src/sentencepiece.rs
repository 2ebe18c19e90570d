//! A SentencePiece `tokenizer.model`, read into the library's parts so that they encode as
//! SentencePiece does. The parts are those that transformers' converter makes of such a file.

use std::collections::HashMap;

use ahash::AHashMap;
use serde_json::{json, Value};
use tokenizers::models::bpe::BPE;
use tokenizers::models::unigram::Unigram;
use tokenizers::{AddedToken, ModelWrapper};

use crate::error::{invalid, unimplemented, Error, Result};
use crate::tokenizer::{assemble, Parts, Tokenizer, MAX_VOCAB_SIZE};
use crate::tokenizer_config::parse_tokenizer_config;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PieceKind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

impl PieceKind {
    /// The numbers of sentencepiece_model.proto, which GGUF took over.
    pub fn from_number(number: i64) -> Option<PieceKind> {
        Some(match number {
            1 => PieceKind::Normal,
            2 => PieceKind::Unknown,
            3 => PieceKind::Control,
            4 => PieceKind::UserDefined,
            5 => PieceKind::Unused,
            6 => PieceKind::Byte,
            _ => return None,
        })
    }
}

#[derive(Clone, Debug)]
pub struct Piece {
    pub text: String,
    pub score: f32,
    pub kind: PieceKind,
}

/// The fields of a ModelProto that decide how it encodes, with the defaults of its definition.
#[derive(Debug)]
pub struct SentencePiece {
    pub pieces: Vec<Piece>,
    pub model_type: i64, // 1 Unigram, 2 BPE
    pub byte_fallback: bool,
    pub unk_id: i64,
    pub bos_id: i64,
    pub eos_id: i64,
    pub unk_piece: String,
    pub precompiled_charsmap: Vec<u8>,
    pub add_dummy_prefix: bool,
    pub remove_extra_whitespaces: bool,
    pub escape_whitespaces: bool,
}

impl Default for SentencePiece {
    fn default() -> Self {
        SentencePiece {
            pieces: Vec::new(),
            model_type: 1,
            byte_fallback: false,
            unk_id: 0,
            bos_id: 1,
            eos_id: 2,
            unk_piece: "<unk>".to_owned(),
            precompiled_charsmap: Vec::new(),
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
            escape_whitespaces: true,
        }
    }
}

/// One field of a protobuf message.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
    Other,
}

/// The fields of a serialised message, in order.
struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (first, rest) = self.rest.split_first().ok_or_else(cut_off)?;
            self.rest = rest;
            value |= u64::from(first & 0x7F) << shift;
            if first & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(invalid("tokenizer.model: a number has more than ten bytes"))
    }

    fn take(&mut self, size: u64) -> Result<&'a [u8]> {
        let size = usize::try_from(size).map_err(|_| cut_off())?;
        if size > self.rest.len() {
            return Err(cut_off());
        }
        let (taken, rest) = self.rest.split_at(size);
        self.rest = rest;
        Ok(taken)
    }

    fn next(&mut self) -> Result<Option<(u64, Field<'a>)>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let field = match key & 7 {
            0 => Field::Number(self.varint()?),
            1 => self.take(8).map(|_| Field::Other)?,
            2 => {
                let size = self.varint()?;
                Field::Bytes(self.take(size)?)
            }
            5 => Field::Fixed32(u32::from_le_bytes(self.take(4)?.try_into().unwrap())),
            kind => {
                return Err(invalid(format!(
                    "tokenizer.model is not a SentencePiece model: a field of kind {kind}"
                )))
            }
        };
        Ok(Some((key >> 3, field)))
    }
}

fn cut_off() -> Error {
    invalid("tokenizer.model is cut off, or is not a SentencePiece model")
}

fn text(bytes: &[u8]) -> Result<String> {
    String::from_utf8(bytes.to_vec())
        .map_err(|_| invalid("tokenizer.model has a piece that is not valid UTF-8"))
}

fn parse_piece(bytes: &[u8]) -> Result<Piece> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: PieceKind::Normal };
    let mut fields = Fields { rest: bytes };
    while let Some((number, field)) = fields.next()? {
        match (number, field) {
            (1, Field::Bytes(bytes)) => piece.text = text(bytes)?,
            (2, Field::Fixed32(bits)) => piece.score = f32::from_bits(bits),
            (3, Field::Number(kind)) => {
                piece.kind = PieceKind::from_number(kind as i64).ok_or_else(|| {
                    invalid(format!("tokenizer.model has a piece of the unknown type {kind}"))
                })?
            }
            _ => {}
        }
    }
    Ok(piece)
}

impl SentencePiece {
    pub fn parse(bytes: &[u8]) -> Result<SentencePiece> {
        let mut model = SentencePiece::default();
        let mut fields = Fields { rest: bytes };
        while let Some((number, field)) = fields.next()? {
            match (number, field) {
                (1, Field::Bytes(piece)) => {
                    if model.pieces.len() >= MAX_VOCAB_SIZE as usize {
                        return Err(invalid(format!(
                            "tokenizer.model has more than {MAX_VOCAB_SIZE} pieces"
                        )));
                    }
                    model.pieces.push(parse_piece(piece)?)
                }
                (2, Field::Bytes(spec)) => model.read_trainer_spec(spec)?,
                (3, Field::Bytes(spec)) => model.read_normalizer_spec(spec)?,
                _ => {}
            }
        }
        if model.pieces.is_empty() {
            return Err(invalid("tokenizer.model has no pieces: it is not a SentencePiece model"));
        }
        Ok(model)
    }

    fn read_trainer_spec(&mut self, bytes: &[u8]) -> Result<()> {
        let mut fields = Fields { rest: bytes };
        while let Some((number, field)) = fields.next()? {
            match (number, field) {
                (3, Field::Number(kind)) => self.model_type = kind as i64,
                (35, Field::Number(flag)) => self.byte_fallback = flag != 0,
                (40, Field::Number(id)) => self.unk_id = i64::from(id as i32),
                (41, Field::Number(id)) => self.bos_id = i64::from(id as i32),
                (42, Field::Number(id)) => self.eos_id = i64::from(id as i32),
                (45, Field::Bytes(piece)) => self.unk_piece = text(piece)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn read_normalizer_spec(&mut self, bytes: &[u8]) -> Result<()> {
        let mut fields = Fields { rest: bytes };
        while let Some((number, field)) = fields.next()? {
            match (number, field) {
                (2, Field::Bytes(map)) => self.precompiled_charsmap = map.to_vec(),
                (3, Field::Number(flag)) => self.add_dummy_prefix = flag != 0,
                (4, Field::Number(flag)) => self.remove_extra_whitespaces = flag != 0,
                (5, Field::Number(flag)) => self.escape_whitespaces = flag != 0,
                _ => {}
            }
        }
        Ok(())
    }

    fn of_kind(&self, kind: PieceKind) -> impl Iterator<Item = &Piece> {
        self.pieces.iter().filter(move |piece| piece.kind == kind)
    }

    fn piece_at(&self, id: i64) -> Option<&Piece> {
        usize::try_from(id).ok().and_then(|id| self.pieces.get(id))
    }

    pub fn model(&self) -> Result<ModelWrapper> {
        match self.model_type {
            1 => self.unigram(),
            2 => self.bpe(),
            other => Err(unimplemented(format!(
                "tokenizer.model is of SentencePiece's type {other}; Unigram (1) and BPE (2) are \
                 supported"
            ))),
        }
    }

    fn unigram(&self) -> Result<ModelWrapper> {
        let vocab = self.pieces.iter().map(|piece| (piece.text.clone(), f64::from(piece.score)));
        let unk_id = usize::try_from(self.unk_id).ok();
        let unigram = Unigram::from(vocab.collect(), unk_id, self.byte_fallback)
            .map_err(|error| invalid(error.to_string()))?;
        Ok(ModelWrapper::Unigram(unigram))
    }

    fn bpe(&self) -> Result<ModelWrapper> {
        let vocab = self.pieces.iter().zip(0u32..).map(|(piece, id)| (piece.text.clone(), id));
        let has_unknown = self.pieces.iter().any(|piece| piece.text == self.unk_piece);
        let mut builder = BPE::builder()
            .vocab_and_merges(vocab.collect::<AHashMap<_, _>>(), merges_by_score(&self.pieces))
            .fuse_unk(true)
            .byte_fallback(self.byte_fallback)
            .ignore_merges(self.of_kind(PieceKind::UserDefined).next().is_some());
        if has_unknown {
            builder = builder.unk_token(self.unk_piece.clone());
        }
        Ok(ModelWrapper::BPE(builder.build().map_err(|error| invalid(error.to_string()))?))
    }

    /// `legacy`: a blank goes in front of every part between special tokens, not only of the first.
    fn parts(&self, legacy: bool) -> Result<Parts> {
        let mut normalizers = Vec::new();
        if !self.precompiled_charsmap.is_empty() {
            normalizers.push(precompiled(&self.precompiled_charsmap));
        }
        if self.remove_extra_whitespaces {
            normalizers.push(replace_regex(r"\A +| +\z", ""));
            normalizers.push(replace_regex(" {2,}", " "));
        }
        if self.escape_whitespaces {
            normalizers.push(replace_string(" ", "▁"));
        }
        let mut pre_tokenizers = Vec::new();
        if self.add_dummy_prefix {
            if legacy {
                // Metaspace gives no blank to a text that begins with one; SentencePiece does.
                normalizers.push(replace_regex(r"\A▁", "▁▁"));
            }
            let scheme = if legacy { "always" } else { "first" };
            pre_tokenizers.push(json!({"type": "Metaspace", "replacement": "▁",
                                       "prepend_scheme": scheme, "split": false}));
        }
        // User-defined pieces are never merged with anything: they stand alone from here on.
        let mut alone: Vec<&str> =
            self.of_kind(PieceKind::UserDefined).map(|piece| piece.text.as_str()).collect();
        alone.retain(|piece| !piece.is_empty());
        if !alone.is_empty() {
            alone.sort_by_key(|piece| std::cmp::Reverse(piece.len()));
            let pattern: Vec<String> = alone.into_iter().map(escape_regex).collect();
            pre_tokenizers.push(split_isolated(&pattern.join("|")));
        }
        let mut decoders = vec![replace_string("▁", " ")];
        if self.byte_fallback {
            decoders.push(json!({"type": "ByteFallback"}));
        }
        decoders.push(json!({"type": "Fuse"}));
        if self.add_dummy_prefix {
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        let added = |piece: &Piece| AddedToken::from(piece.text.clone(), true).normalized(false);
        Ok(Parts {
            model: self.model()?,
            normalizer: sequence("normalizers", normalizers),
            pre_tokenizer: sequence("pretokenizers", pre_tokenizers),
            decoder: sequence("decoders", decoders),
            added_tokens: self
                .of_kind(PieceKind::Unknown)
                .chain(self.of_kind(PieceKind::Control))
                .map(added)
                .collect(),
        })
    }
}

/// BPE's merges, best first, from the scores of what they make. Pieces of equal score merge in the
/// order of their ids.
pub fn merges_by_score(pieces: &[Piece]) -> Vec<(String, String)> {
    let normal: HashMap<&str, (f32, usize)> = pieces
        .iter()
        .enumerate()
        .filter(|(_, piece)| piece.kind == PieceKind::Normal)
        .map(|(id, piece)| (piece.text.as_str(), (piece.score, id)))
        .collect();
    let mut ranked: Vec<(f32, usize, &str, &str)> = Vec::new();
    for (text, (score, id)) in &normal {
        for (cut, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(cut);
            if normal.contains_key(left) && normal.contains_key(right) {
                ranked.push((*score, *id, left, right));
            }
        }
    }
    ranked.sort_by(|a, b| {
        b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(b.2)).then(a.3.cmp(b.3))
    });
    ranked.into_iter().map(|(_, _, left, right)| (left.to_owned(), right.to_owned())).collect()
}

pub fn replace_string(pattern: &str, content: &str) -> Value {
    json!({"type": "Replace", "pattern": {"String": pattern}, "content": content})
}

pub fn replace_regex(pattern: &str, content: &str) -> Value {
    json!({"type": "Replace", "pattern": {"Regex": pattern}, "content": content})
}

pub fn split_isolated(pattern: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
}

pub fn sequence(key: &str, parts: Vec<Value>) -> Value {
    if parts.is_empty() {
        return Value::Null;
    }
    json!({"type": "Sequence", key: parts})
}

pub fn precompiled(map: &[u8]) -> Value {
    json!({"type": "Precompiled", "precompiled_charsmap": base64(map)})
}

fn escape_regex(text: &str) -> String {
    let mut escaped = String::new();
    for character in text.chars() {
        if character.is_ascii() && !character.is_ascii_alphanumeric() {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word = (0..3).fold(0, |word, i| word << 8 | u32::from(*group.get(i).unwrap_or(&0)));
        for i in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * i)) as usize & 63];
            out.push(if i <= group.len() { digit as char } else { '=' });
        }
    }
    out
}

pub fn tokenizer(model: &[u8], config_json: &str) -> Result<Tokenizer> {
    let config = parse_tokenizer_config(config_json)?;
    let mut file = SentencePiece::parse(model)?;
    if let Some(prefix) = config.add_prefix_space {
        file.add_dummy_prefix = prefix;
    }
    let parts = file.parts(config.legacy.unwrap_or(false))?;
    let (add_bos, add_eos) = (config.add_bos_token, config.add_eos_token);
    let mut tokenizer = assemble(parts, config)?;
    // What no file says: Llama and its kin begin with BOS, T5 and its kin end with EOS.
    let id = |stated: i32, own: i64| {
        if stated >= 0 {
            return Some(stated);
        }
        file.piece_at(own).map(|_| own as i32)
    };
    let bos = id(tokenizer.table.bos_id, file.bos_id);
    let eos = id(tokenizer.table.eos_id, file.eos_id);
    let is_bpe = file.model_type == 2;
    tokenizer.table.bos_id = bos.unwrap_or(-1);
    tokenizer.table.eos_id = eos.unwrap_or(-1);
    tokenizer.set_ends(
        bos.filter(|_| add_bos.unwrap_or(is_bpe)).into_iter().collect(),
        eos.filter(|_| add_eos.unwrap_or(!is_bpe)).into_iter().collect(),
    );
    Ok(tokenizer)
}
