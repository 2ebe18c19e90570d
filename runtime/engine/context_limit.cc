#include "runtime/engine/context_limit.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace kvasir {

std::optional<std::string> ContextViolation(int64_t history_tokens, int64_t prompt_tokens,
                                            int32_t max_context_tokens) {
  const int64_t excess = history_tokens + prompt_tokens - max_context_tokens;
  if (excess <= 0) return std::nullopt;
  const std::string has = history_tokens == 0
                              ? absl::StrCat("the prompt has ", prompt_tokens, " tokens")
                              : absl::StrCat("the session's history and the prompt have ",
                                             history_tokens + prompt_tokens, " tokens together, ",
                                             history_tokens, " of them the history's");
  return absl::StrCat(has, ", the model's context holds ", max_context_tokens,
                      history_tokens == 0 ? "; shorten it by "
                                          : "; start a new session, or send a full history that is "
                                            "shorter by ",
                      excess, " tokens or more");
}

int64_t OutputRoom(int64_t known_tokens, int32_t max_context_tokens) {
  return std::max<int64_t>(0, max_context_tokens - known_tokens + 1);
}

}  // namespace kvasir
