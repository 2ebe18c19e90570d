// Everything that a model needs to be served, in the order in which it must be destroyed. Made by
// process/model_loading, owned by the ModelRegistry, constant while it serves.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "runtime/engine/engine.h"
#include "runtime/grammar/grammar_compiler.h"
#include "runtime/model/model.h"
#include "runtime/tokenizer/chat_template.h"
#include "runtime/tokenizer/tokenizer.h"
#include "server/config/attention_policy.h"
#include "server/config/speculation_policy.h"
#include "server/frontend/response/response_format.h"

namespace kvasir {

struct ServedModel {
  std::string name;
  std::string path;  // of its files on this machine
  absl::Time loaded = absl::Now();
  int32_t default_max_tokens = 256;
  AttentionPolicy attention;
  SpeculationPolicy speculation;
  // Calls keep these two to their end, which a slow client decides: the model may be gone by then.
  std::shared_ptr<const Tokenizer> tokenizer;
  std::shared_ptr<ResponseFormat> response_format =  // of its reasoning and tool calls
      std::make_shared<ResponseFormat>();
  std::unique_ptr<ChatTemplate> chat_template;  // null when the model has none
  std::string template_time;                    // what templates see; empty = the real time
  std::vector<TokenId> response_markers;        // the special tokens among that format's markers
  std::unique_ptr<Model> model;
  std::unique_ptr<Model> draft_model;  // null without speculation.draft
  std::unique_ptr<EngineObserver> observer;
  std::unique_ptr<GrammarCompiler> grammars;  // borrows the tokenizer
  std::unique_ptr<Engine> engine;             // borrows tokenizer, models and observer
  int64_t held_bytes = 0;  // weights and KV pools, as the plan of the memory counts them
  std::atomic<bool> unloading{false};  // takes no new requests, and what follows it shall end
};

// What a reader holds: the model stays whole until the last holder lets go of it. Not for keeping
// longer than a call that waits for the engine: an unload waits for all of them.
using ServedModelRef = std::shared_ptr<ServedModel>;

}  // namespace kvasir
