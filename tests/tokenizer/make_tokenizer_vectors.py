#!/usr/bin/env python3
"""Writes tests/golden/tokenizer_vectors.json: what the reference implementation makes of tricky texts.

Needs `pip install tokenizers` (0.23 was used) and a text file to train the tiny vocabularies on. Only whoever
changes the vectors runs this; the tests need nothing but its output.

    make_tokenizer_vectors.py TRAINING_TEXT OUTPUT
"""
import json
import random
import sys

from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors,
                        trainers)

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")

TEXTS = [
    "", " ", "  ", "   a", "a   ", "\n", "\r\n", " \n ", "\n\n\n x", "a\n\nb\r\n\r\nc", "\t\tif (x):\n\t\t\treturn\n",
    "Hello, world!", "Once upon a time there was a king who had three sons.",
    "don't DON'T we'll I've 'tis 'S 'ſ o'clock y'all're it's's", "'", "''s", "x'", "'re'll",
    "1 12 123 1234 12345 1234567890 3.14159 1,000,000 ½ Ⅷ ٣٤٥٦ ²³ 1st", "a1b22c333d4444",
    "北京欢迎你。東京タワー 한국어 텍스트", "café naïve cafe\u0301 nai\u0308ve Å Å ﬁne ﬃ",
    "🙂 🙂🙂 👩‍👩‍👧‍👦 🇩🇪 ❤️ a🙂b", "x\u0301y\u0302 \u0301 \u0300\u0301", "नमस्ते दुनिया สวัสดี שלום مرحبا",
    "\u00a0nbsp\u2003em\u3000ideo\u0085nel\u2028ls\u200bzw", "ÀÉÎ ÀÉÎ straße STRASSE İstanbul ǅ Σς",
    "snake_case CamelCase SCREAMING_CASE kebab-case a.b.c foo() -> bar[]; // x /* y */ #$%^&*",
    "http://example.com/a?b=c&d=e#f user@host \\n \\t C:\\dir", "((()))[[]]{{}}<<>>...!!!???---___===",
    "Trailing space \nand tabs\t\t\nend", "a" * 100, "ab" * 40 + " " + "ba" * 40, "   lead and trail   ",
    "<s>one</s> two <|user|> three<|user|>", "<s>", "</s></s>", " <s> ", "mask <mask> it", "the<mask>", "a  <mask>  b",
    "[WORD] [WORD]x x[WORD] ([WORD])", "<extra_tok>y <extra_tok_long>", "<|us er|> <|user|", "▁▁ a▁b", "▁", "a▁",
    "Ġ Ċ Ā ÿ", "\x00\x01\x7f", "\ufffd\ufeff\U0010ffff", "zürich ŒUVRE þorn ßßß", "ⅷ ⓐ ① ㈠",
    "the The THE tHe  the   THE", "\u180e\u2060x", "e\u0301\u0323 \u1e69 s\u0323\u0307 s\u0307\u0323",
]

SPECIALS = ["<s>", "</s>", "<unk>", "<|user|>"]


def added(tokenizer, normalized_extra):
    tokenizer.add_special_tokens(SPECIALS)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, rstrip=True, special=True, normalized=False)])
    tokenizer.add_tokens([
        AddedToken("[WORD]", single_word=True, normalized=False),
        AddedToken("<extra_tok>", normalized=normalized_extra),
        AddedToken("<extra_tok_long>", normalized=normalized_extra),
    ])


def bos_template(tokenizer):
    return processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1",
                                         special_tokens=[("<s>", tokenizer.token_to_id("<s>"))])


def byte_level(lines, pre, normalizer=None, ignore_merges=False, size=380):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  special_tokens=SPECIALS, show_progress=False)
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.decoder = decoders.ByteLevel()
    added(tokenizer, normalized_extra=True)
    return tokenizer


def split_then_bytes(pattern):
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])


def sentencepiece_bpe(lines, pre, normalizer, decoder, byte_fallback=True, fuse_unk=True):
    bytes_ = [f"<0x{b:02X}>" for b in range(256)] if byte_fallback else []
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIALS, limit_alphabet=60, show_progress=False)
    trained.train_from_iterator([line for line in lines if line.isascii()], trainer)
    model = json.loads(trained.to_str())["model"]
    names = SPECIALS + bytes_ + [t for t, _ in sorted(model["vocab"].items(), key=lambda e: e[1]) if t not in SPECIALS]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(names)},
                                     merges=[tuple(m) for m in model["merges"]], unk_token="<unk>", fuse_unk=fuse_unk,
                                     byte_fallback=byte_fallback))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre is not None:
        tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoder
    added(tokenizer, normalized_extra=False)
    tokenizer.post_processor = bos_template(tokenizer)
    return tokenizer


def unigram(lines, byte_fallback, decoder):
    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=SPECIALS, unk_token="<unk>", show_progress=False)
    trained.train_from_iterator([line for line in lines if line.isascii()], trainer)
    vocab = [(t, round(s, 4)) for t, s in json.loads(trained.to_str())["model"]["vocab"]]
    if byte_fallback:
        vocab = vocab[:4] + [(f"<0x{b:02X}>", 0.0) for b in range(256)] + vocab[4:]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=2, byte_fallback=byte_fallback))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Strip(), normalizers.Replace(
        Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoder
    added(tokenizer, normalized_extra=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A $B </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))])
    return tokenizer


def llama2_decoder():
    return decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                              decoders.Strip(" ", 1, 0)])


def make_tokenizers(lines):
    llama2_normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    llama3 = byte_level(lines, split_then_bytes(LLAMA3), ignore_merges=True)
    llama3.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), bos_template(llama3)])
    return {
        "gpt2": byte_level(lines, pre_tokenizers.ByteLevel(add_prefix_space=False)),
        "gpt2_prefix_space": byte_level(lines, pre_tokenizers.ByteLevel(add_prefix_space=True)),
        "llama3": llama3,
        "qwen2": byte_level(lines, split_then_bytes(QWEN2), normalizers.NFC()),
        "digits_then_gpt2": byte_level(
            lines, pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                            pre_tokenizers.ByteLevel(add_prefix_space=False)]),
            normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])),
        "llama2": sentencepiece_bpe(lines, None, llama2_normalizer, llama2_decoder()),
        "metaspace_first": sentencepiece_bpe(lines, pre_tokenizers.Metaspace(prepend_scheme="first", split=False), None,
                                             llama2_decoder()),
        "bpe_unk_fused": sentencepiece_bpe(lines, pre_tokenizers.Metaspace(prepend_scheme="always"), None,
                                           decoders.Metaspace(), byte_fallback=False),
        "bpe_unk_single": sentencepiece_bpe(lines, pre_tokenizers.Metaspace(prepend_scheme="never"), None,
                                            decoders.Metaspace(prepend_scheme="never"), byte_fallback=False,
                                            fuse_unk=False),
        "unigram_unk": unigram(lines, False, decoders.Metaspace()),
        "unigram_bytes": unigram(lines, True, decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])),
    }


def make_splits():
    split = pre_tokenizers.Split
    made = {
        "gpt2": pre_tokenizers.ByteLevel(add_prefix_space=False),
        "llama3": split(Regex(LLAMA3), "isolated"),
        "qwen2": split(Regex(QWEN2), "isolated"),
        "o200k": split(Regex(O200K), "isolated"),
        "llama3_inverted": split(Regex(LLAMA3), "removed", invert=True),
        "whitespace": pre_tokenizers.Whitespace(),
        "whitespace_split": pre_tokenizers.WhitespaceSplit(),
        "digits": pre_tokenizers.Digits(individual_digits=False),
        "digits_single": pre_tokenizers.Digits(individual_digits=True),
        "metaspace": pre_tokenizers.Metaspace(),
    }
    for behavior in ["removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"]:
        made[f"blank_{behavior}"] = split(" ", behavior)
        made[f"vowel_{behavior}_inverted"] = split(Regex("[aeiou]"), behavior, invert=True)
        made[f"punctuation_{behavior}"] = pre_tokenizers.Punctuation(behavior)
    return made


def main():
    with open(sys.argv[1], encoding="utf-8") as training_text:
        lines = training_text.read().split("\n")[:2500]
    rng = random.Random(7)
    result = {"note": "made by tests/tokenizer/make_tokenizer_vectors.py with tokenizers 0.23", "texts": TEXTS,
              "tokenizers": [], "splits": []}
    for name, tokenizer in make_tokenizers(lines).items():
        encodings, plain = [], []
        for text in TEXTS:
            tokenizer.encode_special_tokens = False
            encodings.append(tokenizer.encode(text).ids)
            tokenizer.encode_special_tokens = True
            plain.append(tokenizer.encode(text, add_special_tokens=False).ids)
        # Tokens of random ids; byte tokens are left out, whose broken runs are read differently on purpose.
        whole = [i for t, i in tokenizer.get_vocab().items() if not t.startswith("<0x")]
        whole.sort()
        decodes = []
        for ids in encodings + [rng.choices(whole, k=12) for _ in range(20)]:
            decode = {"text": tokenizer.decode(ids, skip_special_tokens=False)}
            if len(decodes) >= len(encodings):  # the first ones decode "ids"
                decode["ids"] = ids
            without_special = tokenizer.decode(ids, skip_special_tokens=True)
            if without_special != decode["text"]:
                decode["text_without_special"] = without_special
            decodes.append(decode)
        result["tokenizers"].append({"name": name, "tokenizer": json.loads(tokenizer.to_str()),
                                     "ids": encodings, "ids_plain": plain, "decodes": decodes})
    for name, pre in make_splits().items():
        holder = Tokenizer(models.BPE())
        holder.pre_tokenizer = pre
        result["splits"].append({
            "name": name, "pre_tokenizer": json.loads(holder.to_str())["pre_tokenizer"],
            "pieces": [[piece for piece, _ in pre.pre_tokenize_str(text)] for text in TEXTS]})
    with open(sys.argv[2], "w", encoding="utf-8") as out:
        # One line per list element keeps diffs readable without a line per id.
        out.write(json.dumps(result, ensure_ascii=False, separators=(",", ":")).replace('},{"name"', '},\n{"name"'))
        out.write("\n")


if __name__ == "__main__":
    main()
