// Ways to attend to fewer positions than a layer may see: the seam between who asks for one (the
// front end), who keeps it (the engine), who runs it (the decoder), and what it is. None of the
// first three knows more of a method than this.
//
//   AttentionMethod    what a request asks for, whatever the model
//   ResolvedAttention  the same for one request: its parameters in every layer, where it begins
//   SparseAttention    runs it
//
// Where no method is asked for, where it has not begun, and in layers that it does not cover,
// attention is dense (paged_attention.h), within the layer's window if it has one.
//
// The first two are immutable and thread safe.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/types/span.h"
#include "kvcache/kv_layout.h"
#include "kvcache/kv_view.h"
#include "runtime/ops/attention_rules.h"
#include "runtime/ops/matmul.h"
#include "runtime/ops/paged_attention.h"

namespace kvasir {

class ResolvedAttention {
 public:
  explicit ResolvedAttention(int32_t first_position) : first_position_(first_position) {}
  virtual ~ResolvedAttention() = default;

  // Tokens from this position on attend by the method, recomputed ones included; it is not before
  // the prompt's end.
  int32_t first_position() const { return first_position_; }
  // Whether it does anything in this layer.
  virtual bool Covers(int layer) const = 0;
  // Bytes of the pool that one query row with `positions` cached positions (its own included) reads
  // in a covered layer that chooses for itself, as far as they do not depend on the scores.
  virtual int64_t BytesRead(const KvLayout& layout, int layer, int64_t positions) const = 0;

 private:
  const int32_t first_position_;
};

class AttentionMethod {
 public:
  virtual ~AttentionMethod() = default;

  // For a request of `prompt_tokens` whose context may come to `context_tokens`. query_heads:
  // [layers], 0 where nothing but dense attention is right (ModelSpec::PlainQueryHeads). Null where
  // everything is to be dense: no layer can do better, or the cache lacks the planes for it
  // (KvLayout::k_columns).
  virtual std::unique_ptr<const ResolvedAttention> Resolve(const KvLayout& layout,
                                                           absl::Span<const int32_t> query_heads,
                                                           int32_t prompt_tokens,
                                                           int32_t context_tokens) const = 0;
};

// Consecutive query rows of one sequence.
struct SparseSequence {
  AttentionSequence sequence;
  const ResolvedAttention* method = nullptr;  // of the SparseAttention's kind
  int64_t* bytes_read = nullptr;  // what its rows read of the pool is added here, unless null
};

// Owns scratch; not thread safe.
class SparseAttention {
 public:
  virtual ~SparseAttention() = default;

  // As PagedAttention::Run with no rules but a scale, in a layer that every sequence's method
  // covers. Writes only the rows of `sequences`, so dense attention may write the others before it.
  // `same_kv`: the call before this one had the same sequences and the same K/V, so its choice of
  // positions may serve again.
  virtual void Run(int layer, const AttentionQueries& queries, float scale,
                   absl::Span<const SparseSequence> sequences, const KvView& kv, MatmulInput* out,
                   bool same_kv) = 0;
};

}  // namespace kvasir
