// What an engine's thread computes with, made and destroyed by that thread.
#pragma once

#include <optional>

#include "runtime/engine/decoder_turns.h"
#include "runtime/engine/engine_core.h"
#include "runtime/engine/speculation/model_drafter.h"

namespace kvasir {

// Each borrows those before it.
struct EngineComputing {
  std::optional<DecoderTakingTurns> forward;
  std::optional<DecoderTakingTurns> draft_forward;  // these two with a draft model
  std::optional<ModelDrafter> drafter;
  std::optional<EngineCore> core;
};

}  // namespace kvasir
