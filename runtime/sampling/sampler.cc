#include "runtime/sampling/sampler.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "base/check.h"
#include "runtime/sampling/philox.h"
#include "runtime/sampling/row_kernels.h"

namespace kvasir {
namespace {

constexpr float kLargest = std::numeric_limits<float>::max();
constexpr float kNegativeInfinity = -std::numeric_limits<float>::infinity();

// Bounds that select candidates are this factor of weight below what is needed, so that the
// rounding of exp and of sums (below 1e-4) never loses a token; the exact cut comes after.
constexpr double kBoundSlack = 0.5;

// Rounds a bound down, and keeps -infinity out of the candidates.
float LowerBound(double bound) {
  if (!(bound > -kLargest)) return -kLargest;
  return std::max(std::nextafter(static_cast<float>(bound), kNegativeInfinity), -kLargest);
}

// The entry whose share of the running sum holds `point`, in [0, sum). Entries of weight 0 have no
// share. When rounding leaves `point` at or beyond the sum, the last entry with a share; -1 when
// there is none.
template <typename Weight>
int64_t FindShare(size_t count, double point, const Weight& weight, double* before) {
  int64_t last = -1;
  double sum = 0;
  for (size_t i = 0; i < count; ++i) {
    const double share = weight(i);
    if (share <= 0) continue;
    last = static_cast<int64_t>(i);
    *before = sum;
    sum += share;
    if (point < sum) break;
  }
  return last;
}

}  // namespace

Sampler::Sampler(int vocab_size)
    : vocab_size_(vocab_size),
      block_maxima_(NumRowBlocks(vocab_size)),
      block_sums_(NumRowBlocks(vocab_size)) {
  KVASIR_CHECK(vocab_size >= 1);
  // Not touched yet: a page costs memory once a request needs it, and greedy needs none.
  adjusted_.Resize(vocab_size_);
  candidates_.Resize(vocab_size_ + kCompactSlack);
  ids_.Resize(vocab_size_ + kCompactSlack);
  weights_.Resize(std::max(vocab_size_, kRowBlock));
}

SampleResult Sampler::Sample(absl::Span<const float> logits, const SampleRequest& request) {
  KVASIR_CHECK(logits.size() == vocab_size_);
  const SamplingParams& params = *request.params;
  SampleResult result;

  Row row{logits, 0, 0};
  if (!request.allowed.empty() || ChangesLogits(params, request.banned)) {
    CopyAllowed(logits, request.allowed, adjusted_.span());
    ApplyToLogits(params, request.counts, request.banned, adjusted_.span());
    row.logits = adjusted_.span();
  }
  BlockMaxima(row.logits.data(), vocab_size_, block_maxima_.data());
  row.max = *std::max_element(block_maxima_.begin(), block_maxima_.end());

  if (row.max == kNegativeInfinity) {
    result.valid = false;
  } else if (params.temperature < kSmallestTemperature) {
    result.token = FirstOfMaximum(row);
  } else {
    row.inverse_temperature = 1.0f / params.temperature;
    const double uniform =
        TokenUniform(params.seed, request.completion_index, request.output_position);
    const bool cuts = (params.top_k > 0 && static_cast<size_t>(params.top_k) < vocab_size_) ||
                      params.top_p < 1.0f || params.min_p > 0.0f;
    result.token = cuts ? DrawFromCandidates(row, params, uniform) : DrawFromRow(row, uniform);
  }
  if (request.num_logprobs.has_value()) {
    result.logprob = LogprobOf(logits, result.token, *request.num_logprobs);
  }
  return result;
}

TokenId Sampler::FirstOfMaximum(const Row& row) const {
  size_t block = 0;
  while (block_maxima_[block] != row.max) ++block;
  size_t token = block * kRowBlock;
  while (!(row.logits[token] >= row.max)) ++token;  // >= because +infinity counts as the largest
  return static_cast<TokenId>(token);
}

double Sampler::SumExp(const Row& row) {
  BlockExpSums(row.logits.data(), vocab_size_, row.max, row.inverse_temperature,
               block_sums_.data());
  double sum = 0;
  for (const float block : block_sums_) sum += block;
  return sum;
}

// Finds the block first, then the token inside it: the weights of one block only are ever written.
TokenId Sampler::DrawFromRow(const Row& row, double uniform) {
  const double point = uniform * SumExp(row);
  double before = 0;
  const int64_t block = FindShare(
      block_sums_.size(), point, [&](size_t i) { return block_sums_[i]; }, &before);
  const size_t begin = static_cast<size_t>(block) * kRowBlock;
  const size_t count = std::min(kRowBlock, vocab_size_ - begin);
  ExpWeights(row.logits.data() + begin, count, row.max, row.inverse_temperature, weights_.data());
  double unused = 0;
  const int64_t token = FindShare(
      count, point - before, [&](size_t i) { return weights_[i]; }, &unused);
  return static_cast<TokenId>(begin + token);
}

TokenId Sampler::DrawFromCandidates(const Row& row, const SamplingParams& params, double uniform) {
  const bool cuts_k = params.top_k > 0 && static_cast<size_t>(params.top_k) < vocab_size_;
  const bool cuts_p = params.top_p < 1.0f;

  // All tokens that can survive, and few others.
  float bound = -kLargest;
  double mass = 0;  // of what top_p cuts
  if (cuts_k) {
    bound = TopKBound(params.top_k);
  } else {
    double ratio = params.min_p;
    if (cuts_p) {
      mass = SumExp(row);
      // Tokens lighter than this hold less than 1 - top_p together, however many they are.
      ratio = std::max(ratio, (1.0 - params.top_p) * mass / static_cast<double>(vocab_size_));
    }
    bound = LowerBound(row.max + params.temperature * std::log(ratio * kBoundSlack));
  }
  num_candidates_ = CompactAtLeast(row.logits.data(), vocab_size_, block_maxima_.data(), bound,
                                   candidates_.data(), ids_.data());
  if (cuts_k) KeepTopK(params.top_k);
  ExpWeights(candidates_.data(), num_candidates_, row.max, row.inverse_temperature,
             weights_.data());

  MassCut cut{-kLargest, std::numeric_limits<int32_t>::max()};
  if (cuts_p) {
    if (cuts_k) {
      for (size_t i = 0; i < num_candidates_; ++i) mass += weights_[i];
    }
    cut = cut_finder_.Find({candidates_.data(), num_candidates_},
                           {weights_.data(), num_candidates_}, params.top_p * mass);
  }
  // The likeliest token weighs 1, so a weight is the ratio that min_p speaks of.
  double kept_mass = 0;
  for (size_t i = 0; i < num_candidates_; ++i) {
    const bool kept =
        cut.Keeps(candidates_[i], static_cast<int32_t>(i)) && weights_[i] >= params.min_p;
    if (!kept) weights_[i] = 0;
    kept_mass += weights_[i];
  }
  double unused = 0;
  const int64_t chosen = FindShare(
      num_candidates_, uniform * kept_mass, [&](size_t i) { return weights_[i]; }, &unused);
  return ids_[chosen];
}

// At least top_k values are as large as the top_k-th largest block maximum.
float Sampler::TopKBound(int32_t top_k) {
  if (static_cast<size_t>(top_k) > block_maxima_.size()) return -kLargest;
  ordered_maxima_ = block_maxima_;
  std::nth_element(ordered_maxima_.begin(), ordered_maxima_.begin() + (top_k - 1),
                   ordered_maxima_.end(), std::greater<float>());
  return std::max(ordered_maxima_[top_k - 1], -kLargest);
}

void Sampler::KeepTopK(int32_t top_k) {
  if (num_candidates_ <= static_cast<size_t>(top_k)) return;
  const MassCut cut = cut_finder_.Find({candidates_.data(), num_candidates_}, {}, top_k);
  size_t kept = 0;
  for (size_t i = 0; i < num_candidates_; ++i) {
    if (!cut.Keeps(candidates_[i], static_cast<int32_t>(i))) continue;
    candidates_[kept] = candidates_[i];
    ids_[kept++] = ids_[i];
  }
  num_candidates_ = kept;
}

}  // namespace kvasir
