// The Responses API's answer: one message of text, streamed as typed events or whole. See
// openai_answer.h.
#pragma once

#include <memory>

#include "server/http/openai_answer.h"

namespace kvasir {

std::unique_ptr<OpenAiAnswer> MakeResponsesAnswer(AnswerIdentity identity,
                                                  const Tokenizer* tokenizer);

}  // namespace kvasir
