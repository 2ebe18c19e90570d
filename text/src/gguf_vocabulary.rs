//! A tokenizer from the vocabulary that GGUF metadata holds (`tokenizer.ggml.*`).
//!
//! Such a file says how a text is split only by a name (`gguf_splits`).

use std::collections::HashSet;

use ahash::AHashMap;
use serde_json::{json, Value};
use tokenizers::models::bpe::BPE;
use tokenizers::{AddedToken, ModelWrapper};

use crate::error::{invalid, shown, unimplemented, Result};
use crate::gguf_splits::{ByteLevelKind, BYTE_LEVEL_KINDS, FALCON};
use crate::sentencepiece::{
    merges_by_score, precompiled, replace_string, sequence, split_isolated, Piece, PieceKind,
    SentencePiece,
};
use crate::tokenizer::{assemble, Parts, Tokenizer, MAX_VOCAB_SIZE};
use crate::tokenizer_config::TokenizerConfig;

pub struct Vocabulary<'a> {
    pub model: &'a str,
    pub pre: &'a str,
    pub tokens: Vec<&'a str>,
    pub scores: &'a [f32],
    pub token_types: &'a [i32],
    pub merges: Vec<&'a str>,
    pub precompiled_charsmap: &'a [u8],
    pub bos_id: Option<u32>,
    pub eos_id: Option<u32>,
    pub unk_id: Option<u32>,
    pub sep_id: Option<u32>,
    pub cls_id: Option<u32>,
    pub pad_id: Option<u32>,
    pub mask_id: Option<u32>,
    pub add_bos: Option<bool>,
    pub add_eos: Option<bool>,
    pub add_space_prefix: Option<bool>,
    pub remove_extra_whitespaces: Option<bool>,
    pub ignore_merges: Option<bool>,
}

const LLAMA3_VOCAB_SIZE: usize = 128_256;

impl Vocabulary<'_> {
    fn check(&self) -> Result<()> {
        let size = self.tokens.len();
        if size == 0 || size > MAX_VOCAB_SIZE as usize {
            return Err(invalid(format!(
                "the vocabulary has {size} tokens; the limits are 1 to {MAX_VOCAB_SIZE}"
            )));
        }
        for (what, count) in
            [("scores", self.scores.len()), ("token types", self.token_types.len())]
        {
            if count != 0 && count != size {
                return Err(invalid(format!("{count} {what} stand beside {size} tokens")));
            }
        }
        for (what, id) in [("bos", self.bos_id), ("eos", self.eos_id), ("unknown", self.unk_id)] {
            if id.is_some_and(|id| id as usize >= size) {
                return Err(invalid(format!(
                    "the {what} token has the id {}, the vocabulary {size} tokens",
                    id.unwrap_or(0)
                )));
            }
        }
        Ok(())
    }

    fn kind(&self, id: usize) -> PieceKind {
        let number = self.token_types.get(id).copied().unwrap_or(1);
        PieceKind::from_number(i64::from(number)).unwrap_or(PieceKind::Normal)
    }

    /// Tokens that are sought in a text before anything else.
    fn added_tokens(&self) -> Vec<AddedToken> {
        let mut seen = HashSet::new();
        (0..self.tokens.len())
            .filter_map(|id| {
                let special = match self.kind(id) {
                    PieceKind::Control | PieceKind::Unknown => true,
                    PieceKind::UserDefined => false,
                    _ => return None,
                };
                let text = self.tokens[id];
                if text.is_empty() || !seen.insert(text) || self.is_blanks(id) {
                    return None;
                }
                Some(AddedToken::from(text, special).normalized(false))
            })
            .collect()
    }

    /// Gemma's runs of blanks: converted files spell them with blanks and call them user-defined;
    /// in the model's own file they are ordinary tokens, spelled with "▁".
    fn is_blanks(&self, id: usize) -> bool {
        let text = self.tokens[id];
        self.model != "gpt2"
            && self.kind(id) == PieceKind::UserDefined
            && text.chars().all(|character| character == ' ' || character == '▁')
    }

    fn token_text(&self, id: usize) -> String {
        if self.is_blanks(id) {
            return self.tokens[id].replace(' ', "▁");
        }
        self.tokens[id].to_owned()
    }

    /// Names to ids; of equal names the first counts.
    fn ids(&self) -> AHashMap<String, u32> {
        let mut ids = AHashMap::with_capacity(self.tokens.len());
        for id in 0..self.tokens.len() {
            ids.entry(self.token_text(id)).or_insert(id as u32);
        }
        ids
    }

    fn pieces(&self) -> Vec<Piece> {
        (0..self.tokens.len())
            .map(|id| Piece {
                text: self.token_text(id),
                score: self.scores.get(id).copied().unwrap_or(0.0),
                kind: if self.is_blanks(id) { PieceKind::Normal } else { self.kind(id) },
            })
            .collect()
    }

    /// The listed merges. One that names no token could never apply, and is left out.
    fn listed_merges(&self, ids: &AHashMap<String, u32>) -> Result<Vec<(String, String)>> {
        let mut merges = Vec::with_capacity(self.merges.len());
        for merge in &self.merges {
            // A part may begin with a blank itself, so the first character does not part them.
            let first = merge.chars().next().map_or(0, char::len_utf8);
            let cut = merge[first..].find(' ').ok_or_else(|| {
                invalid(format!("the merge \"{}\" has no two parts", shown(merge, 80)))
            })?;
            let (left, right) = (&merge[..first + cut], &merge[first + cut + 1..]);
            let known = |name: &str| ids.contains_key(name);
            if known(left) && known(right) && known(&format!("{left}{right}")) {
                merges.push((left.to_owned(), right.to_owned()));
            }
        }
        Ok(merges)
    }

    fn byte_level_kind(&self) -> Result<&'static ByteLevelKind> {
        let mut pre = self.pre;
        if matches!(pre, "" | "default") && self.tokens.len() == LLAMA3_VOCAB_SIZE {
            pre = "llama-bpe"; // files from before the field was
        }
        if FALCON.names.contains(&pre) {
            return Ok(&FALCON);
        }
        BYTE_LEVEL_KINDS.iter().find(|kind| kind.names.contains(&pre)).ok_or_else(|| {
            unimplemented(format!(
                "the vocabulary splits texts by tokenizer.ggml.pre \"{}\", which is not known; \
                 put the model's own tokenizer.json beside the file",
                shown(self.pre, 80)
            ))
        })
    }

    fn byte_level(&self) -> Result<Tokenizer> {
        let kind = self.byte_level_kind()?;
        let ids = self.ids();
        let merges = self.listed_merges(&ids)?;
        let model = BPE::builder()
            .vocab_and_merges(ids, merges)
            .ignore_merges(self.ignore_merges.unwrap_or(kind.ignore_merges))
            .build()
            .map_err(|error| invalid(error.to_string()))?;
        let bytes = |use_regex: bool| {
            json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                   "use_regex": use_regex})
        };
        let mut stages: Vec<Value> =
            kind.patterns.iter().map(|pattern| split_isolated(pattern)).collect();
        if kind.names == FALCON.names {
            stages.push(json!({"type": "Punctuation", "behavior": "Contiguous"}));
            stages.push(bytes(true));
            stages.push(json!({"type": "Digits", "individual_digits": false}));
            stages.push(split_isolated("[0-9][0-9][0-9]"));
        } else {
            stages.push(bytes(kind.gpt2_pattern));
        }
        let tokenizer = self.assemble(Parts {
            model: ModelWrapper::BPE(model),
            normalizer: Value::Null,
            pre_tokenizer: sequence("pretokenizers", stages),
            decoder: bytes(false),
            added_tokens: self.added_tokens(),
        })?;
        Ok(self.with_ends(tokenizer, kind.add_bos))
    }

    fn sentencepiece_decoders(&self, strip: bool) -> Value {
        let mut decoders = vec![
            replace_string("▁", " "),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if strip {
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        sequence("decoders", decoders)
    }

    /// BPE over characters with byte fallback: by scores ("llama") or by listed merges ("gemma4").
    fn character_bpe(&self, by_score: bool) -> Result<Tokenizer> {
        let ids = self.ids();
        let merges =
            if by_score { merges_by_score(&self.pieces()) } else { self.listed_merges(&ids)? };
        let mut builder = BPE::builder().vocab_and_merges(ids, merges).fuse_unk(true);
        builder = builder.byte_fallback(true);
        if let Some(unk) = self.unk_id.or((by_score && self.tokens.len() > 2).then_some(0)) {
            builder = builder.unk_token(self.token_text(unk as usize));
        }
        let model = builder.build().map_err(|error| invalid(error.to_string()))?;
        let prefix = by_score && self.add_space_prefix.unwrap_or(true);
        let mut normalizers = Vec::new();
        if prefix {
            normalizers.push(json!({"type": "Prepend", "prepend": "▁"}));
        }
        normalizers.push(replace_string(" ", "▁"));
        let tokenizer = self.assemble(Parts {
            model: ModelWrapper::BPE(model),
            normalizer: sequence("normalizers", normalizers),
            pre_tokenizer: if by_score { Value::Null } else { split_isolated(r"[^\n]+|\n+") },
            decoder: self.sentencepiece_decoders(prefix),
            added_tokens: self.added_tokens(),
        })?;
        Ok(self.with_ends(tokenizer, true))
    }

    fn unigram(&self) -> Result<Tokenizer> {
        let pieces = self.pieces();
        let file = SentencePiece {
            byte_fallback: pieces.iter().any(|piece| piece.kind == PieceKind::Byte),
            unk_id: self.unk_id.map_or(-1, i64::from),
            pieces,
            ..SentencePiece::default()
        };
        let mut normalizers = Vec::new();
        if !self.precompiled_charsmap.is_empty() {
            normalizers.push(precompiled(self.precompiled_charsmap));
        }
        if self.remove_extra_whitespaces.unwrap_or(true) {
            normalizers.push(crate::sentencepiece::replace_regex(r"\A +| +\z", ""));
            normalizers.push(crate::sentencepiece::replace_regex(" {2,}", " "));
        }
        let prefix = self.add_space_prefix.unwrap_or(true);
        let scheme = if prefix { "always" } else { "never" };
        let tokenizer = self.assemble(Parts {
            model: file.model()?,
            normalizer: sequence("normalizers", normalizers),
            pre_tokenizer: json!({"type": "Metaspace", "replacement": "▁",
                                  "prepend_scheme": scheme, "split": true}),
            decoder: self.sentencepiece_decoders(prefix),
            added_tokens: self.added_tokens(),
        })?;
        Ok(self.with_ends(tokenizer, false))
    }

    fn assemble(&self, parts: Parts) -> Result<Tokenizer> {
        let name = |id: Option<u32>| id.map(|id| self.token_text(id as usize));
        assemble(
            parts,
            TokenizerConfig {
                bos_token: name(self.bos_id),
                eos_token: name(self.eos_id),
                ..TokenizerConfig::default()
            },
        )
    }

    fn with_ends(&self, mut tokenizer: Tokenizer, add_bos: bool) -> Tokenizer {
        let end = |add: bool, id: Option<u32>| -> Vec<i32> {
            id.filter(|_| add).map(|id| id as i32).into_iter().collect()
        };
        // "t5" ends its texts with EOS unless the file says otherwise.
        let add_eos = self.add_eos.unwrap_or(self.model == "t5");
        tokenizer.set_ends(
            end(self.add_bos.unwrap_or(add_bos), self.bos_id),
            end(add_eos, self.eos_id),
        );
        tokenizer
    }
}

pub fn tokenizer(vocabulary: &Vocabulary) -> Result<Tokenizer> {
    vocabulary.check()?;
    match vocabulary.model {
        "gpt2" => vocabulary.byte_level(),
        "llama" => vocabulary.character_bpe(true),
        "gemma4" => vocabulary.character_bpe(false),
        "t5" => vocabulary.unigram(),
        other => Err(unimplemented(format!(
            "tokenizer.ggml.model is \"{}\"; gpt2, llama, gemma4 and t5 are supported. Put the \
             model's own tokenizer.json beside the file",
            shown(other, 80)
        ))),
    }
}
