/* The text library: tokenizers, chat templates and grammars of the output by the field's own Rust
 * crates, behind C.
 *
 * Conventions of every call:
 *  - Strings come in as views (pointer and size, not terminated; `data` may be null when `size` is
 *    0) and are borrowed for the call. Results go out in buffers that the caller owns and frees
 *    with the matching *_free function.
 *  - A call that can fail returns a KvasirTextCode: 0, or the number that the same error has in
 *    gRPC and absl. Then `error` holds a message in UTF-8, and no other result is written. `error`
 *    may be null. Outputs must point to zeroed structures.
 *  - No Rust panic leaves a call: it becomes KVASIR_TEXT_INTERNAL with the panic's message. Nothing
 *    is printed, and no thread is started.
 *  - Handles but matchers are immutable once made: any number of threads may use one at the same
 *    time. Freeing one while it is in use is the caller's bug. A null handle may be freed.
 */
#ifndef KVASIR_TEXT_H_
#define KVASIR_TEXT_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum KvasirTextCode {
  KVASIR_TEXT_OK = 0,
  KVASIR_TEXT_CANCELLED = 1,
  KVASIR_TEXT_INVALID_ARGUMENT = 3,
  KVASIR_TEXT_RESOURCE_EXHAUSTED = 8,
  KVASIR_TEXT_UNIMPLEMENTED = 12,
  KVASIR_TEXT_INTERNAL = 13,
} KvasirTextCode;

typedef struct KvasirTextView {
  const char* data;
  size_t size;
} KvasirTextView;

/* Bytes owned by the caller. */
typedef struct KvasirTextBuffer {
  char* data;
  size_t size;
  size_t capacity; /* for the allocator */
} KvasirTextBuffer;
void kvasir_text_buffer_free(KvasirTextBuffer* buffer);

/* 32-bit numbers owned by the caller. */
typedef struct KvasirTextInts {
  int32_t* data;
  size_t size;
  size_t capacity; /* for the allocator */
} KvasirTextInts;
void kvasir_text_ints_free(KvasirTextInts* ints);

/* Bytes [begin, end) of a text. */
typedef struct KvasirTextSpan {
  size_t begin;
  size_t end;
} KvasirTextSpan;

/* Spans owned by the caller. */
typedef struct KvasirTextSpans {
  KvasirTextSpan* data;
  size_t size;
  size_t capacity; /* for the allocator */
} KvasirTextSpans;
void kvasir_text_spans_free(KvasirTextSpans* spans);

/* ---- Tokenizers ------------------------------------------------------------------------------ */

typedef struct KvasirTextTokenizer KvasirTextTokenizer;

/* From the contents of tokenizer.json and of tokenizer_config.json (may be empty; its
 * added_tokens_decoder is added, and add_bos_token and add_eos_token count where tokenizer.json has
 * no post-processor that adds tokens). The file's truncation, padding and dropout are ignored: they
 * are for training.
 * Errors: INVALID_ARGUMENT for a text that is not such a file, or contradicts itself. */
KvasirTextCode kvasir_text_tokenizer_from_json(KvasirTextView tokenizer_json,
                                               KvasirTextView tokenizer_config_json,
                                               KvasirTextTokenizer** tokenizer,
                                               KvasirTextBuffer* error);

/* From the contents of a SentencePiece tokenizer.model (Unigram or BPE), as the field's converter
 * makes a tokenizer.json of it. Otherwise as above; UNIMPLEMENTED for word and character models. */
KvasirTextCode kvasir_text_tokenizer_from_sentencepiece(KvasirTextView model,
                                                        KvasirTextView tokenizer_config_json,
                                                        KvasirTextTokenizer** tokenizer,
                                                        KvasirTextBuffer* error);

/* A vocabulary as GGUF metadata has it (tokenizer.ggml.*). Absent ids are -1, absent arrays empty,
 * absent flags -1. Everything is borrowed for the call. */
typedef struct KvasirTextVocabulary {
  KvasirTextView model;         /* "gpt2", "llama", "t5", "bert" */
  KvasirTextView pre;           /* "llama-bpe", "qwen2", ...; says how a gpt2 text is split */
  const KvasirTextView* tokens; /* [num_tokens], UTF-8 */
  const float* scores;          /* [num_scores]: num_tokens or 0 */
  const int32_t* token_types;   /* [num_token_types]: num_tokens or 0; 1 normal, 2 unknown,
                                   3 control, 4 user defined, 5 unused, 6 byte */
  const KvasirTextView* merges; /* [num_merges], "left right" */
  KvasirTextView precompiled_charsmap;
  size_t num_tokens, num_scores, num_token_types, num_merges;
  int32_t bos_id, eos_id, unk_id, sep_id, cls_id, pad_id, mask_id;
  int8_t add_bos, add_eos, add_space_prefix, remove_extra_whitespaces, ignore_merges;
} KvasirTextVocabulary;

/* Errors: INVALID_ARGUMENT when arrays contradict each other; UNIMPLEMENTED for another model, or
 * for a `pre` that is not known (a guess would give other ids). */
KvasirTextCode kvasir_text_tokenizer_from_vocabulary(const KvasirTextVocabulary* vocabulary,
                                                     KvasirTextTokenizer** tokenizer,
                                                     KvasirTextBuffer* error);

/* The `pre` under which kvasir_text_tokenizer_from_vocabulary splits texts by these patterns, one
 * after the other, each match a piece of its own, and then, with `gpt2_pattern`, by GPT-2's. Static
 * text; empty: there is no such name. */
KvasirTextView kvasir_text_split_name(const KvasirTextView* patterns, size_t num_patterns,
                                      bool gpt2_pattern, bool ignore_merges);

void kvasir_text_tokenizer_free(KvasirTextTokenizer* tokenizer);

enum {
  KVASIR_TEXT_TOKEN_PRESENT = 1, /* not a hole in the vocabulary */
  KVASIR_TEXT_TOKEN_SPECIAL = 2,
  KVASIR_TEXT_TOKEN_ADDED = 4,
};

/* What is known of every id; lives as long as the tokenizer. */
typedef struct KvasirTextTokenTable {
  size_t num_tokens;            /* 1 + the largest id */
  const char* names;            /* "Ġthe", end to end */
  const uint32_t* name_offsets; /* [num_tokens + 1] into names */
  const char* bytes;            /* " the": what each token adds to running text, end to end */
  const uint32_t* byte_offsets; /* [num_tokens + 1] into bytes */
  const uint8_t* flags;         /* [num_tokens] */
  int32_t bos_id, eos_id;       /* of tokenizer_config.json or the vocabulary; -1 when absent */
} KvasirTextTokenTable;
KvasirTextTokenTable kvasir_text_tokenizer_table(const KvasirTextTokenizer* tokenizer);

/* The id of the token that is spelled `name` in the vocabulary, or -1. */
int32_t kvasir_text_token_id(const KvasirTextTokenizer* tokenizer, KvasirTextView name);

typedef struct KvasirTextEncodeOptions {
  bool add_special_tokens;   /* what the post-processor adds, BOS for example */
  bool parse_special_tokens; /* whether "<|end|>" in the text is the token of that name */
  /* With parse_special_tokens: no special token is recognised where it touches one of these. In
   * ascending order, apart from each other. */
  const KvasirTextSpan* plain;
  size_t num_plain;
  /* Asked now and then from the calling thread, when not null: true ends the call with CANCELLED.
   * It must not throw. */
  bool (*cancelled)(void* context);
  void* context;
} KvasirTextEncodeOptions;

/* Errors: INVALID_ARGUMENT for invalid UTF-8, or a text on which a pattern of the file gives up;
 * CANCELLED. Takes time in proportion to the text, and memory of some 40 times its size. */
KvasirTextCode kvasir_text_encode(const KvasirTextTokenizer* tokenizer, KvasirTextView text,
                                  const KvasirTextEncodeOptions* options, KvasirTextInts* ids,
                                  KvasirTextBuffer* error);

/* The text of `ids`, in UTF-8. Ids that name no token have no text. */
KvasirTextCode kvasir_text_decode(const KvasirTextTokenizer* tokenizer, const int32_t* ids,
                                  size_t num_ids, bool skip_special_tokens, KvasirTextBuffer* text,
                                  KvasirTextBuffer* error);

/* ---- Chat templates -------------------------------------------------------------------------- */

typedef struct KvasirTextChat KvasirTextChat;

typedef struct KvasirTextNamedTemplate {
  KvasirTextView name; /* "default", "tool_use", ... */
  KvasirTextView source;
} KvasirTextNamedTemplate;

/* A model's chat templates. `files` (templates in files of their own) win over chat_template in
 * tokenizer_config.json, that over chat_template.json; each may be empty. From `tokenizer`, which
 * may be null and is borrowed for this call, come the names of special tokens.
 * Errors: UNIMPLEMENTED when there is no template at all; INVALID_ARGUMENT for one with a syntax
 * error, with its line. */
KvasirTextCode kvasir_text_chat_new(const KvasirTextNamedTemplate* files, size_t num_files,
                                    KvasirTextView tokenizer_config_json,
                                    KvasirTextView chat_template_json,
                                    const KvasirTextTokenizer* tokenizer, KvasirTextChat** chat,
                                    KvasirTextBuffer* error);
void kvasir_text_chat_free(KvasirTextChat* chat);

/* The prompt of a conversation: a JSON object with `messages`, and optionally `tools`, `documents`,
 * `add_generation_prompt`, `continue_final_message`, `chat_template` (a template's name) and
 * `kwargs` (further variables). `now` is the local time that templates see, 2026-11-28T09:30:00.
 *
 * When `plain` is not null it gets the spans of the prompt in which the conversation spells special
 * tokens: the prompt is to be encoded with parse_special_tokens and these as its plain spans, and
 * without add_special_tokens.
 *
 * Errors: INVALID_ARGUMENT with the template's own message when it raises one or fails, and for a
 * conversation that is not as said; RESOURCE_EXHAUSTED past the limits of steps and output. */
KvasirTextCode kvasir_text_chat_render(const KvasirTextChat* chat, KvasirTextView conversation_json,
                                       KvasirTextView now, KvasirTextBuffer* prompt,
                                       KvasirTextSpans* plain, KvasirTextBuffer* error);

/* Whether `time` is what kvasir_text_chat_render() takes as `now`; INVALID_ARGUMENT otherwise. */
KvasirTextCode kvasir_text_check_time(KvasirTextView time, KvasirTextBuffer* error);

/* ---- Grammars of the output --------------------------------------------------------------------
 */

/* What every compiled grammar may cost. The same input meets them at the same place on every
 * machine: nothing is measured in time. */
typedef struct KvasirTextGrammarLimits {
  size_t max_source_bytes;    /* of a constraint's text */
  size_t max_grammar_symbols; /* in all productions */
  size_t max_lexer_states;    /* of a matcher and its clones together; 1 to 2 KB each */
  uint64_t compile_fuel;      /* some 50 000 take a millisecond */
  uint64_t step_fuel;         /* for one mask; some 14 000 take a millisecond */
  size_t max_step_items;      /* parser items for one mask; some 20 000 take a millisecond */
  size_t max_row_items;       /* parser items at one place of the output: ambiguity */
} KvasirTextGrammarLimits;

typedef struct KvasirTextGrammars KvasirTextGrammars;

/* The compiler for one model: `vocab_size` logits, of which those in `eos_ids` end the output.
 * `tokenizer` must outlive it and all its matchers. Takes some 300 ms and 50 MB for 128 000 tokens.
 * Errors: INVALID_ARGUMENT for a vocabulary that is empty or beyond 2^23. */
KvasirTextCode kvasir_text_grammars_new(const KvasirTextTokenizer* tokenizer, size_t vocab_size,
                                        const int32_t* eos_ids, size_t num_eos_ids,
                                        const KvasirTextGrammarLimits* limits,
                                        KvasirTextGrammars** grammars, KvasirTextBuffer* error);
/* Matchers made of it may live on. */
void kvasir_text_grammars_free(KvasirTextGrammars* grammars);

enum {
  KVASIR_TEXT_CONSTRAINT_JSON_SCHEMA = 0, /* text: a schema; empty = any JSON */
  KVASIR_TEXT_CONSTRAINT_REGEX = 1,       /* text: what the whole output matches */
  KVASIR_TEXT_CONSTRAINT_LARK = 2,        /* text: a grammar with the rule `start` */
  KVASIR_TEXT_CONSTRAINT_CHOICE = 3,      /* text: a JSON array of strings */
  /* text: {"tags": [{"begin": s, "schema": s, "end": s}, ...], "at_once": b, "only_one": b} */
  KVASIR_TEXT_CONSTRAINT_STRUCTURAL_TAG = 4,
  /* text: as CallConstraintText() of server/frontend/response/call_constraint.h writes it. Maybe
   * reasoning and white space, then `open`, calls with `between` between them, `close`, and nothing
   * else; the arguments of a call are a JSON object, or spelled in its `notation`. */
  KVASIR_TEXT_CONSTRAINT_TOOL_CALLS = 5,
};

typedef struct KvasirTextConstraint {
  int32_t kind;
  KvasirTextView text;
  KvasirTextView after; /* not empty: free text up to and with this comes before */
} KvasirTextConstraint;

/* Where one output stands in its grammar: of one sequence, used by one thread at a time. An error
 * of a call stays: every later call but clone and free gives it again. */
typedef struct KvasirTextMatcher KvasirTextMatcher;

/* A matcher at the beginning of an output. Errors: INVALID_ARGUMENT with the compiler's reason: it
 * is broken, has what cannot be kept, is beyond the limits, or allows no output at all. Recurses as
 * deep as the constraint refers to itself: the caller's stack must have 1 KB for each of its bytes.
 * Several threads may compile at once. */
KvasirTextCode kvasir_text_grammar_compile(const KvasirTextGrammars* grammars,
                                           const KvasirTextConstraint* constraint,
                                           KvasirTextMatcher** matcher, KvasirTextBuffer* error);

/* Another one at the same place, which may go another way, on another thread too. */
KvasirTextCode kvasir_text_matcher_clone(const KvasirTextMatcher* matcher,
                                         KvasirTextMatcher** clone, KvasirTextBuffer* error);

/* As clone, but nothing is shared: the copy's automaton grows, and meets its limits, by what is
 * done with the copy alone. */
KvasirTextCode kvasir_text_matcher_copy(const KvasirTextMatcher* matcher, KvasirTextMatcher** copy,
                                        KvasirTextBuffer* error);
void kvasir_text_matcher_free(KvasirTextMatcher* matcher);

/* Bit i % 32 of mask[i / 32] says whether token i may come next; an end-of-sequence id where the
 * output may end. num_words: vocab_size / 32, rounded up. Changes nothing that can be seen.
 * Errors: INVALID_ARGUMENT when no token may come, or the state grows beyond the limits. */
KvasirTextCode kvasir_text_matcher_mask(KvasirTextMatcher* matcher, uint32_t* mask,
                                        size_t num_words, KvasirTextBuffer* error);

/* The output goes on with these. Errors: INVALID_ARGUMENT when one was not allowed. */
KvasirTextCode kvasir_text_matcher_commit(KvasirTextMatcher* matcher, const int32_t* tokens,
                                          size_t num_tokens, KvasirTextBuffer* error);

/* The next tokens, where there is no choice: masks allow exactly these, one after the other. */
KvasirTextCode kvasir_text_matcher_forced(const KvasirTextMatcher* matcher, KvasirTextInts* tokens,
                                          KvasirTextBuffer* error);

/* Whether the output may end here; whether it must, for nothing can follow. False after an error.
 */
bool kvasir_text_matcher_is_accepting(KvasirTextMatcher* matcher);
bool kvasir_text_matcher_is_complete(const KvasirTextMatcher* matcher);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* KVASIR_TEXT_H_ */
