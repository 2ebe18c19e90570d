#include "runtime/ops/sparse/pick_attention.h"

#include <algorithm>
#include <type_traits>

#include "base/bf16.h"
#include "base/check.h"
#include "runtime/kernels/attention_kernels.h"
#include "runtime/kernels/bf16_pick_kernels.h"
#include "runtime/kernels/pick_kernels.h"

namespace kvasir {
namespace {

// Picks attended to in one go: their K and then V rows stay in the first cache level while the
// group's heads take turns (128 rows of 128 bf16 are 32 KiB).
constexpr int kPickChunk = 128;
static_assert(kPickChunk >= static_cast<int>(kRowsAhead));

constexpr float kLog2E = 1.44269504088896340736f;

struct ThreadScratch {
  AlignedBuffer<float> scores;  // [group, to whole quads][kPickChunk]
  AlignedBuffer<bf16> weights;  // [group][kPickChunk]
};
ThreadScratch& Thread() {
  thread_local ThreadScratch scratch;
  return scratch;
}

}  // namespace

bool PickAttention::SuitsPairs(const KvView& kv) {
  return kv.element_type == KvElementType::kBf16 && SuitsRowPairs(kv.k_dim) &&
         SuitsRowPairs(kv.v_dim);
}

void PickAttention::Begin(const SparseItem& item, const KvView& kv) {
  item_ = item;
  kv_ = kv;
  pairs_ = item.bf16_products && SuitsPairs(kv);
  if (!pairs_) return;
  quads_.Resize(QuadsOf(item.group) * kv.k_dim * 2);
  PackQuads(item.q, item.group, kv.k_dim, quads_.data());
}

void PickAttention::SetPicks(absl::Span<const int32_t> picks) {
  KVASIR_CHECK(!picks.empty());
  picks_ = picks;
  const size_t part_rows = static_cast<size_t>(num_chunks()) * item_.group;
  part_mix_.Resize(part_rows * kv_.v_dim);
  part_max_.Resize(part_rows);
  part_sum_.Resize(part_rows);
}

int PickAttention::num_chunks() const {
  return (static_cast<int>(picks_.size()) + kPickChunk - 1) / kPickChunk;
}

void PickAttention::Attend(int chunk) {
  if (pairs_) return AttendPairs(chunk);
  switch (kv_.element_type) {
    case KvElementType::kF32:
      return AttendRows<float>(chunk);
    case KvElementType::kBf16:
      return AttendRows<bf16>(chunk);
    case KvElementType::kF16:
      return AttendRows<f16>(chunk);
    case KvElementType::kInt8:
      return AttendRows<int8_t>(chunk);
  }
}

template <class T>
void PickAttention::ListRows(int begin, int count, int ahead, const T** rows) const {
  // Each is prefetched while an earlier one is used.
  const auto row = [this](int pick, size_t dim, bool value) {
    const int position = picks_[pick];
    const BlockId block = item_.blocks[position / kv_.block_tokens];
    const uint8_t* tile = value ? kv_.V(block, item_.kv_head) : kv_.K(block, item_.kv_head);
    return reinterpret_cast<const T*>(tile) +
           static_cast<size_t>(position % kv_.block_tokens) * dim;
  };
  for (int i = 0; i < count; ++i) {
    rows[i] = row(begin + i, kv_.k_dim, false);
    rows[count + i] = row(begin + i, kv_.v_dim, true);
  }
  const int last = static_cast<int>(picks_.size()) - 1;
  for (int i = 0; i < ahead; ++i) {
    rows[2 * count + i] = row(std::min(begin + count + i, last), kv_.k_dim, false);
  }
}

template <class T>
void PickAttention::AttendRows(int chunk) {
  const int begin = chunk * kPickChunk;
  const int count = std::min(kPickChunk, static_cast<int>(picks_.size()) - begin);
  const T* rows[2 * kPickChunk + kRowsAhead];
  ListRows(begin, count, kRowsAhead, rows);
  float key_scales[kPickChunk], value_scales[kPickChunk];
  if constexpr (std::is_same_v<T, int8_t>) {
    for (int i = 0; i < count; ++i) {
      const int position = picks_[begin + i];
      const BlockId block = item_.blocks[position / kv_.block_tokens];
      key_scales[i] = kv_.KScale(block, item_.kv_head)[position % kv_.block_tokens];
      value_scales[i] = kv_.VScale(block, item_.kv_head)[position % kv_.block_tokens];
    }
  }

  AlignedBuffer<float>& scores = Thread().scores;
  scores.Resize(static_cast<size_t>(item_.group) * kPickChunk);
  ScoreRows(rows, count, kv_.k_dim, item_.q, item_.group, scores.data(), kPickChunk);
  const size_t part = static_cast<size_t>(chunk) * item_.group;
  for (int h = 0; h < item_.group; ++h) {
    float* row = scores.data() + static_cast<size_t>(h) * kPickChunk;
    if constexpr (std::is_same_v<T, int8_t>) {
      for (int i = 0; i < count; ++i) row[i] *= key_scales[i];
    }
    const RowStatistics statistics =
        SoftmaxRow(row, count, RoundUpColumns(count), item_.scale * kLog2E);
    part_max_[part + h] = statistics.max;
    part_sum_[part + h] = statistics.sum;
    if constexpr (std::is_same_v<T, int8_t>) {
      for (int i = 0; i < count; ++i) row[i] *= value_scales[i];
    }
  }
  MixRows(rows + count, count, kv_.v_dim, scores.data(), kPickChunk, item_.group,
          part_mix_.data() + part * kv_.v_dim, kv_.v_dim);
}

void PickAttention::AttendPairs(int chunk) {
  const int begin = chunk * kPickChunk;
  const int count = std::min(kPickChunk, static_cast<int>(picks_.size()) - begin);
  const bf16* rows[3 * kPickChunk];
  ListRows(begin, count, static_cast<int>(RowsAhead(count, QuadsOf(item_.group))), rows);
  ThreadScratch& thread = Thread();
  thread.scores.Resize(QuadsOf(item_.group) * 4 * kPickChunk);
  thread.weights.Resize(static_cast<size_t>(item_.group) * kPickChunk);
  ScoreRowPairs(rows, count, kv_.k_dim, quads_.data(), item_.group, thread.scores.data(),
                kPickChunk);
  const size_t part = static_cast<size_t>(chunk) * item_.group;
  for (int h = 0; h < item_.group; ++h) {
    const size_t row = static_cast<size_t>(h) * kPickChunk;
    const RowStatistics statistics = WeighRowPairs(
        thread.scores.data() + row, count, item_.scale * kLog2E, thread.weights.data() + row);
    part_max_[part + h] = statistics.max;
    part_sum_[part + h] = statistics.sum;
  }
  MixRowPairs(rows + count, count, kv_.v_dim, thread.weights.data(), kPickChunk, item_.group,
              part_mix_.data() + part * kv_.v_dim, kv_.v_dim);
}

void PickAttention::Finish(float* out) const {
  const int chunks = num_chunks();
  for (int h = 0; h < item_.group; ++h, out += kv_.v_dim) {
    float max = part_max_[h];
    for (int c = 1; c < chunks; ++c)
      max = std::max(max, part_max_[static_cast<size_t>(c) * item_.group + h]);
    float sum = 0;
    std::fill_n(out, kv_.v_dim, 0.0f);
    for (int c = 0; c < chunks; ++c) {
      const size_t part = static_cast<size_t>(c) * item_.group + h;
      const float factor = Exp2Scalar(part_max_[part] - max);
      sum += part_sum_[part] * factor;
      AddScaled(part_mix_.data() + part * kv_.v_dim, kv_.v_dim, factor, out);
    }
    const float factor = 1.0f / sum;
    for (int d = 0; d < kv_.v_dim; ++d) out[d] *= factor;
  }
}

}  // namespace kvasir
