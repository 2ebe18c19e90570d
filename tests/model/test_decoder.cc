#include "tests/model/test_decoder.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"

namespace kvasir::testing {
namespace {

constexpr int kBlockTokens = 16;  // small, so that short sequences have several blocks

std::unique_ptr<KvCacheManager> MakeManager(const Model& model, int pool_tokens,
                                            KvColumns k_columns,
                                            std::optional<KvElementType> kv_type) {
  const KvElementType usual =
      model.compute_type() == ComputeType::kF32 ? KvElementType::kF32 : KvElementType::kBf16;
  auto layout = model.spec().MakeKvLayout(kv_type.value_or(usual), kBlockTokens, k_columns);
  KVASIR_CHECK(layout.ok());
  KvCacheConfig config;
  config.capacity_bytes =
      layout->BlocksFor(pool_tokens) * static_cast<int64_t>(layout->block_bytes());
  config.enable_prefix_cache = false;  // every token is computed, by the path under test
  config.poison_free_blocks = true;
  auto manager = KvCacheManager::Create(*std::move(layout), config);
  KVASIR_CHECK(manager.ok());
  return *std::move(manager);
}

}  // namespace

TestDecoder::TestDecoder(const Model* model, int pool_tokens, int max_batch_tokens,
                         KvColumns k_columns, std::optional<KvElementType> kv_type)
    : model_(*model),
      manager_(MakeManager(*model, pool_tokens, k_columns, kv_type)),
      decoder_(std::make_unique<Decoder>(model, manager_->arena(), max_batch_tokens)) {}

TestSequence TestDecoder::NewSequence() { return TestSequence{manager_->NewTable(), {}}; }

std::unique_ptr<const ResolvedAttention> TestDecoder::MethodOf(const TestSequence& sequence) const {
  if (!sequence.sparq.has_value()) return nullptr;
  const std::vector<int32_t> heads = model_.spec().PlainQueryHeads();
  ResolvedSparq::LayerParams params(heads.size());
  for (size_t layer = 0; layer < heads.size(); ++layer) {
    if (heads[layer] > 0 &&
        manager_->layout().k_columns(static_cast<int>(layer)) != KvColumns::kOff) {
      params[layer] = sequence.sparq;
    }
  }
  return std::make_unique<ResolvedSparq>(std::move(params), sequence.sparse_from);
}

std::vector<std::vector<std::vector<float>>> TestDecoder::Step(std::vector<Work> batch) {
  std::vector<BatchSequence> sequences;
  std::vector<std::unique_ptr<const ResolvedAttention>> methods;
  for (const Work& work : batch) {
    const int first = work.sequence->table.num_tokens();
    KVASIR_CHECK(
        manager_->Reserve(&work.sequence->table, first + static_cast<int>(work.tokens.size())));
    BatchSequence sequence;
    sequence.tokens = work.tokens;
    sequence.first_position = first;
    sequence.blocks = work.sequence->table.lists();
    sequence.state_slot = work.sequence->table.state_slot();
    sequence.num_logits = work.num_logits;
    methods.push_back(MethodOf(*work.sequence));
    sequence.method = methods.back().get();
    sequence.long_context = work.sequence->long_context;
    sequence.sparse_bytes_read = &work.sequence->sparse_bytes_read;
    sequences.push_back(sequence);
  }
  const absl::Span<const float> logits = decoder_->Forward(sequences);
  const size_t vocab = model_.spec().vocab_size;
  std::vector<std::vector<std::vector<float>>> result;
  size_t row = 0;
  for (const Work& work : batch) {
    TestSequence& sequence = *work.sequence;
    sequence.tokens.insert(sequence.tokens.end(), work.tokens.begin(), work.tokens.end());
    manager_->Commit(/*scope=*/0, sequence.tokens, &sequence.table);
    result.emplace_back();
    for (int i = 0; i < work.num_logits; ++i, ++row) {
      const absl::Span<const float> values = logits.subspan(row * vocab, vocab);
      result.back().emplace_back(values.begin(), values.end());
    }
  }
  KVASIR_CHECK(row * vocab == logits.size());
  return result;
}

std::vector<std::vector<float>> TestDecoder::Append(TestSequence* sequence,
                                                    absl::Span<const TokenId> tokens, int chunk,
                                                    bool all_logits) {
  std::vector<std::vector<float>> logits;
  for (size_t begin = 0; begin < tokens.size(); begin += chunk) {
    const absl::Span<const TokenId> part = tokens.subspan(begin, chunk);
    const bool is_last = begin + part.size() == tokens.size();
    const int num_logits = all_logits ? static_cast<int>(part.size()) : is_last ? 1 : 0;
    auto step = Step({{sequence, {part.begin(), part.end()}, num_logits}});
    for (auto& row : step[0]) logits.push_back(std::move(row));
  }
  return logits;
}

std::vector<TokenId> TestDecoder::Generate(absl::Span<const TokenId> prompt, int num_tokens) {
  TestSequence sequence = NewSequence();
  // The last token's K/V is never computed.
  sequence.long_context =
      static_cast<int>(prompt.size()) + num_tokens - 1 > model_.spec().short_context_tokens();
  std::vector<TokenId> generated = {
      ArgMax(Append(&sequence, prompt, static_cast<int>(prompt.size()), false)[0])};
  while (static_cast<int>(generated.size()) < num_tokens) {
    generated.push_back(ArgMax(Step({{&sequence, {generated.back()}, 1}})[0][0]));
  }
  return generated;
}

TokenId ArgMax(absl::Span<const float> logits) {
  return static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

double NegativeLogLikelihood(absl::Span<const float> logits, TokenId target) {
  const float largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits)
    sum += std::exp(logit - largest);  // in float: an error of 1e-7 is far below any tolerance
  return largest + std::log(sum) - logits[target];
}

std::vector<float> LogitsOf(const Model& model, int chunk) {
  TestDecoder decoder(&model, 64, 48);
  TestSequence sequence = decoder.NewSequence();
  std::vector<TokenId> tokens;
  for (int i = 0; i < 40; ++i) tokens.push_back(static_cast<TokenId>(3 + i * 7 % 45));
  std::vector<float> all;
  for (const auto& logits : decoder.Append(&sequence, tokens, chunk, /*all_logits=*/true)) {
    all.insert(all.end(), logits.begin(), logits.end());
  }
  return all;
}

}  // namespace kvasir::testing
