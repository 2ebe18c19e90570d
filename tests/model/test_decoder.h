// A model with a pool and a decoder, for tests: sequences are advanced one step at a time, alone or
// in a mixed batch, and generated from greedily. The pool's unused memory is poisoned with NaN.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "absl/types/span.h"
#include "kvcache/block_table.h"
#include "kvcache/kv_cache_manager.h"
#include "runtime/model/decoder.h"
#include "runtime/model/model.h"
#include "runtime/ops/sparse/sparq_attention.h"

namespace kvasir::testing {

struct TestSequence {
  BlockTable table;
  std::vector<TokenId> tokens;  // those whose K/V are computed
  // How tokens from sparse_from on attend, in layers that can; absent: densely.
  std::optional<SparseParams> sparq = std::nullopt;
  int sparse_from = 0;
  int64_t sparse_bytes_read = 0;  // of the pool, by those
  bool long_context = false;      // BatchSequence::long_context
};

class TestDecoder {
 public:
  // `model` must outlive it. Without kv_type, K/V are f32 for f32 compute, bf16 otherwise.
  TestDecoder(const Model* model, int pool_tokens, int max_batch_tokens,
              KvColumns k_columns = KvColumns::kOff,
              std::optional<KvElementType> kv_type = std::nullopt);

  TestSequence NewSequence();

  struct Work {
    TestSequence* sequence;
    std::vector<TokenId> tokens;  // to append
    int num_logits = 1;
  };
  // One step over a mixed batch. Returns, per item, its logits: [num_logits][vocab_size].
  std::vector<std::vector<std::vector<float>>> Step(std::vector<Work> batch);

  // One sequence, in steps of `chunk` tokens; logits of every position if all_logits, else of the
  // last one.
  std::vector<std::vector<float>> Append(TestSequence* sequence, absl::Span<const TokenId> tokens,
                                         int chunk, bool all_logits);

  // Greedy continuation of a prompt that is computed in one step.
  std::vector<TokenId> Generate(absl::Span<const TokenId> prompt, int num_tokens);

  const Model& model() const { return model_; }
  KvCacheManager& manager() { return *manager_; }
  Decoder& decoder() { return *decoder_; }

 private:
  // The sequence's choice, as the decoder takes it; null: dense.
  std::unique_ptr<const ResolvedAttention> MethodOf(const TestSequence& sequence) const;

  const Model& model_;
  std::unique_ptr<KvCacheManager> manager_;
  std::unique_ptr<Decoder> decoder_;
};

TokenId ArgMax(absl::Span<const float> logits);
// -log softmax(logits)[target], summed in double.
double NegativeLogLikelihood(absl::Span<const float> logits, TokenId target);

// Logits of every position, one behind the other, of the same 40 tokens each time, which a
// vocabulary of 48 knows; computed in steps of `chunk` tokens.
std::vector<float> LogitsOf(const Model& model, int chunk);

}  // namespace kvasir::testing
