//! Text to token ids and back, by the `tokenizers` crate.
//!
//! The crate's own `encode` builds offsets, words and masks that nobody here reads; so this walks
//! its stages (added tokens and normalizer, pre-tokenizer, model) and keeps the ids. What the
//! post-processor adds is asked of it once, with a stand-in for the text.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use tokenizers::models::TrainerWrapper;
use tokenizers::tokenizer::{Encoding, Model, OffsetType, PreTokenizedString, PreTokenizer};
use tokenizers::{
    AddedToken, AddedVocabulary, DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper,
    PreTokenizerWrapper, Token, TokenizerImpl,
};

use crate::abi::{catch, Span};
use crate::added_tokens::SpecialFreeSpans;
use crate::error::{cancelled, invalid, shown, Code, Error, Result};
use crate::token_table::TokenTable;
use crate::tokenizer_config::{parse_tokenizer_config, TokenizerConfig};

/// Entries of the crate's word cache, one per thread that encodes. The crate takes entries of up to
/// 255 bytes, 8 KB each at worst, and never gives them back: 32 MB a thread at most.
const CACHED_WORDS: usize = 4096;

/// Largest vocabulary accepted. Real ones end near 2^18; the bound keeps a lying id from allocating
/// tables of gigabytes.
pub const MAX_VOCAB_SIZE: u32 = 1 << 21;

/// The file's model without what belongs to training.
pub struct ServingModel(ModelWrapper);

impl<'de> Deserialize<'de> for ServingModel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        ModelWrapper::deserialize(deserializer).map(ServingModel::new)
    }
}

impl ServingModel {
    fn new(mut model: ModelWrapper) -> ServingModel {
        if let ModelWrapper::BPE(bpe) = &mut model {
            bpe.dropout = None;
            bpe.resize_cache(CACHED_WORDS);
        }
        if let ModelWrapper::Unigram(unigram) = &mut model {
            unigram.resize_cache(CACHED_WORDS);
        }
        ServingModel(model)
    }
}

impl Model for ServingModel {
    type Trainer = TrainerWrapper;
    fn tokenize(&self, sequence: &str) -> tokenizers::Result<Vec<Token>> {
        self.0.tokenize(sequence)
    }
    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.0.token_to_id(token)
    }
    fn id_to_token(&self, id: u32) -> Option<String> {
        self.0.id_to_token(id)
    }
    fn get_vocab(&self) -> std::collections::HashMap<String, u32> {
        self.0.get_vocab()
    }
    fn get_vocab_size(&self) -> usize {
        self.0.get_vocab_size()
    }
    fn save(&self, folder: &Path, prefix: Option<&str>) -> tokenizers::Result<Vec<PathBuf>> {
        self.0.save(folder, prefix)
    }
    fn get_trainer(&self) -> TrainerWrapper {
        self.0.get_trainer()
    }
}

pub type Library = TokenizerImpl<
    ServingModel,
    NormalizerWrapper,
    PreTokenizerWrapper,
    PostProcessorWrapper,
    DecoderWrapper,
>;

pub struct Tokenizer {
    library: Library,
    /// Like the library's own, but special tokens in a text are ordinary text.
    literal: AddedVocabulary,
    special_free: SpecialFreeSpans,
    /// What the post-processor puts around a text.
    prefix: Vec<i32>,
    suffix: Vec<i32>,
    pub table: TokenTable,
}

/// Ids that tokenizer.json states for its added tokens; the library makes its own.
#[derive(Deserialize)]
struct StatedIds {
    #[serde(default)]
    added_tokens: Option<Vec<StatedId>>,
}

#[derive(Deserialize)]
struct StatedId {
    id: u32,
    content: String,
}

pub struct EncodeOptions<'a> {
    pub add_special_tokens: bool,
    pub parse_special_tokens: bool,
    pub plain: &'a [Span],
    pub cancelled: &'a dyn Fn() -> bool,
}

impl Tokenizer {
    pub fn from_json(tokenizer_json: &[u8], config_json: &str) -> Result<Tokenizer> {
        let config = parse_tokenizer_config(config_json)?;
        let stated: StatedIds = serde_json::from_slice(tokenizer_json)
            .map_err(|error| invalid(format!("tokenizer.json: {error}")))?;
        let library: Library = serde_json::from_slice(tokenizer_json)
            .map_err(|error| invalid(format!("tokenizer.json: {error}")))?;
        for StatedId { id, content } in stated.added_tokens.unwrap_or_default() {
            check_id(&library, id, &content, "tokenizer.json: added_tokens")?;
        }
        Tokenizer::new(library, config)
    }

    pub fn new(mut library: Library, config: TokenizerConfig) -> Result<Tokenizer> {
        library.with_padding(None);
        library.with_truncation(None).map_err(|error| invalid(error.to_string()))?;
        if !config.added_tokens.is_empty() {
            library
                .add_tokens(config.added_tokens.values().cloned())
                .map_err(|error| invalid(format!("added_tokens_decoder: {error}")))?;
            for (id, token) in &config.added_tokens {
                let place = "tokenizer_config.json: added_tokens_decoder";
                check_id(&library, *id, &token.content, place)?;
            }
        }
        let mut literal = library.get_added_vocabulary().clone();
        literal.set_encode_special_tokens(true);
        let (prefix, suffix) = around_text(&library)?;
        let mut tokenizer = Tokenizer {
            table: TokenTable::new(&library, &config)?,
            special_free: SpecialFreeSpans::new(library.get_added_vocabulary()),
            library,
            literal,
            prefix,
            suffix,
        };
        let size = tokenizer.table.flags.len() as i32;
        let mut around = tokenizer.prefix.iter().chain(&tokenizer.suffix);
        if let Some(id) = around.find(|id| !(0..size).contains(*id)) {
            return Err(invalid(format!(
                "tokenizer.json: post_processor adds the id {id}, the vocabulary has {size} tokens"
            )));
        }
        if tokenizer.prefix.is_empty() && tokenizer.suffix.is_empty() {
            tokenizer.add_configured_ends(&config)?;
        }
        Ok(tokenizer)
    }

    /// Slow and old tokenizers say in their config what to add, not in a post-processor.
    fn add_configured_ends(&mut self, config: &TokenizerConfig) -> Result<()> {
        let needed = |id: i32, name: &str| {
            if id >= 0 {
                return Ok(id);
            }
            Err(invalid(format!(
                "tokenizer_config.json asks for add_{name}_token, but its {name}_token is missing \
                 or not in the vocabulary"
            )))
        };
        if config.add_bos_token == Some(true) {
            self.prefix.push(needed(self.table.bos_id, "bos")?);
        }
        if config.add_eos_token == Some(true) {
            self.suffix.push(needed(self.table.eos_id, "eos")?);
        }
        Ok(())
    }

    /// A vocabulary's flags say what goes around a text, whatever the model's kind does.
    pub fn set_ends(&mut self, prefix: Vec<i32>, suffix: Vec<i32>) {
        self.prefix = prefix;
        self.suffix = suffix;
    }

    pub fn token_id(&self, name: &str) -> Option<u32> {
        self.library.token_to_id(name)
    }

    /// As the decoder reads it; none for a hole in the vocabulary.
    pub fn token(&self, id: u32) -> Option<String> {
        self.library.id_to_token(id)
    }

    pub fn decoder(&self) -> Option<&DecoderWrapper> {
        self.library.get_decoder()
    }

    /// The names of the special tokens.
    pub fn special_tokens(&self) -> impl Iterator<Item = &str> {
        let added = self.library.get_added_vocabulary().get_added_tokens_decoder();
        added.values().filter(|token| token.special).map(|token| token.content.as_str())
    }

    pub fn encode(&self, text: &str, options: &EncodeOptions) -> Result<Vec<i32>> {
        // The library's stages panic where a pattern backtracks beyond the engine's limit.
        catch(|| self.encode_stages(text, options)).map_err(|error| match error.code {
            Code::Internal => {
                invalid(format!("the text cannot be encoded: {}", shown(&error.message, 300)))
            }
            _ => error,
        })
    }

    fn encode_stages(&self, text: &str, options: &EncodeOptions) -> Result<Vec<i32>> {
        let added = self.library.get_added_vocabulary();
        let normalizer = self.library.get_normalizer();
        let mut pieces: PreTokenizedString = if !options.parse_special_tokens {
            self.literal.extract_and_normalize(normalizer, text)
        } else if options.plain.is_empty() {
            added.extract_and_normalize(normalizer, text)
        } else {
            self.special_free.extract(normalizer, text, options.plain)?
        };
        if (options.cancelled)() {
            return Err(cancelled());
        }
        if let Some(pre_tokenizer) = self.library.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut pieces).map_err(from_library)?;
        }
        let model = self.library.get_model();
        let guarded = !options.parse_special_tokens || !options.plain.is_empty();
        // A look at the flag for each piece costs nothing beside the piece.
        let tokenized = pieces.tokenize(|piece| {
            if (options.cancelled)() {
                return Err(Box::new(Cancelled));
            }
            if guarded {
                return self.without_special(piece.get());
            }
            model.tokenize(piece.get())
        });
        tokenized.map_err(|error| match error.downcast_ref::<Cancelled>() {
            Some(_) => cancelled(),
            None => from_library(error),
        })?;
        let encoding = pieces.into_encoding(None, 0, OffsetType::None).map_err(from_library)?;
        let around: &[&[i32]] =
            if options.add_special_tokens { &[&self.prefix, &self.suffix] } else { &[&[], &[]] };
        let mut ids =
            Vec::with_capacity(around[0].len() + encoding.get_ids().len() + around[1].len());
        ids.extend_from_slice(around[0]);
        ids.extend(encoding.get_ids().iter().map(|id| *id as i32));
        ids.extend_from_slice(around[1]);
        Ok(ids)
    }

    /// The model's tokens for `piece`, of which none is special by its name: models may have
    /// "</s>" in their vocabulary, and would find it in ordinary text.
    fn without_special(&self, piece: &str) -> tokenizers::Result<Vec<Token>> {
        let model = self.library.get_model();
        let tokens = model.tokenize(piece)?;
        let forged = |token: &Token| {
            let (begin, end) = token.offsets;
            self.table.is_special(token.id)
                && piece.get(begin..end).is_some_and(|text| text == self.table.name(token.id as i32))
        };
        if !tokens.iter().any(forged) {
            return Ok(tokens);
        }
        let mut plain = Vec::with_capacity(tokens.len() + 4);
        for token in tokens {
            if !forged(&token) {
                plain.push(token);
                continue;
            }
            // Cut after its first character, the name is not there any more.
            let name = &piece[token.offsets.0..token.offsets.1];
            let cut = name.chars().next().map_or(0, char::len_utf8);
            if cut < name.len() {
                plain.extend(self.without_special(&name[..cut])?);
                plain.extend(self.without_special(&name[cut..])?);
            }
        }
        Ok(plain)
    }

    pub fn decode(&self, ids: &[i32], skip_special_tokens: bool) -> Result<String> {
        let known: Vec<u32> = ids.iter().filter_map(|id| u32::try_from(*id).ok()).collect();
        self.library.decode(&known, skip_special_tokens).map_err(from_library)
    }
}

/// A tokenizer that was not a tokenizer.json; the components are in that file's form, null for none.
pub struct Parts {
    pub model: ModelWrapper,
    pub normalizer: Value,
    pub pre_tokenizer: Value,
    pub decoder: Value,
    pub added_tokens: Vec<AddedToken>,
}

fn component<T: DeserializeOwned>(value: Value, what: &str) -> Result<Option<T>> {
    serde_json::from_value(value).map_err(|error| invalid(format!("{what}: {error}")))
}

pub fn assemble(parts: Parts, config: TokenizerConfig) -> Result<Tokenizer> {
    let mut library = Library::new(ServingModel::new(parts.model));
    library
        .with_normalizer(component::<NormalizerWrapper>(parts.normalizer, "normalizer")?)
        .map_err(from_library)?;
    library.with_pre_tokenizer(component::<PreTokenizerWrapper>(
        parts.pre_tokenizer,
        "pre-tokenizer",
    )?);
    library.with_decoder(component::<DecoderWrapper>(parts.decoder, "decoder")?);
    library.add_tokens(parts.added_tokens).map_err(from_library)?;
    Tokenizer::new(library, config)
}

#[derive(Debug)]
struct Cancelled;

impl std::fmt::Display for Cancelled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cancelled")
    }
}

impl std::error::Error for Cancelled {}

pub fn from_library(error: tokenizers::Error) -> Error {
    invalid(shown(&error.to_string(), 300))
}

fn check_id(library: &Library, id: u32, content: &str, place: &str) -> Result<()> {
    match library.token_to_id(content) {
        Some(made) if made == id => Ok(()),
        made => Err(invalid(format!(
            "{place}: \"{}\" has the id {id}, but beside the model's vocabulary it would get {}; \
             the files do not belong together",
            shown(content, 80),
            made.map_or("none".to_owned(), |id| id.to_string())
        ))),
    }
}

/// What the post-processor puts in front of a text and behind it.
fn around_text(library: &Library) -> Result<(Vec<i32>, Vec<i32>)> {
    const TEXT: u32 = u32::MAX - 1;
    let stand_in = Encoding::from_tokens(vec![Token::new(TEXT, String::new(), (0, 0))], 0);
    let processed = library.post_process(stand_in, None, true).map_err(from_library)?;
    let ids = processed.get_ids();
    let place = ids.iter().position(|id| *id == TEXT).ok_or_else(|| {
        invalid("tokenizer.json: post_processor leaves the text itself out")
    })?;
    let signed = |ids: &[u32]| ids.iter().map(|id| *id as i32).collect();
    Ok((signed(&ids[..place]), signed(&ids[place + 1..])))
}
