// Names for the contents of full blocks: a 128-bit keyed digest chained over the whole prefix,
//
//   root  = H(key, scope)                 the salt, where there is one, is part of the scope
//   child = H(key, parent digest, token ids of the block)
//
// so equal digests mean equal scope and equal tokens from position 0 on (K and V depend on all of
// them). H is SHA-256 with the 32-byte secret in front, cut to 128 bits; all inputs of one kind
// have one length, and no two kinds the same, so the prefix form is a sound MAC. The key keeps
// clients from steering hash buckets. Cost for 32 tokens: about 0.15 us with SHA extensions.
//
// Not thread safe (one OpenSSL context is used again and again). Scopes that must not share get
// different numbers or salts.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

struct evp_md_ctx_st;

namespace kvasir {

struct BlockDigest {
  std::array<uint64_t, 2> words{};

  friend bool operator==(const BlockDigest& a, const BlockDigest& b) { return a.words == b.words; }
  friend bool operator!=(const BlockDigest& a, const BlockDigest& b) { return a.words != b.words; }
  // Already uniform: absl's mixing of one word is plenty.
  template <typename H>
  friend H AbslHashValue(H state, const BlockDigest& digest) {
    return H::combine(std::move(state), digest.words[0]);
  }
};

// Digest of a secret that splits a scope: who does not know it finds nothing. Zero: none.
using CacheSalt = std::array<uint64_t, 2>;

// Who may share: those of one number and one salt.
struct PrefixScope {
  // NOLINTNEXTLINE(google-explicit-constructor): a scope without a salt is its number.
  PrefixScope(uint64_t number, const CacheSalt& salt = {}) : number(number), salt(salt) {}

  // A number for a name, the same in every process: 63 bits of its SHA-256.
  static uint64_t NumberOf(absl::string_view name);

  uint64_t number;
  CacheSalt salt;
};

class BlockHasher {
 public:
  static constexpr size_t kKeyBytes = 32;

  explicit BlockHasher(const std::array<uint8_t, kKeyBytes>& key);
  BlockHasher(const BlockHasher&) = delete;
  BlockHasher& operator=(const BlockHasher&) = delete;
  ~BlockHasher();

  BlockDigest Root(const PrefixScope& scope);
  // `tokens`: [block_tokens]
  BlockDigest Child(const BlockDigest& parent, absl::Span<const int32_t> tokens);

 private:
  BlockDigest Digest(const void* head, size_t head_bytes, const void* tail, size_t tail_bytes);

  const std::array<uint8_t, kKeyBytes> key_;
  evp_md_ctx_st* const context_;
};

}  // namespace kvasir
