#include "runtime/ops/sparse/pair_ranking.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "base/bf16.h"
#include "runtime/kernels/bf16_pick_kernels.h"

namespace kvasir {
namespace {

// Weighed in one go: the kernels' favourite number, and short, so that asking for columns ahead
// never pauses for long.
constexpr int kTileTokens = 64;

// What WeighColumnRows takes from one place.
constexpr int kPlaceTokens = 32;

// What threads share a sequence's ranking by.
constexpr int kChunkTokens = 512;

// Lanes that the kernels sum a head's weights in.
constexpr size_t kSumLanes = 16;

struct ThreadScratch {
  AlignedBuffer<uint32_t> pairs;  // [(rank + 1) / 2][tile_tokens]
  AlignedBuffer<float> rows;      // [rank][positions rounded up]
  AlignedBuffer<float> sums;      // [rows][kSumLanes]
};
ThreadScratch& Thread() {
  thread_local ThreadScratch scratch;
  return scratch;
}

uint32_t PairOf(float first, float second) {
  const bf16 pair[2] = {ToBf16(first), ToBf16(second)};
  uint32_t word;
  std::memcpy(&word, pair, sizeof(word));
  return word;
}

}  // namespace

bool PairRanking::Suits(const KvView& kv) {
  return kv.column_type() == KvElementType::kBf16 || kv.column_type() == KvElementType::kInt8;
}

int PairRanking::ChunkEnd(int chunk) const {
  return std::min(positions_, (chunk + 1) * chunk_tokens_);
}

void PairRanking::Begin(const ChosenColumns& columns, absl::Span<const float> queries,
                        int positions) {
  const size_t rank = columns.dims().size(), pairs = (rank + 1) / 2;
  const int block_tokens = columns.kv().block_tokens;
  columns_ = columns;
  positions_ = positions;
  heads_ = static_cast<int>(queries.size() / rank);
  rows_ = heads_ + heads_ % 2;
  reads_rows_ = !columns.is_int8() && block_tokens % kPlaceTokens == 0;
  tile_tokens_ = reads_rows_ ? kTileTokens : block_tokens * std::max(1, kTileTokens / block_tokens);
  chunk_tokens_ = tile_tokens_ * std::max(1, kChunkTokens / tile_tokens_);
  num_chunks_ = (positions + chunk_tokens_ - 1) / chunk_tokens_;
  const int num_tiles = (positions + tile_tokens_ - 1) / tile_tokens_;
  weights_.Resize(static_cast<size_t>(num_tiles) * tile_tokens_ * rows_ / 2);
  chunk_sums_.Resize(static_cast<size_t>(num_chunks_) * heads_);
  queries_.Resize(rows_ * pairs);
  std::fill_n(queries_.data(), queries_.size(), 0u);
  for (int h = 0; h < heads_; ++h) {
    const float* q = queries.data() + h * rank;
    for (size_t i = 0; i < rank; i += 2) {
      queries_[h * pairs + i / 2] =
          PairOf(q[i] * kLogitUnits, i + 1 < rank ? q[i + 1] * kLogitUnits : 0.0f);
    }
  }
  // The largest logits of the first tile. The exponents of bf16 reach so far that others may lie
  // far above or below.
  references_.resize(rows_);
  const int end = std::min(positions_, tile_tokens_);
  Pack(0, end);
  MaxOfColumns(queries_.data(), rows_, pairs, Thread().pairs.data(), tile_tokens_, end,
               references_.data());
}

void PairRanking::Pack(int begin, int end) const {
  ThreadScratch& thread = Thread();
  const absl::Span<const int32_t> dims = columns_.dims();
  const size_t rank = dims.size(), stride = tile_tokens_;
  const int block_tokens = columns_.kv().block_tokens;
  thread.pairs.Resize((rank + 1) / 2 * stride);
  for (int position = begin; position < end;) {
    const int block = position / block_tokens;
    const int next = std::min(end, (block + 1) * block_tokens);
    uint32_t* out = thread.pairs.data() + (position - begin);
    if (next - position < block_tokens || block >= columns_.num_blocks()) {
      PackRows(position, next, out);
    } else if (columns_.is_int8()) {
      PackColumnPairs(reinterpret_cast<const int8_t*>(columns_.Block(block)),
                      columns_.Scales(block), block_tokens, dims.data(), rank, out, stride);
    } else {
      PackColumnPairs(reinterpret_cast<const bf16*>(columns_.Block(block)), block_tokens,
                      dims.data(), rank, out, stride);
    }
    position = next;
  }
}

void PairRanking::PackRows(int begin, int end, uint32_t* out) const {
  const size_t rank = columns_.dims().size(), stride = RoundUpColumns(end - begin);
  AlignedBuffer<float>& rows = Thread().rows;
  rows.Resize(rank * stride);
  columns_.CopyRows(begin, end, stride, rows.data());
  for (size_t i = 0; i < rank; i += 2, out += tile_tokens_) {
    const float* first = rows.data() + i * stride;
    for (size_t t = 0; t < stride; ++t)
      out[t] = PairOf(first[t], i + 1 < rank ? first[stride + t] : 0.0f);
  }
}

void PairRanking::Weigh(int begin, int end) {
  ThreadScratch& thread = Thread();
  const absl::Span<const int32_t> dims = columns_.dims();
  const int block_tokens = columns_.kv().block_tokens;
  const bool full = end <= columns_.num_blocks() * block_tokens;
  if (reads_rows_ && full) {
    const auto place = [&](int position) {
      return reinterpret_cast<const bf16*>(columns_.Block(position / block_tokens)) +
             position % block_tokens;
    };
    const bf16* second = end - begin > kPlaceTokens ? place(begin + kPlaceTokens) : nullptr;
    return WeighColumnRows(queries_.data(), rows_, place(begin), second, block_tokens, dims.data(),
                           dims.size(), references_.data(), Weights(begin), tile_tokens_,
                           thread.sums.data());
  }
  Pack(begin, end);
  WeighColumns(queries_.data(), rows_, (dims.size() + 1) / 2, thread.pairs.data(), tile_tokens_,
               end - begin, references_.data(), Weights(begin), tile_tokens_, thread.sums.data());
}

void PairRanking::Rank(int chunk) {
  ThreadScratch& thread = Thread();
  const int end = ChunkEnd(chunk);
  thread.sums.Resize(rows_ * kSumLanes);
  std::fill_n(thread.sums.data(), thread.sums.size(), 0.0f);
  for (int begin = ChunkBegin(chunk); begin < end; begin += tile_tokens_) {
    const int tile_end = std::min(end, begin + tile_tokens_);
    columns_.PrefetchAhead(begin, tile_end);
    Weigh(begin, tile_end);
  }
  for (int h = 0; h < heads_; ++h) {
    const float* lanes = thread.sums.data() + h * kSumLanes;
    chunk_sums_[static_cast<size_t>(chunk) * heads_ + h] =
        std::accumulate(lanes, lanes + kSumLanes, 0.0f);
  }
}

bool PairRanking::Merge() {
  // Above it, factors would leave the range of normal floats.
  constexpr float kMaxMass = 0x1p120f;
  factors_.resize(rows_ / 2);
  for (int row = 0; row < rows_; row += 2) {
    float shares[2] = {0, 0};
    for (int h = row; h < std::min(row + 2, heads_); ++h) {
      float sum = 0;
      for (int c = 0; c < num_chunks_; ++c) sum += chunk_sums_[static_cast<size_t>(c) * heads_ + h];
      if (!(sum < kMaxMass)) return false;
      shares[h - row] = 1.0f / sum;
    }
    factors_[row / 2] = PairOf(shares[0], shares[1]);
  }
  return true;
}

void PairRanking::Combine(int chunk, float* scores) const {
  const int end = ChunkEnd(chunk);
  for (int begin = ChunkBegin(chunk); begin < end; begin += tile_tokens_) {
    SumWeights(Weights(begin), tile_tokens_, rows_ / 2, factors_.data(),
               std::min(end - begin, tile_tokens_), scores + begin);
  }
}

}  // namespace kvasir
