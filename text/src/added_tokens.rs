//! Added tokens in a text of which some spans must stay ordinary text.
//!
//! The library knows two ways: it recognises every special token, or none. A rendered conversation
//! needs both at once: what the template wrote is a special token, what a user wrote is not. This
//! does what the library's `extract_and_normalize` does, and passes over the special tokens that
//! touch a span.

use std::sync::OnceLock;

use daachorse::{DoubleArrayAhoCorasick, DoubleArrayAhoCorasickBuilder, MatchKind};
use regex::Regex;
use tokenizers::normalizer::Range;
use tokenizers::tokenizer::{Normalizer, OffsetReferential, PreTokenizedString};
use tokenizers::{AddedToken, AddedVocabulary, NormalizedString, Token};

use crate::abi::Span;
use crate::error::{invalid, Result};

type Finder = DoubleArrayAhoCorasick<u32>;

pub struct SpecialFreeSpans {
    raw: Search,        // tokens sought in the text as it came
    normalized: Search, // tokens sought in the normalised text
}

/// One automaton, made when first needed: most texts have no such spans.
struct Search {
    tokens: Vec<(u32, String, AddedToken)>, // id, what is sought, its flags
    finder: OnceLock<Option<Finder>>,
}

fn word_edges() -> &'static (Regex, Regex) {
    static EDGES: OnceLock<(Regex, Regex)> = OnceLock::new();
    EDGES.get_or_init(|| (Regex::new(r"\w$").unwrap(), Regex::new(r"^\w").unwrap()))
}

fn touches(spans: &[Span], begin: usize, end: usize) -> bool {
    let next = spans.partition_point(|span| span.end <= begin);
    spans.get(next).is_some_and(|span| span.begin < end)
}

impl Search {
    fn finder(&self) -> Result<Option<&Finder>> {
        if let Some(finder) = self.finder.get() {
            return Ok(finder.as_ref());
        }
        let made = if self.tokens.is_empty() {
            None
        } else {
            let sought =
                self.tokens.iter().enumerate().map(|(i, token)| (token.1.as_str(), i as u32));
            Some(
                DoubleArrayAhoCorasickBuilder::new()
                    .match_kind(MatchKind::LeftmostLongest)
                    .build_with_values(sought)
                    .map_err(|error| invalid(error.to_string()))?,
            )
        };
        Ok(self.finder.get_or_init(|| made).as_ref())
    }

    /// Cuts `piece` at the tokens found in it. `origin`: where the piece begins in the whole text.
    fn split(
        &self,
        piece: NormalizedString,
        plain: &[Span],
    ) -> Result<Vec<(NormalizedString, Option<Vec<Token>>)>> {
        let Some(finder) = self.finder()? else { return Ok(vec![(piece, None)]) };
        let text = piece.get();
        let mut cuts: Vec<(Option<u32>, usize, usize)> = Vec::new();
        let mut done = 0;
        for found in finder.leftmost_find_iter(text) {
            let (id, _, token) = &self.tokens[found.value() as usize];
            let (mut begin, mut end) = (found.start(), found.end());
            if token.special {
                let slice = piece.slice(Range::Normalized(begin..end));
                let origin = slice.map_or((0, usize::MAX), |slice| slice.offsets_original());
                if touches(plain, origin.0, origin.1) {
                    continue;
                }
            }
            if token.single_word {
                let (ends_word, begins_word) = word_edges();
                if ends_word.is_match(&text[..begin]) || begins_word.is_match(&text[end..]) {
                    continue;
                }
            }
            if token.lstrip {
                begin = text[..begin].trim_end().len().max(done);
            }
            if token.rstrip {
                end = text.len() - text[end..].trim_start().len();
            }
            if done < begin {
                cuts.push((None, done, begin));
            }
            cuts.push((Some(*id), begin, end));
            done = end;
        }
        if done < text.len() {
            cuts.push((None, done, text.len()));
        }
        cuts.into_iter()
            .map(|(id, begin, end)| {
                let slice = piece
                    .slice(Range::Normalized(begin..end))
                    .ok_or_else(|| invalid("an added token ends inside a character"))?;
                let tokens = id.map(|id| {
                    let value = slice.get().to_owned();
                    let size = value.len();
                    vec![Token::new(id, value, (0, size))]
                });
                Ok((slice, tokens))
            })
            .collect()
    }
}

impl SpecialFreeSpans {
    pub fn new(vocabulary: &AddedVocabulary) -> SpecialFreeSpans {
        let search = |normalized: bool| Search {
            tokens: vocabulary
                .get_added_tokens_decoder()
                .iter()
                .filter(|(_, token)| token.normalized == normalized)
                .map(|(id, token)| {
                    // The library gives the form in which it seeks the token.
                    let sought = vocabulary.simple_id_to_token(*id);
                    (*id, sought.unwrap_or_else(|| token.content.clone()), token.clone())
                })
                .collect(),
            finder: OnceLock::new(),
        };
        SpecialFreeSpans { raw: search(false), normalized: search(true) }
    }

    /// `plain` in ascending order, apart from each other.
    pub fn extract<N: Normalizer>(
        &self,
        normalizer: Option<&N>,
        text: &str,
        plain: &[Span],
    ) -> Result<PreTokenizedString> {
        let mut pieces: PreTokenizedString = text.into();
        let split = |pieces: &mut PreTokenizedString, search: &Search, normalize: bool| {
            pieces
                .split(|_, mut piece| {
                    if let (true, Some(normalizer)) = (normalize, normalizer) {
                        normalizer.normalize(&mut piece)?;
                    }
                    search.split(piece, plain).map_err(|error| error.message.into())
                })
                .map_err(crate::tokenizer::from_library)
        };
        split(&mut pieces, &self.raw, false)?;
        split(&mut pieces, &self.normalized, true)?;
        debug_assert!(pieces
            .get_splits(OffsetReferential::Original, tokenizers::OffsetType::Byte)
            .iter()
            .all(|(_, offsets, _)| offsets.1 <= text.len()));
        Ok(pieces)
    }
}
