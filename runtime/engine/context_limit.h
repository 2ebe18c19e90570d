// What a model's context leaves room for: the one place that says whether a prompt is too long.
// Pure functions, thread safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace kvasir {

// The client's words when a session's history and a prompt, together, are longer than the context;
// nothing when they fit. A prompt may fill the context: one token follows it.
std::optional<std::string> ContextViolation(int64_t history_tokens, int64_t prompt_tokens,
                                            int32_t max_context_tokens);

// Most tokens that can follow `known_tokens`: the last one of a full context needs no room, for its
// K/V is never computed. 0 where the known ones do not fit.
int64_t OutputRoom(int64_t known_tokens, int32_t max_context_tokens);

}  // namespace kvasir
