#include "server/config/grammar_config.h"

#include <cstdint>

#include "absl/strings/str_cat.h"

namespace kvasir {

void FillGrammarDefaults(config::v1::GrammarConfig* grammar) {
  const GrammarLimits defaults;
  if (!grammar->has_max_source_bytes()) {
    grammar->set_max_source_bytes(static_cast<int32_t>(defaults.max_source_bytes));
  }
  if (!grammar->has_max_symbols()) grammar->set_max_symbols(defaults.max_symbols);
  if (!grammar->has_max_lexer_states()) grammar->set_max_lexer_states(defaults.max_lexer_states);
  if (!grammar->has_compile_fuel()) grammar->set_compile_fuel(defaults.compile_fuel);
  if (!grammar->has_step_fuel()) grammar->set_step_fuel(defaults.step_fuel);
  if (!grammar->has_max_step_items()) grammar->set_max_step_items(defaults.max_step_items);
  if (!grammar->has_max_compile_seconds()) {
    grammar->set_max_compile_seconds(absl::ToDoubleSeconds(defaults.max_compile_time));
  }
  if (!grammar->has_max_waiting()) grammar->set_max_waiting(defaults.max_waiting);
  if (!grammar->has_max_compiled()) grammar->set_max_compiled(defaults.max_compiled);
}

GrammarLimits CheckGrammar(const config::v1::GrammarConfig& grammar, const std::string& path,
                           ConfigChecker* check) {
  const auto range = [&](const char* name, int64_t value, int64_t least, int64_t most) {
    return check->Range(absl::StrCat(path, ".", name), value, least, most,
                        "it bounds what one constraint of the output may cost");
  };
  GrammarLimits limits;
  limits.max_source_bytes =
      range("max_source_bytes", grammar.max_source_bytes(), 256, int64_t{1} << 20);
  limits.max_symbols = range("max_symbols", grammar.max_symbols(), 1000, 10'000'000);
  limits.max_lexer_states = range("max_lexer_states", grammar.max_lexer_states(), 1000, 1'000'000);
  limits.compile_fuel = range("compile_fuel", grammar.compile_fuel(), 1000, 100'000'000);
  limits.step_fuel = range("step_fuel", grammar.step_fuel(), 1000, 100'000'000);
  limits.max_step_items = range("max_step_items", grammar.max_step_items(), 1000, 10'000'000);
  limits.max_compile_time =
      absl::Seconds(check->Range(path + ".max_compile_seconds", grammar.max_compile_seconds(), 0.01,
                                 600.0, "a request whose grammar takes longer is refused"));
  limits.max_waiting = static_cast<int32_t>(range("max_waiting", grammar.max_waiting(), 1, 4096));
  limits.max_compiled =
      static_cast<int32_t>(range("max_compiled", grammar.max_compiled(), 0, 4096));
  return limits;
}

}  // namespace kvasir
