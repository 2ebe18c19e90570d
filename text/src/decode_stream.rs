//! A tokenizer's decoder, fed token by token.
//!
//! A decoder of the library reads a whole list. Here its chain is a row of stages, each of which
//! passes on what no later token can change. Most decoders judge every token by itself, so the
//! library is asked for one at a time (`Each`); what looks beyond a token is written out below.

use tokenizers::tokenizer::Decoder;
use tokenizers::DecoderWrapper;

use crate::decode_bytes::{ByteFallback, ByteLevel};
use crate::decode_text::{Literal, Strip, Whole};
use crate::error::Result;
use crate::tokenizer::{from_library, Tokenizer};

/// One step of a decoder's chain.
pub trait Stage {
    /// Appends to `out` what is certain now that `token` has come.
    fn push(&mut self, token: String, out: &mut Vec<String>) -> Result<()>;
    /// No token comes any more: what was held back.
    fn end(&mut self, _out: &mut Vec<String>) {}
}

pub struct DecodeStream<'a> {
    tokenizer: &'a Tokenizer,
    stages: Vec<Box<dyn Stage + 'a>>,
    /// The end of the prompt's text that more tokens may change.
    shown: String,
}

impl<'a> DecodeStream<'a> {
    pub fn new(tokenizer: &'a Tokenizer) -> DecodeStream<'a> {
        DecodeStream { tokenizer, stages: stages_of(tokenizer.decoder()), shown: String::new() }
    }

    /// What the text grows by. Ids without a token have no text.
    pub fn append(&mut self, id: i32) -> Result<String> {
        let id = u32::try_from(id).ok();
        match id.and_then(|id| self.tokenizer.token(id)) {
            Some(token) => self.feed(Some(token)).map(|text| self.beyond_prompt(text)),
            None => Ok(String::new()),
        }
    }

    /// As `append`, for tokens whose text stands there already.
    pub fn append_prompt(&mut self, ids: &[i32]) -> Result<()> {
        let mut certain = String::new();
        let mut ended = DecodeStream::new(self.tokenizer);
        let mut whole = String::new();
        for id in ids {
            certain += &self.append(*id)?;
            whole += &ended.append(*id)?;
        }
        whole += &ended.end()?;
        self.shown = whole.strip_prefix(&certain).unwrap_or_default().to_owned();
        Ok(())
    }

    /// The rest of the text. The stream is as new.
    pub fn end(&mut self) -> Result<String> {
        let rest = self.feed(None).map(|text| self.beyond_prompt(text));
        *self = DecodeStream::new(self.tokenizer);
        rest
    }

    /// `text` without what the prompt shows of it.
    fn beyond_prompt(&mut self, mut text: String) -> String {
        let same = common_prefix(&text, &self.shown);
        let goes_on = same == text.len();
        self.shown = if goes_on { self.shown.split_off(same) } else { String::new() };
        text.split_off(same)
    }

    fn feed(&mut self, token: Option<String>) -> Result<String> {
        let at_end = token.is_none();
        let mut tokens: Vec<String> = token.into_iter().collect();
        for stage in &mut self.stages {
            let mut next = Vec::new();
            for token in tokens {
                stage.push(token, &mut next)?;
            }
            if at_end {
                stage.end(&mut next);
            }
            tokens = next;
        }
        Ok(tokens.concat())
    }
}

fn stages_of(decoder: Option<&DecoderWrapper>) -> Vec<Box<dyn Stage + '_>> {
    let Some(decoder) = decoder else { return vec![Box::new(Blanks { begun: false })] };
    let mut stages = Vec::new();
    add_stages(decoder, &mut false, &mut stages);
    stages
}

/// `joined`: whether a stage before has made one text of the tokens, so that they are its pieces.
fn add_stages<'a>(
    decoder: &'a DecoderWrapper,
    joined: &mut bool,
    stages: &mut Vec<Box<dyn Stage + 'a>>,
) {
    use DecoderWrapper as Wrapper;
    let stage: Box<dyn Stage + 'a> = match (decoder, *joined) {
        (Wrapper::Sequence(sequence), _) => {
            for part in sequence.get_decoders() {
                add_stages(part, joined, stages);
            }
            return;
        }
        (Wrapper::Fuse(_), _) => {
            *joined = true;
            return;
        }
        (Wrapper::ByteLevel(_), false) => {
            *joined = true;
            Box::new(ByteLevel::default())
        }
        (Wrapper::ByteFallback(_), false) => Box::new(ByteFallback::default()),
        (Wrapper::CTC(_), false) => Box::new(Distinct { decoder, previous: None }),
        (Wrapper::WordPiece(_) | Wrapper::BPE(_), false) => Box::new(Each::new(decoder, true)),
        (Wrapper::Metaspace(_), joined) => Box::new(Each::new(decoder, !joined)),
        (Wrapper::Replace(_) | Wrapper::Strip(_), false) => Box::new(Each::new(decoder, false)),
        (Wrapper::Strip(strip), true) => Box::new(Strip::new(strip)),
        (Wrapper::Replace(replace), true) => match Literal::new(replace) {
            Some(literal) => Box::new(literal),
            None => Box::new(Whole::new(decoder)),
        },
        _ => Box::new(Whole::new(decoder)),
    };
    stages.push(stage);
}

/// Without a decoder the library puts a blank between two tokens.
struct Blanks {
    begun: bool,
}

impl Stage for Blanks {
    fn push(&mut self, token: String, out: &mut Vec<String>) -> Result<()> {
        if std::mem::replace(&mut self.begun, true) {
            out.push(" ".to_owned());
        }
        out.push(token);
        Ok(())
    }
}

/// Each token by itself; if `placed`, it matters whether it is the first, and whether the last.
struct Each<'a> {
    decoder: &'a DecoderWrapper,
    placed: bool,
    begun: bool,
    /// How the token that came last goes on, if it is the last, and if it is not.
    rest_if_last: String,
    rest_if_followed: String,
}

impl<'a> Each<'a> {
    fn new(decoder: &'a DecoderWrapper, placed: bool) -> Each<'a> {
        let (rest_if_last, rest_if_followed) = Default::default();
        Each { decoder, placed, begun: false, rest_if_last, rest_if_followed }
    }

    fn read(&self, token: &str, first: bool, last: bool) -> Result<String> {
        let mut tokens = vec![token.to_owned()];
        if !first {
            tokens.insert(0, String::new());
        }
        if !last {
            tokens.push(String::new());
        }
        let mut texts = self.decoder.decode_chain(tokens).map_err(from_library)?;
        Ok(texts.swap_remove(usize::from(!first)))
    }
}

impl Stage for Each<'_> {
    fn push(&mut self, token: String, out: &mut Vec<String>) -> Result<()> {
        let first = !std::mem::replace(&mut self.begun, true);
        if !self.placed {
            out.push(self.read(&token, true, true)?);
            return Ok(());
        }
        let mut if_last = self.read(&token, first, true)?;
        let mut if_followed = self.read(&token, first, false)?;
        let certain = common_prefix(&if_last, &if_followed);
        out.push(std::mem::take(&mut self.rest_if_followed));
        self.rest_if_last = if_last.split_off(certain);
        self.rest_if_followed = if_followed.split_off(certain);
        out.push(if_last);
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<String>) {
        out.push(std::mem::take(&mut self.rest_if_last));
    }
}

/// CTC: a token that repeats the one before does not count.
struct Distinct<'a> {
    decoder: &'a DecoderWrapper,
    previous: Option<String>,
}

impl Stage for Distinct<'_> {
    fn push(&mut self, token: String, out: &mut Vec<String>) -> Result<()> {
        if self.previous.as_ref() != Some(&token) {
            out.extend(self.decoder.decode_chain(vec![token.clone()]).map_err(from_library)?);
            self.previous = Some(token);
        }
        Ok(())
    }
}

/// Bytes that two texts have in common at their begin, in whole characters.
pub fn common_prefix(a: &str, b: &str) -> usize {
    let same = a.chars().zip(b.chars()).take_while(|(a, b)| a == b);
    same.map(|(character, _)| character.len_utf8()).sum()
}
