#include "runtime/ops/sparse/sparq_attention.h"

#include <algorithm>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/check.h"
#include "base/parallel.h"
#include "runtime/kernels/bf16_attention_kernels.h"
#include "runtime/kernels/score_kernels.h"
#include "runtime/ops/sparse/sparq_task.h"

namespace kvasir {
namespace {

// From this many items per thread on, each item is one task: threads then finish about together,
// and an item's scores stay in its core's cache between the stages.
constexpr size_t kItemsPerThread = 4;

// Chunks in a row, which one thread runs: it finds in its cache what the one before asked for.
struct ChunkRun {
  int item;
  int begin, end;
};

// Runs of chunks per item and thread: enough that threads finish about together.
constexpr int kRunsPerThread = 4;

// What one KV head's query group reads: rows of the picks and, unless these were given, what they
// were chosen by.
int64_t HeadBytesRead(const KvView& kv, int64_t positions, const SparseParams& params,
                      int64_t num_picks, bool given) {
  const int64_t element = static_cast<int64_t>(KvElementBytes(kv.element_type));
  const int64_t scale = kv.element_type == KvElementType::kInt8 ? sizeof(float) : 0;  // per row
  const int64_t k_row = kv.k_dim * element + scale, v_row = kv.v_dim * element + scale;
  const bool int8_columns = kv.k_columns == KvColumns::kInt8;
  const int64_t column_element = int8_columns ? 1 : element;
  const int64_t full_blocks = positions / kv.block_tokens;
  const int64_t tail = positions - full_blocks * kv.block_tokens;
  int64_t bytes = num_picks * (k_row + v_row);
  if (positions > params.top_k && !given) {
    if (params.chooser != nullptr) {
      bytes += params.chooser->BytesRead(kv, positions);
    } else {
      // `rank` elements of each position, and their scales per block or per row of the tail.
      bytes += full_blocks * params.rank *
               (kv.block_tokens * column_element + (int8_columns ? sizeof(float) : 0));
      bytes += tail * (params.rank * element + scale);
    }
  }
  if (params.mean_value && num_picks < positions) {
    bytes += (full_blocks > 0 ? kv.v_dim * sizeof(float) : 0) + tail * v_row;
  }
  return bytes;
}

const SparseParams& ParamsOf(const SparseSequence& sequence, int layer) {
  return static_cast<const ResolvedSparq*>(sequence.method)->params(layer);
}

}  // namespace

struct SparqAttention::Scratch {
  std::vector<SparseItem> items;
  std::vector<SparsePicks> picks;  // [items] or more: of choosers and of layers that share theirs
  std::vector<int32_t> num_picks;  // [items]
  std::vector<int64_t> rows;       // of q and out, beside rows of `mixed`
  std::vector<SparqTask> tasks;    // one per thread, or one per item when items are split
  std::vector<ChunkRun> runs;
  AlignedBuffer<float> mixed;  // [sparse rows][num_query_heads * v_dim]

  void RunChoosers();
  void AddBytesRead(absl::Span<const SparseSequence> sequences);
  void RunWhole();
  void RunSplit(const KvView& kv);
  template <typename Count, typename Stage>
  void ForEachChunk(Count count, Stage stage);

  const KvView* kv = nullptr;
};

SparqAttention::SparqAttention() : scratch_(std::make_unique<Scratch>()) {}
SparqAttention::~SparqAttention() = default;

void SparqAttention::Scratch::RunChoosers() {
  const auto chooses = [](const SparseItem& item) {
    return item.params.chooser != nullptr && item.positions > item.params.top_k;
  };
  if (std::none_of(items.begin(), items.end(), chooses)) return;
  ParallelFor(items.size(), [this, chooses](size_t i, int) {
    SparseItem& item = items[i];
    if (!chooses(item)) return;
    item.params.chooser->Choose(item, *kv, &picks[i]);
    item.given = &picks[i];
  });
}

void SparqAttention::Scratch::AddBytesRead(absl::Span<const SparseSequence> sequences) {
  size_t i = 0;
  for (const SparseSequence& sequence : sequences) {
    for (int n = sequence.sequence.num_rows * kv->slice.kv_heads; n > 0; --n, ++i) {
      if (sequence.bytes_read == nullptr) continue;
      const bool given = items[i].given != nullptr && items[i].params.chooser == nullptr;
      *sequence.bytes_read +=
          HeadBytesRead(*kv, items[i].positions, items[i].params, num_picks[i], given);
    }
  }
}

void SparqAttention::Scratch::RunWhole() {
  ParallelFor(items.size(), [this](size_t index, int thread) {
    SparqTask& task = tasks[thread];
    task.Begin(items[index], *kv);
    for (int c = 0; c < task.num_rank_chunks(); ++c) task.Rank(c);
    task.Merge();
    for (int c = 0; c < task.num_rank_chunks(); ++c) task.Combine(c);
    task.Select();
    for (int c = 0; c < task.num_attend_chunks(); ++c) task.Attend(c);
    task.Finish();
  });
}

template <typename Count, typename Stage>
void SparqAttention::Scratch::ForEachChunk(Count count, Stage stage) {
  runs.clear();
  const int most = kRunsPerThread * ComputeThreads();
  for (size_t i = 0; i < items.size(); ++i) {
    const int chunks = count(tasks[i]), length = (chunks + most - 1) / most;
    for (int begin = 0; begin < chunks; begin += length) {
      runs.push_back({static_cast<int>(i), begin, std::min(chunks, begin + length)});
    }
  }
  ParallelFor(runs.size(), [&](size_t index, int) {
    const ChunkRun& run = runs[index];
    for (int c = run.begin; c < run.end; ++c) stage(tasks[run.item], c);
  });
}

void SparqAttention::Scratch::RunSplit(const KvView& view) {
  const auto rank_chunks = [](const SparqTask& task) { return task.num_rank_chunks(); };
  ParallelFor(items.size(), [&](size_t i, int) { tasks[i].Begin(items[i], view); });
  ForEachChunk(rank_chunks, [](SparqTask& task, int chunk) { task.Rank(chunk); });
  ParallelFor(items.size(), [this](size_t i, int) { tasks[i].Merge(); });
  ForEachChunk(rank_chunks, [](SparqTask& task, int chunk) { task.Combine(chunk); });
  ParallelFor(items.size(), [this](size_t i, int) { tasks[i].Select(); });
  ForEachChunk([](const SparqTask& task) { return task.num_attend_chunks(); },
               [](SparqTask& task, int chunk) { task.Attend(chunk); });
  ParallelFor(items.size(), [this](size_t i, int) { tasks[i].Finish(); });
}

void SparqAttention::Run(int layer, const AttentionQueries& queries, float scale,
                         absl::Span<const SparseSequence> sequences, const KvView& kv,
                         MatmulInput* out, bool same_kv) {
  const MatrixView q = queries.q;
  const int num_query_heads = queries.num_heads;
  KVASIR_CHECK(kv.k_columns != KvColumns::kOff);
  KVASIR_CHECK(kv.slice.kv_heads > 0 && num_query_heads % kv.slice.kv_heads == 0);
  const int group = num_query_heads / kv.slice.kv_heads;
  const bool bf16_products = out->compute_type() != ComputeType::kF32 && HasBf16Products();
  const int64_t cols = int64_t{num_query_heads} * kv.v_dim;
  out->Resize(q.rows, cols);
  Scratch& s = *scratch_;
  s.kv = &kv;
  s.rows.clear();
  for (const SparseSequence& sequence : sequences) {
    for (int i = 0; i < sequence.sequence.num_rows; ++i)
      s.rows.push_back(sequence.sequence.row_begin + i);
  }
  s.mixed.Resize(s.rows.size() * cols);
  const size_t num_items = s.rows.size() * kv.slice.kv_heads;
  KVASIR_CHECK(!same_kv || s.items.size() == num_items);
  s.num_picks.resize(num_items);
  s.picks.resize(std::max(s.picks.size(), num_items));
  s.items.clear();
  size_t mixed_row = 0;
  for (const SparseSequence& sequence : sequences) {
    const SparseParams& params = ParamsOf(sequence, layer);
    for (int i = 0; i < sequence.sequence.num_rows; ++i, ++mixed_row) {
      for (int head = 0; head < kv.slice.kv_heads; ++head) {
        SparseItem item;
        item.q =
            q.row(sequence.sequence.row_begin + i) + static_cast<size_t>(head) * group * kv.k_dim;
        item.group = group;
        item.kv_head = head;
        item.positions = sequence.sequence.first_position + i + 1;
        item.blocks = sequence.sequence.blocks;
        item.params = params;
        item.scale = scale;
        item.bf16_products = bf16_products;
        item.out = s.mixed.data() + mixed_row * cols + static_cast<size_t>(head) * group * kv.v_dim;
        const size_t index = s.items.size();
        if (item.params.reuse_picks && same_kv) item.given = &s.picks[index];
        if (item.params.reuse_picks && !same_kv) item.kept = &s.picks[index];
        item.num_picks = &s.num_picks[index];
        s.items.push_back(item);
      }
    }
  }

  s.RunChoosers();

  const size_t threads = ComputeThreads();
  const bool whole = threads == 1 || s.items.size() >= kItemsPerThread * threads;
  s.tasks.resize(std::max(s.tasks.size(), whole ? threads : s.items.size()));
  if (whole) {
    s.RunWhole();
  } else {
    s.RunSplit(kv);
  }
  ParallelFor(s.rows.size(), [&](size_t r, int) {
    float* row = s.mixed.data() + r * cols;
    if (queries.gate.data != nullptr) GateRow(row, queries.gate.row(s.rows[r]), cols);
    out->SetRow(s.rows[r], row);
  });
  s.AddBytesRead(sequences);
}

int64_t SparqBytesRead(const KvLayout& layout, int layer, int64_t positions,
                       const SparseParams& params) {
  KvView shape;
  shape.element_type = layout.element_type();
  shape.block_tokens = layout.block_tokens();
  shape.k_dim = layout.k_dim(layer);
  shape.v_dim = layout.v_dim(layer);
  shape.k_columns = layout.k_columns(layer);
  const int64_t picks = std::min<int64_t>(positions, params.top_k);
  return layout.kv_heads(layer) * HeadBytesRead(shape, positions, params, picks, /*given=*/false);
}

}  // namespace kvasir
