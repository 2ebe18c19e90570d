// The engine's events as messages of the API. Stateless functions, safe from any thread.
//
// Each fills a GenerateResponse whose event was cleared; strings and vectors of the event are
// taken, not copied, where protobuf allows it. Log-probabilities carry the bytes of their tokens;
// without a tokenizer (null) none.
#pragma once

#include <string>

#include "kvasir/v1/generation.pb.h"
#include "runtime/engine/request.h"
#include "runtime/tokenizer/tokenizer.h"
#include "server/frontend/generation_pump.h"

namespace kvasir {

void FillAccepted(const AcceptedEvent& event, const std::string& request_id,
                  const std::string& model, v1::GenerateResponse* response);
void FillPromptLogprobs(const PromptLogprobsEvent& event, const Tokenizer* tokenizer,
                        v1::GenerateResponse* response);
void FillDelta(OutputDelta event, const Tokenizer* tokenizer, v1::GenerateResponse* response);
// Precondition: event.status is OK.
void FillFinal(const OutputFinished& event, v1::GenerateResponse* response);

}  // namespace kvasir
