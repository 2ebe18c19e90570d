// The table of token embeddings: one stored row per token, widened to f32 when it is looked up.
// Kept in 16 bits where the checkpoint has 16 bits, which is exact in every compute type; an f32
// table stays f32 only for f32 compute. A table that is multiplied with too, and is quantised, is
// read where the product has it. Immutable, thread safe.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"
#include "base/aligned_buffer.h"
#include "runtime/ops/matmul.h"
#include "runtime/ops/tensor.h"
#include "runtime/tokenizer/token_id.h"

namespace kvasir {

class Embedding {
 public:
  // Copies `table` [vocab_size, hidden_size].
  Embedding(const StoredMatrix& table, ComputeType compute_type);

  // Reads the rows of `product` [vocab_size, hidden_size], which has rows and outlives this.
  explicit Embedding(const Linear* product);

  // out row r = the row of tokens[r]; out: [tokens.size(), hidden_size]. Every token must be in [0,
  // vocab_size).
  void Lookup(absl::Span<const TokenId> tokens, MatrixView out) const;

  // Of its own.
  size_t bytes() const { return data_.size(); }
  WeightFormat type() const { return type_; }

 private:
  const Linear* product_ = nullptr;
  WeightFormat type_ = WeightFormat::kF32;
  int64_t vocab_size_;
  int64_t hidden_size_;
  float factor_ = 1;
  AlignedBuffer<uint8_t> data_;  // [vocab_size][hidden_size] of type_
};

// Widens `count` stored elements, which may be unaligned, to f32.
void WidenToFloat(const void* stored, WeightFormat type, int64_t count, float* out);

}  // namespace kvasir
