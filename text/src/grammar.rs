//! Grammars of the output: compiled for a tokenizer once, and a matcher per sequence that says which
//! tokens may come next.

use std::collections::VecDeque;
use std::sync::Arc;

use llguidance::api::{GrammarInit, ParserLimits};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenizerEnv};
use llguidance::{Logger, Matcher, ParserFactory};

use crate::error::{invalid, Result};
use crate::grammar_source::{grammar, reason, Kind, Source};
use crate::token_table::{PRESENT, SPECIAL};
use crate::tokenizer::{EncodeOptions, Tokenizer};

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Limits {
    pub max_source_bytes: usize,
    pub max_grammar_symbols: usize,
    pub max_lexer_states: usize,
    pub compile_fuel: u64,
    pub step_fuel: u64,
    pub max_step_items: usize,
    pub max_row_items: usize,
}

/// A tokenizer that the caller keeps alive.
struct Borrowed(*const Tokenizer);

// SAFETY: a tokenizer is immutable once made.
unsafe impl Send for Borrowed {}
unsafe impl Sync for Borrowed {}

struct Environment {
    tokenizer: Borrowed,
    trie: TokTrie,
}

impl Environment {
    fn tokenizer(&self) -> &Tokenizer {
        // SAFETY: the header demands that it outlives what is made of it.
        unsafe { &*self.tokenizer.0 }
    }

    /// The tokenizer's ids of `bytes`, when they spell exactly that; `lead` is put before and cut
    /// off again.
    fn spelled(&self, lead: &str, bytes: &[u8]) -> Option<Vec<u32>> {
        let text = format!("{lead}{}", std::str::from_utf8(bytes).ok()?);
        let options = EncodeOptions {
            add_special_tokens: false,
            parse_special_tokens: false,
            plain: &[],
            cancelled: &|| false,
        };
        let ids = self.tokenizer().encode(&text, &options).ok()?;
        let mut ids: &[i32] = &ids;
        let mut rest = lead.as_bytes();
        while !rest.is_empty() {
            let (first, others) = ids.split_first()?;
            rest = rest.strip_prefix(self.word(*first)?)?;
            ids = others;
        }
        let mut rest = bytes;
        for id in ids {
            rest = rest.strip_prefix(self.word(*id)?)?;
        }
        rest.is_empty().then(|| ids.iter().map(|id| *id as u32).collect())
    }

    /// What a token spells; none for those that spell nothing.
    fn word(&self, id: i32) -> Option<&[u8]> {
        let id = u32::try_from(id).ok().filter(|id| (*id as usize) < self.trie.vocab_size())?;
        Some(self.trie.token(id)).filter(|word| !word.is_empty())
    }
}

impl TokenizerEnv for Environment {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    /// As the tokenizer would, where it can say: models continue best in the ids they know. Some
    /// tokenizers put a blank in front of a text, hence the second try.
    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        self.spelled("", bytes)
            .or_else(|| self.spelled("\n", bytes))
            .unwrap_or_else(|| self.trie.greedy_tokenize(bytes))
    }
}

/// The grammar compiler of one model.
pub struct Grammars {
    factory: ParserFactory,
    environment: Arc<Environment>,
    limits: Limits,
    vocab_size: usize,
}

// Threads compile at once.
const _: fn() = || {
    fn shared<T: Sync>() {}
    shared::<Grammars>();
};

/// What each token of the trie spells: special tokens begin with a byte that no text has.
fn words(tokenizer: &Tokenizer, vocab_size: usize) -> Vec<Vec<u8>> {
    let table = &tokenizer.table;
    let word = |id: usize| {
        let flags = table.flags.get(id).copied().unwrap_or(0);
        if flags & PRESENT == 0 {
            return Vec::new();
        }
        if flags & SPECIAL != 0 {
            let mut word = vec![TokTrie::SPECIAL_TOKEN_MARKER];
            word.extend_from_slice(table.name(id as i32).as_bytes());
            return word;
        }
        let bytes =
            &table.bytes[table.byte_offsets[id] as usize..table.byte_offsets[id + 1] as usize];
        if bytes.first() == Some(&TokTrie::SPECIAL_TOKEN_MARKER) {
            return Vec::new();
        }
        bytes.to_vec()
    };
    (0..vocab_size).map(word).collect()
}

impl Grammars {
    /// `tokenizer` must outlive this and all matchers.
    pub fn new(
        tokenizer: *const Tokenizer,
        vocab_size: usize,
        eos_ids: &[i32],
        limits: Limits,
    ) -> Result<Grammars> {
        if vocab_size == 0 || vocab_size >= 1 << 23 {
            return Err(invalid(format!("no grammars for a vocabulary of {vocab_size} tokens")));
        }
        // SAFETY: as the caller says.
        let mut words = words(unsafe { &*tokenizer }, vocab_size);
        // The library needs an end of text: where the model has none, a token that it cannot draw.
        let mut eos: Vec<u32> = eos_ids
            .iter()
            .filter_map(|id| u32::try_from(*id).ok())
            .filter(|id| (*id as usize) < vocab_size)
            .collect();
        if eos.is_empty() {
            eos.push(vocab_size as u32);
            words.push(b"\xFF<end>".to_vec());
        }
        let info = TokRxInfo::new(words.len() as u32, eos[0]);
        let trie = TokTrie::from(&info, &words).with_eos_tokens(&eos);
        let environment = Arc::new(Environment { tokenizer: Borrowed(tokenizer), trie });
        let tok_env: TokEnv = environment.clone();
        let mut factory = ParserFactory::new(
            &tok_env,
            InferenceCapabilities::default(),
            &SlicedBiasComputer::general_slices(),
        )
        .map_err(|error| invalid(reason(&error.to_string(), false)))?;
        factory.quiet();
        Ok(Grammars { factory, environment, limits, vocab_size })
    }

    pub fn compile(&self, source: &Source) -> Result<OutputMatcher> {
        let limit = self.limits.max_source_bytes;
        let size = source.text.len() + source.after.len();
        if size > limit {
            return Err(invalid(format!("it has {size} bytes, the limit is {limit}; make it smaller")));
        }
        let grammar = grammar(source, self.environment.tokenizer())?;
        let parser = self
            .factory
            .create_parser_from_init_ext(
                GrammarInit::Serialized(grammar),
                Logger::new(0, 0),
                InferenceCapabilities::default(),
                ParserLimits {
                    max_items_in_row: self.limits.max_row_items,
                    initial_lexer_fuel: self.limits.compile_fuel,
                    step_lexer_fuel: self.limits.step_fuel,
                    step_max_items: self.limits.max_step_items,
                    max_lexer_states: self.limits.max_lexer_states,
                    max_grammar_size: self.limits.max_grammar_symbols,
                    precompute_large_lexemes: true,
                    verbose_errors: false,
                },
            )
            .map_err(|error| {
                let own_text = source.kind == Kind::Lark;
                invalid(reason(&format!("{error:#}"), own_text))
            })?;
        let mut matcher = OutputMatcher {
            matcher: Matcher::new(Ok(parser)),
            forced: VecDeque::new(),
            vocab_size: self.vocab_size,
        };
        matcher.commit(&[])?;
        if matcher.is_complete() {
            return Err(invalid("it allows nothing but an empty output"));
        }
        // What cannot even begin is refused now.
        let mut mask = vec![0; matcher.mask_words()];
        matcher.clone().mask(&mut mask)?;
        Ok(matcher)
    }
}

/// Where one output stands in its grammar. Clones share the automaton that grows as it is used, and
/// stand each for itself.
#[derive(Clone)]
pub struct OutputMatcher {
    matcher: Matcher,
    /// Tokens that must come next; while there are any, the first is all that may.
    forced: VecDeque<u32>,
    vocab_size: usize,
}

impl OutputMatcher {
    /// One that shares no automaton with this one: what either does counts for itself alone.
    pub fn copy(&self) -> Self {
        Self {
            matcher: self.matcher.deep_clone(),
            forced: self.forced.clone(),
            vocab_size: self.vocab_size,
        }
    }

    pub fn mask_words(&self) -> usize {
        self.vocab_size.div_ceil(32)
    }

    fn failed<T>(&self, result: anyhow::Result<T>) -> Result<T> {
        result.map_err(|error| invalid(reason(&error.to_string(), true)))
    }

    pub fn commit(&mut self, tokens: &[u32]) -> Result<()> {
        let consumed = self.matcher.consume_tokens(tokens);
        if consumed.is_err() {
            self.forced.clear(); // an error stays: what was forced before it is not offered
        }
        self.failed(consumed)?;
        for token in tokens {
            match self.forced.front() {
                Some(front) if front == token => drop(self.forced.pop_front()),
                _ => self.forced.clear(),
            }
        }
        if self.forced.is_empty() && !self.is_complete() {
            self.forced = self.matcher.compute_ff_tokens().into();
            if let Some(error) = self.matcher.get_error() {
                return Err(invalid(reason(&error, true)));
            }
        }
        Ok(())
    }

    /// Sets the bit of each token that may come next; `mask` has mask_words() words.
    pub fn mask(&mut self, mask: &mut [u32]) -> Result<()> {
        mask.fill(0);
        if let Some(token) = self.forced.front().filter(|_| !self.is_complete()) {
            mask[*token as usize / 32] |= 1 << (token % 32);
            return Ok(());
        }
        let computed = self.matcher.compute_mask_or_eos();
        let allowed = self.failed(computed)?;
        let words = mask.len().min(allowed.as_slice().len());
        mask[..words].copy_from_slice(&allowed.as_slice()[..words]);
        if self.vocab_size % 32 != 0 {
            mask[self.vocab_size / 32] &= (1 << (self.vocab_size % 32)) - 1;
        }
        Ok(())
    }

    pub fn forced(&self) -> Vec<i32> {
        self.forced.iter().map(|token| *token as i32).collect()
    }

    pub fn is_accepting(&mut self) -> bool {
        self.is_complete() || self.matcher.is_accepting().unwrap_or(false)
    }

    /// Nothing may follow.
    pub fn is_complete(&self) -> bool {
        self.matcher.is_stopped() && !self.matcher.is_error()
    }
}
