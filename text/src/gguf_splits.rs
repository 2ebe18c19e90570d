//! How the byte-level vocabularies of GGUF files split a text, by the name that their metadata gives
//! (`tokenizer.ggml.pre`): the patterns are those that the named models' own tokenizer.json files use.

/// How one family of byte-level vocabularies splits a text.
pub struct ByteLevelKind {
    pub names: &'static [&'static str],
    pub patterns: &'static [&'static str],
    /// Whether GPT-2's pattern applies after those.
    pub gpt2_pattern: bool,
    pub ignore_merges: bool,
    pub add_bos: bool,
}

macro_rules! contractions {
    () => {
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    };
}
macro_rules! upper {
    () => {
        r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
    };
}
macro_rules! lower {
    () => {
        r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
    };
}

const LLAMA3: &str = concat!(
    contractions!(),
    r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const QWEN2: &str = concat!(
    contractions!(),
    r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const QWEN35: &str = concat!(
    contractions!(),
    r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+",
    r"|\s+(?!\S)|\s+"
);
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?", upper!(), "*", lower!(), "+",
    r"|[^\r\n\p{L}\p{N}]?", upper!(), "+", lower!(), "*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const GPT4O: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?", upper!(), "*", lower!(), "+", contractions!(), "?",
    r"|[^\r\n\p{L}\p{N}]?", upper!(), "+", lower!(), "*", contractions!(), "?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const DEEPSEEK_V3: &[&str] = &[
    r"\p{N}{1,3}",
    r"[一-龥\u{3040}-ゟ゠-ヿ]+",
    concat!(
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
        r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
];
/// Letters of scripts with case, as the model's own file lists them.
const DEEPSEEK_LETTERS: &str = concat!(
    r"\s?[",
    r"A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}",
    r"\x{295}-\x{2AF}\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}",
    r"\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}",
    r"\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}",
    r"\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}",
    r"\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}",
    r"\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}",
    r"\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}",
    r"\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107}",
    r"\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}",
    r"\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}",
    r"\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}",
    r"\x{A680}-\x{A69B}\x{A722}-\x{A76F}\x{A771}-\x{A787}\x{A78B}-\x{A78E}",
    r"\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A}",
    r"\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}",
    r"\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}",
    r"]+"
);
const DEEPSEEK_LLM: &[&str] = &[
    r"[\r\n]",
    DEEPSEEK_LETTERS,
    r"\s?[!-/:-~！-／：-～‘-‟\x{3000}-。]+",
    r"\s+$",
    r"[一-龥ࠀ-一가-\x{D7FF}]+",
    r"\p{N}+",
];
const DEEPSEEK_CODER: &[&str] = &[
    r"[\r\n]",
    r"\s?\p{L}+",
    r"\s?\p{P}+",
    r"[一-龥ࠀ-一가-\x{D7FF}]+",
    r"\p{N}",
];
const BLOOM: &str = r" ?[^(\s|[.,!?…。，、।۔،])]+";

pub const BYTE_LEVEL_KINDS: &[ByteLevelKind] = &[
    ByteLevelKind {
        names: &[
            "llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2",
        ],
        patterns: &[LLAMA3],
        gpt2_pattern: false,
        ignore_merges: true,
        add_bos: true,
    },
    ByteLevelKind {
        names: &["dbrx", "smaug-bpe", "chatglm-bpe"],
        patterns: &[LLAMA3],
        gpt2_pattern: false,
        ignore_merges: false,
        add_bos: false,
    },
    ByteLevelKind {
        names: &["glm4"],
        patterns: &[LLAMA3],
        gpt2_pattern: false,
        ignore_merges: true,
        add_bos: false,
    },
    ByteLevelKind {
        names: &[
            "qwen2", "deepseek-r1-qwen", "hunyuan", "stablelm2", "megrez", "kormo", "grok-2",
        ],
        patterns: &[QWEN2],
        gpt2_pattern: false,
        ignore_merges: false,
        add_bos: false,
    },
    ByteLevelKind {
        names: &["qwen35"],
        patterns: &[QWEN35],
        gpt2_pattern: false,
        ignore_merges: false,
        add_bos: false,
    },
    ByteLevelKind {
        names: &[
            "gpt-2", "phi-2", "olmo", "exaone4", "mpt", "jais", "gigachat", "trillion", "jina-es",
            "jina-de", "roberta-bpe",
        ],
        patterns: &[],
        gpt2_pattern: true,
        ignore_merges: false,
        add_bos: false,
    },
    ByteLevelKind {
        names: &[
            "starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva",
            "minerva-7b",
        ],
        patterns: &[r"\p{N}"],
        gpt2_pattern: true,
        ignore_merges: false,
        add_bos: false,
    },
    ByteLevelKind {
        names: &["tekken"],
        patterns: &[TEKKEN],
        gpt2_pattern: false,
        ignore_merges: true,
        add_bos: true,
    },
    ByteLevelKind {
        names: &["gpt-4o", "llama4", "kanana2", "minimax-m2"],
        patterns: &[GPT4O],
        gpt2_pattern: false,
        ignore_merges: false,
        add_bos: false,
    },
    ByteLevelKind {
        names: &["deepseek-llm"],
        patterns: DEEPSEEK_LLM,
        gpt2_pattern: false,
        ignore_merges: false,
        add_bos: false,
    },
    ByteLevelKind {
        names: &["deepseek-coder"],
        patterns: DEEPSEEK_CODER,
        gpt2_pattern: false,
        ignore_merges: false,
        add_bos: false,
    },
    ByteLevelKind {
        names: &["deepseek-v3", "hunyuan-dense", "joyai-llm"],
        patterns: DEEPSEEK_V3,
        gpt2_pattern: false,
        ignore_merges: false,
        add_bos: false,
    },
    ByteLevelKind {
        names: &["bloom", "poro-chat", "gpt3-finnish"],
        patterns: &[BLOOM],
        gpt2_pattern: false,
        ignore_merges: false,
        add_bos: false,
    },
    ByteLevelKind {
        names: &["viking"],
        patterns: &[BLOOM, r"\p{N}"],
        gpt2_pattern: false,
        ignore_merges: false,
        add_bos: false,
    },
];

/// Falcon's stages do not fit the table: they are not all patterns.
pub const FALCON: ByteLevelKind = ByteLevelKind {
    names: &["falcon"],
    patterns: &[],
    gpt2_pattern: true,
    ignore_merges: false,
    add_bos: false,
};

/// What the format calls a way of splitting: the inverse of looking a name up.
pub fn name_of(
    patterns: &[&str],
    gpt2_pattern: bool,
    ignore_merges: bool,
) -> Option<&'static str> {
    let kind = BYTE_LEVEL_KINDS.iter().find(|kind| {
        kind.patterns == patterns
            && kind.gpt2_pattern == gpt2_pattern
            && kind.ignore_merges == ignore_merges
    })?;
    kind.names.first().copied()
}
