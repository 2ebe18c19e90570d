// TokenId: the number a vocabulary gives one token. Nothing else stands here, so that scheduler,
// sampler and KV manager can speak of tokens without knowing tokenizers.
#pragma once

#include <cstdint>

namespace kvasir {

using TokenId = int32_t;

}  // namespace kvasir
