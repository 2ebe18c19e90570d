// The limits of structured output, from the configuration of a model.
#pragma once

#include <string>

#include "kvasir/config/v1/config.pb.h"
#include "runtime/grammar/grammar_limits.h"
#include "server/config/config_checker.h"

namespace kvasir {

// Sets what is absent.
void FillGrammarDefaults(config::v1::GrammarConfig* grammar);

// `path`: where `grammar` stands, for messages. Nothing may be absent.
GrammarLimits CheckGrammar(const config::v1::GrammarConfig& grammar, const std::string& path,
                           ConfigChecker* check);

}  // namespace kvasir
