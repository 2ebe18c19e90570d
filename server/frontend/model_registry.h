// The models that this daemon serves, by name. Filled by the daemon before the services start,
// constant after; thread safe for reading. Owns everything a model needs, in the order in which it
// must be destroyed.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
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
#include "server/identity/caller.h"

namespace kvasir {

struct ServedModel {
  std::string name;
  int32_t default_max_tokens = 256;
  absl::Time loaded = absl::Now();
  AttentionPolicy attention;
  SpeculationPolicy speculation;
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<ChatTemplate> chat_template;  // null when the model has none
  std::string template_time;                    // what templates see; empty = the real time
  ResponseFormat response_format;               // of its reasoning and tool calls
  std::vector<TokenId> response_markers;        // the special tokens among that format's markers
  std::unique_ptr<Model> model;
  std::unique_ptr<Model> draft_model;  // null without speculation.draft
  std::unique_ptr<EngineObserver> observer;
  std::unique_ptr<GrammarCompiler> grammars;  // borrows the tokenizer
  std::unique_ptr<Engine> engine;             // borrows tokenizer, models and observer
};

class ModelRegistry {
 public:
  // AlreadyExists when the name is taken.
  absl::Status Add(std::unique_ptr<ServedModel> model);

  // The model of that name; with an empty name the only one. A model that the caller may not use
  // does not exist for it. NotFound, naming what is served to the caller; InvalidArgument when the
  // name is empty and several are served.
  absl::StatusOr<ServedModel*> Find(absl::string_view name, const Caller& caller) const;

  // In order of name: those that the caller may use, and all.
  std::vector<ServedModel*> AllOf(const Caller& caller) const;
  std::vector<ServedModel*> All() const;

 private:
  std::map<std::string, std::unique_ptr<ServedModel>, std::less<>> models_;
};

}  // namespace kvasir
