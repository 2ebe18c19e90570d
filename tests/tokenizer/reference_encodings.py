"""What the reference makes of 500 hard strings with more than 30 tokenizers; run by tokenizer_reference_test.py in an environment with
PyPI's tokenizers. Writes a file of JSON lines: the strings, then a line for each tokenizer.

    reference_encodings.py TRAINING_TEXT SEED OUTPUT
"""
import json
import random
import sys

from make_tokenizer_vectors import (LLAMA3, O200K, QWEN2, SPECIALS, TEXTS, added, byte_level, make_tokenizers,
                                    split_then_bytes)
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers.decoders import DecodeStream

NUM_TEXTS, NUM_TOKENIZERS = 500, 30

# Where scripts, marks, spaces and symbols are that patterns and normalizers read in their own ways.
RANGES = [(0x20, 0x7E), (0x20, 0x7E), (0x20, 0x7E), (0x09, 0x0D), (0xA0, 0x17F), (0x1C4, 0x24F), (0x2B0, 0x36F),
          (0x370, 0x3FF), (0x400, 0x4FF), (0x5D0, 0x5EA), (0x610, 0x6FF), (0x900, 0x97F), (0xE00, 0xE5B), (0x1100, 0x11FF),
          (0x1E00, 0x1EFF), (0x2000, 0x206F), (0x2070, 0x209C), (0x2150, 0x218B), (0x2460, 0x24FF), (0x3000, 0x30FF),
          (0x4E00, 0x4E80), (0xAC00, 0xAC80), (0xFB00, 0xFB4F), (0xFE00, 0xFE0F), (0xFF00, 0xFFEF), (0x1D400, 0x1D4FF),
          (0x1F1E6, 0x1F1FF), (0x1F300, 0x1F64F), (0x1F3FB, 0x1F3FF), (0x20000, 0x20040)]
PIECES = SPECIALS + ["<mask>", "[WORD]", "<extra_tok>", "'s", "'LL", "  ", "\n\n", "\r\n", "\u200d", "\u0301", "1234", "½", "²", "▁"]


def hard_texts(seed):
    draw = random.Random(seed)

    def piece():
        if draw.random() < 0.2:
            return draw.choice(PIECES)
        if draw.random() < 0.3:
            return draw.choice(draw.choice(TEXTS).split(" "))
        first, last = draw.choice(RANGES)
        return "".join(chr(draw.randint(first, last)) for _ in range(draw.randint(1, 4)))

    texts = list(TEXTS)
    while len(texts) < NUM_TEXTS:
        texts.append(draw.choice(["", " "]).join(piece() for _ in range(draw.randint(1, 24))))
    return texts


def word_piece(lines, cased):
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=not cased, strip_accents=None if cased else True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(lines, trainers.WordPieceTrainer(vocab_size=400, special_tokens=SPECIALS,
                                                                   show_progress=False))
    tokenizer.decoder = decoders.WordPiece(cleanup=not cased)
    added(tokenizer, normalized_extra=False)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("</s>", "<s>")]
    tokenizer.post_processor = processors.BertProcessing(*ends)
    return tokenizer


def word_level(lines, pre, normalizer=None):
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre
    tokenizer.train_from_iterator(lines, trainers.WordLevelTrainer(vocab_size=500, special_tokens=SPECIALS,
                                                                   show_progress=False))
    added(tokenizer, normalized_extra=False)
    return tokenizer


def roberta(lines):
    tokenizer = byte_level(lines, pre_tokenizers.ByteLevel(add_prefix_space=False))
    ends = [(token, tokenizer.token_to_id(token)) for token in ("</s>", "<s>")]
    tokenizer.post_processor = processors.RobertaProcessing(*ends, trim_offsets=True, add_prefix_space=True)
    return tokenizer


def bpe(lines, pre, normalizer=None, decoder=None, **model):
    """Byte-pair encoding of characters; `model` holds its affixes."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", **model))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre
    affixes = {name: value for name, value in model.items() if name in ("continuing_subword_prefix", "end_of_word_suffix")}
    tokenizer.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=500, special_tokens=SPECIALS, show_progress=False,
                                                             **affixes))
    tokenizer.decoder = decoder
    added(tokenizer, normalized_extra=False)
    return tokenizer


def with_added(tokenizer, tokens, specials=()):
    tokenizer.add_tokens(tokens)
    tokenizer.add_special_tokens(list(specials))
    return tokenizer


def with_decoder(tokenizer, decoder):
    tokenizer.decoder = decoder
    return tokenizer


def tokenizers_of(lines):
    made = make_tokenizers(lines)
    split, sequence = pre_tokenizers.Split, pre_tokenizers.Sequence

    def then_bytes(*parts):
        return sequence([*parts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])

    made["o200k"] = byte_level(lines, split_then_bytes(O200K))
    for behavior in ("removed", "merged_with_previous", "merged_with_next", "contiguous"):
        made[f"punctuation_{behavior}"] = byte_level(lines, then_bytes(pre_tokenizers.Punctuation(behavior)))
    made["three_digits"] = byte_level(lines, then_bytes(split(Regex(r"\p{N}{1,3}"), "isolated"), split(Regex(QWEN2), "isolated")))
    made["class_algebra"] = byte_level(lines, then_bytes(split(Regex(r"[\w&&[^\d_]]+|[[a-z]\p{N}]+|\s"), "isolated")))
    made["word_borders"] = byte_level(lines, then_bytes(split(Regex(r"\b\w+\b|\W"), "isolated")))
    made["inverted"] = byte_level(lines, then_bytes(split(Regex(LLAMA3), "isolated", invert=True)))
    made["bytes_normalizer"] = byte_level(lines, split(" ", "isolated"), normalizers.ByteLevel())
    made["nmt_nfkd"] = byte_level(lines, then_bytes(pre_tokenizers.UnicodeScripts()),
                                  normalizers.Sequence([normalizers.Nmt(), normalizers.NFKD(), normalizers.StripAccents()]))
    made["word_piece"] = word_piece(lines, cased=False)
    made["word_piece_cased"] = word_piece(lines, cased=True)
    made["word_level"] = word_level(lines, pre_tokenizers.Whitespace())
    made["word_level_split"] = word_level(lines, pre_tokenizers.WhitespaceSplit(), normalizers.Lowercase())
    made["roberta"] = roberta(lines)
    made["replace_after_fuse"] = with_decoder(
        make_tokenizers(lines)["llama2"],
        decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Replace("▁", " ")]))
    made["bpe_decoder"] = with_decoder(
        byte_level(lines, pre_tokenizers.ByteLevel(add_prefix_space=True)), decoders.BPEDecoder(suffix="Ġ"))
    made["strip_prepend"] = byte_level(lines, pre_tokenizers.ByteLevel(add_prefix_space=False),
                                       normalizers.Sequence([normalizers.Strip(), normalizers.Prepend("x "),
                                                             normalizers.Replace(Regex(r"[\r\n]+"), "\n")]))
    for number, pattern in enumerate((r"\h+|\R|\X", r"(?i:'s|'ll)|\p{Han}+|\p{^L}|\p{L}+", r"(?>\s+)(?!\S)|\S++|\s",
                                      r"(?<=\p{Lu})\p{Ll}+|[[:alpha:]]|\W", r"[\d²½]+|[ⓐ-ⓩ]|(?<twice>.)\k<twice>+|\w")):
        made[f"pattern_{number}"] = byte_level(lines, then_bytes(split(Regex(pattern), "isolated")))
    made["pieces_of_three"] = byte_level(lines, then_bytes(pre_tokenizers.FixedLength(3)))
    made["word_ends"] = bpe(lines, pre_tokenizers.WhitespaceSplit(), normalizers.NFKC(), decoders.BPEDecoder("</w>"),
                            end_of_word_suffix="</w>")
    made["word_rests"] = bpe(lines, pre_tokenizers.Whitespace(), None, decoders.WordPiece("##"),
                             continuing_subword_prefix="##", fuse_unk=True)
    made["fused_then_replaced"] = bpe(
        lines, pre_tokenizers.Metaspace("▁", "always", False), None,
        decoders.Sequence([decoders.Fuse(), decoders.Replace(Regex("▁"), " "), decoders.Strip(" ", 1, 0)]))
    made["added_overlap"] = with_added(
        byte_level(lines, pre_tokenizers.ByteLevel(add_prefix_space=False)),
        ["ab", "abc", AddedToken("bc ", lstrip=True), AddedToken(" de", rstrip=True), AddedToken("the", single_word=True),
         AddedToken("1", single_word=True), "  ", "\n", "²"],
        [AddedToken("<|a|>", lstrip=True, rstrip=True), "<|a|>b", AddedToken("é", normalized=False)])
    made["added_normalized"] = with_added(
        byte_level(lines, pre_tokenizers.ByteLevel(add_prefix_space=False),
                   normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.StripAccents()])),
        ["ab", "ABC", AddedToken("The", single_word=True), AddedToken("ÉA", normalized=True), "½"])
    assert len(made) >= NUM_TOKENIZERS, len(made)
    return made


def streamed(tokenizer, ids):
    """None where the reference's own stream gives up: its decoder rewrites what it gave out before."""
    stream = DecodeStream(skip_special_tokens=False)
    try:
        return "".join(filter(None, (stream.step(tokenizer, each) for each in ids)))
    except Exception as error:  # pylint: disable=broad-except  (the library has no narrower one)
        assert "Invalid prefix" in str(error), error
        return None


def main():
    with open(sys.argv[1], encoding="utf-8") as training_text:
        lines = training_text.read().split("\n")[:2500]
    texts = hard_texts(int(sys.argv[2]))
    with open(sys.argv[3], "w", encoding="utf-8") as out:
        print(json.dumps(texts), file=out)
        for name, tokenizer in tokenizers_of(lines).items():
            ids = [tokenizer.encode(text).ids for text in texts]
            print(json.dumps({"name": name, "tokenizer": json.loads(tokenizer.to_str()), "ids": ids,
                              "texts": [tokenizer.decode(each, skip_special_tokens=False) for each in ids],
                              "streams": [streamed(tokenizer, each) for each in ids]}), file=out)


main()
