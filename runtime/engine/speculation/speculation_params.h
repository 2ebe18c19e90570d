// Where guesses at a sequence's next tokens come from, and how many a step may check. Plain values.
//
// Speculation changes the time that tokens take and nothing else: what a guess is checked against
// is what would have been drawn anyway (speculator.h).
#pragma once

#include <cstdint>

namespace kvasir {

enum class SpeculationMode {
  kOff,
  kNgram,  // what followed the same few tokens before, in prompt or output (ngram_drafter.h)
  kDraft,  // a smaller model of the same vocabulary (model_drafter.h)
};

// "off", "ngram", "draft"
constexpr const char* SpeculationModeName(SpeculationMode mode) {
  return mode == SpeculationMode::kOff     ? "off"
         : mode == SpeculationMode::kNgram ? "ngram"
                                           : "draft";
}

// Of a request; also what requests get that say nothing.
struct SpeculationParams {
  SpeculationMode mode = SpeculationMode::kOff;
  int32_t max_draft_tokens = 8;  // most in one step, >= 0
};

}  // namespace kvasir
