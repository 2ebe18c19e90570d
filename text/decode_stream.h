/* The text library's decoding of tokens as they come. Conventions: kvasir_text.h. */
#ifndef KVASIR_TEXT_DECODE_STREAM_H_
#define KVASIR_TEXT_DECODE_STREAM_H_

#include "text/kvasir_text.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The text of one sequence of tokens. Borrows the tokenizer, which must outlive it. One thread at a
 * time. What it gives together is what kvasir_text_decode gives of all the ids, but for these:
 *  - Of a run of byte tokens ("<0xE4>") that is not UTF-8, kvasir_text_decode makes one U+FFFD for
 *    each byte. Here the whole characters before the byte that breaks the run are characters, which
 *    were given before that byte came.
 *  - A decoder that rewrites the text after its tokens were joined, other than by stripping or by
 *    replacing a fixed text, may read a longer text in another way. What was given stays.
 *  - A stage after ByteFallback that judges tokens reads each character of a run as a token. */
typedef struct KvasirTextStream KvasirTextStream;

KvasirTextCode kvasir_text_stream_new(const KvasirTextTokenizer* tokenizer,
                                      KvasirTextStream** stream, KvasirTextBuffer* error);
void kvasir_text_stream_free(KvasirTextStream* stream);

/* Once, before the first append: the text before the stream's, or the end of it. A character that
 * it leaves unfinished is given when its last byte comes; its U+FFFD is not, that is the prompt's.
 * Errors, here and below: what the tokenizer's decoder fails on; the token has no text then. */
KvasirTextCode kvasir_text_stream_prompt(KvasirTextStream* stream, const int32_t* ids,
                                         size_t num_ids, KvasirTextBuffer* error);

/* The new text that no later token can change, in whole characters. Often empty. */
KvasirTextCode kvasir_text_stream_append(KvasirTextStream* stream, int32_t id,
                                         KvasirTextBuffer* text, KvasirTextBuffer* error);

/* What was held back. The stream is as new then. */
KvasirTextCode kvasir_text_stream_end(KvasirTextStream* stream, KvasirTextBuffer* text,
                                      KvasirTextBuffer* error);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* KVASIR_TEXT_DECODE_STREAM_H_ */
