#include "tests/bench/sparq_layer_bench.h"

#include <algorithm>
#include <cstring>
#include <random>

#include "base/check.h"
#include "base/parallel.h"
#include "runtime/kernels/bf16_attention_kernels.h"
#include "runtime/ops/paged_attention.h"
#include "runtime/ops/sparse/chosen_columns.h"
#include "runtime/ops/sparse/sparq_task.h"

namespace kvasir::bench {
namespace {

constexpr float kScale = 0.088f;

// Neighbours on a shared machine come and go: runs that scatter more than this are repeated, so
// often at most.
constexpr double kCalm = 0.1;
constexpr int kAttempts = 5;

KvLayout LayoutOf(const LayerShape& shape, KvColumns keys, int block_tokens) {
  KvLayoutSpec spec;
  spec.layers = UniformKvLayers({0}, shape.kv_heads, shape.dim, shape.dim);
  spec.block_tokens = block_tokens;
  spec.k_columns = keys;
  auto layout = KvLayout::Create(spec);
  KVASIR_CHECK(layout.ok());
  return *layout;
}

// Keeps the compiler from dropping what was read.
volatile uint64_t read_sink;

uint64_t SumLines(const uint8_t* from, size_t bytes) {
  uint64_t sum = 0;
  for (size_t i = 0; i < bytes; i += 64) {
    uint64_t word;
    std::memcpy(&word, from + i, sizeof(word));
    sum += word;
  }
  return sum;
}

void PrefetchLines(const uint8_t* from, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(from + i);
}

// Two batches, for the dense runs are half of the sequences ahead of the sparse ones, and as many
// as make them cold.
int NumSequences(const KvLayout& layout, int positions, int batch) {
  const int cold = SparqPool::ColdSequences(layout, positions);
  return batch == 1 ? cold : std::max(2, (cold + batch - 1) / batch) * batch;
}

}  // namespace

LayerBench::LayerBench(const LayerShape& shape, int positions, KvColumns keys, int block_tokens,
                       int batch)
    : shape_(shape),
      positions_(positions),
      batch_(batch),
      pool_(LayoutOf(shape, keys, block_tokens), positions,
            NumSequences(LayoutOf(shape, keys, block_tokens), positions, batch)),
      queries_(static_cast<size_t>(batch) * shape.query_heads * shape.dim) {
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  for (float& x : queries_) x = normal(random);
}

SparseParams LayerBench::StandardParams(SparseSelection selection) const {
  SparseParams params;
  params.rank = shape_.dim / 8;
  params.top_k = std::max(128, positions_ / 16);
  params.local_window = 32;
  params.mean_value = shape_.query_heads == shape_.kv_heads;
  params.selection = selection;
  return params;
}

LayerComparison LayerBench::Compare(const SparseParams& params, int repeats) {
  MatmulInput out(ComputeType::kBf16);
  PagedAttention dense;
  SparqAttention sparse;
  const int64_t cols = int64_t{shape_.query_heads} * shape_.dim;
  const MatrixView q{queries_.data(), batch_, cols, cols};
  // The batch that begins at sequence s.
  const auto of_batch = [&](int s, int i) {
    return AttentionSequence{i, 1, positions_ - 1, pool_.blocks((s + i) % pool_.num_sequences())};
  };
  std::vector<AttentionSequence> dense_sequences(batch_);
  std::vector<SparseSequence> sparse_sequences(batch_);
  const auto run_dense = [&](int s) {
    for (int i = 0; i < batch_; ++i) dense_sequences[i] = of_batch(s, i);
    AttentionRules rules;
    rules.scale = kScale;
    dense.Run({q, shape_.query_heads, {}}, rules, dense_sequences, pool_.view(), &out);
  };
  const ResolvedSparq method({params}, 0);
  const auto run_sparse = [&](int s) {
    for (int i = 0; i < batch_; ++i) sparse_sequences[i] = {of_batch(s, i), &method};
    sparse.Run(0, {q, shape_.query_heads, {}}, kScale, sparse_sequences, pool_.view(), &out,
               /*same_kv=*/false);
  };
  run_dense(0);
  run_sparse(0);
  // Sequences take turns, and dense attention is half a turn ahead, so that neither finds what the
  // other read.
  const int turn = pool_.num_sequences();
  int s = 0;
  const auto compare = [&] {
    std::vector<double> dense_times, sparse_times, ratios;
    for (int i = 0; i < repeats; ++i, s = (s + batch_) % turn) {
      dense_times.push_back(Milliseconds([&] { run_dense((s + turn / 2) % turn); }));
      sparse_times.push_back(Milliseconds([&] { run_sparse(s); }));
      ratios.push_back(dense_times.back() / sparse_times.back());
    }
    return LayerComparison{Summarize(std::move(dense_times)), Summarize(std::move(sparse_times)),
                           Summarize(std::move(ratios))};
  };
  LayerComparison result = compare();
  for (int attempt = 1; attempt < kAttempts && result.ratio.spread > kCalm; ++attempt) {
    const LayerComparison again = compare();
    if (again.ratio.spread < result.ratio.spread) result = again;
  }
  result.sparq_bytes =
      static_cast<double>(batch_ * SparqBytesRead(layout(), 0, positions_, params));
  result.model = static_cast<double>(positions_) * batch_ * layout().read_bytes_per_token() /
                 result.sparq_bytes;
  return result;
}

double LayerBench::ReadColumns(const SparseParams& params, int sequence, int head) const {
  std::vector<int32_t> dims(params.rank);
  for (int i = 0; i < params.rank; ++i) dims[i] = i * shape_.dim / params.rank;
  SparseItem item;
  item.kv_head = head;
  item.positions = positions_;
  item.blocks = pool_.blocks(sequence);
  const ChosenColumns columns(item, pool_.view(), dims);
  const int block_tokens = layout().block_tokens();
  const size_t row = block_tokens * KvElementBytes(pool_.view().column_type());
  return Milliseconds([&] {
    uint64_t sum = 0;
    for (int b = 0; b < columns.num_blocks(); ++b) {
      columns.PrefetchAhead(b * block_tokens, (b + 1) * block_tokens);
      for (const int32_t d : dims) sum += SumLines(columns.Block(b) + d * row, row);
    }
    read_sink = sum;
  });
}

double LayerBench::ReadRows(absl::Span<const int32_t> picks, int sequence, int head) const {
  const KvView kv = pool_.view();
  const auto blocks = pool_.blocks(sequence);
  const size_t row = shape_.dim * KvElementBytes(kv.element_type);
  constexpr size_t kPicksAhead = 16;
  const auto key = [&](size_t i) {
    const int position = picks[std::min(i, picks.size() - 1)];
    return kv.K(blocks[position / kv.block_tokens], head) + position % kv.block_tokens * row;
  };
  return Milliseconds([&] {
    uint64_t sum = 0;
    for (size_t i = 0; i < picks.size(); ++i) {
      for (const size_t offset : {size_t{0}, kv.slice.v_offset_bytes}) {
        PrefetchLines(key(i + kPicksAhead) + offset, row);
        sum += SumLines(key(i) + offset, row);
      }
    }
    read_sink = sum;
  });
}

LayerStages LayerBench::Stages(const SparseParams& params, int repeats) {
  constexpr double LayerStages::*kStages[] = {
      &LayerStages::begin,  &LayerStages::rank,   &LayerStages::combine, &LayerStages::select,
      &LayerStages::attend, &LayerStages::finish, &LayerStages::columns, &LayerStages::rows};
  const int group = shape_.query_heads / shape_.kv_heads;
  std::vector<float> out(queries_.size());
  std::vector<SparqTask> tasks(ComputeThreads());
  std::vector<LayerStages> runs;
  for (int i = 0; i < repeats; ++i) {
    std::vector<LayerStages> times(tasks.size());
    const int sequence = i % pool_.num_sequences();
    // What is only read comes from a sequence that is in no cache either.
    const int other = (i + pool_.num_sequences() / 2) % pool_.num_sequences();
    ParallelFor(shape_.kv_heads, [&](size_t head, int thread) {
      SparqTask& task = tasks[thread];
      LayerStages& time = times[thread];
      SparseItem item;
      item.q = queries_.data() + head * group * shape_.dim;
      item.group = group;
      item.kv_head = static_cast<int>(head);
      item.positions = positions_;
      item.blocks = pool_.blocks(sequence);
      item.params = params;
      item.scale = kScale;
      item.bf16_products = HasBf16Products();
      item.out = out.data() + head * group * shape_.dim;
      const auto chunks = [](int count, const auto& run) {
        for (int c = 0; c < count; ++c) run(c);
      };
      time.begin += Milliseconds([&] { task.Begin(item, pool_.view()); });
      time.rank +=
          Milliseconds([&] { chunks(task.num_rank_chunks(), [&](int c) { task.Rank(c); }); });
      time.combine += Milliseconds([&] {
        task.Merge();
        chunks(task.num_rank_chunks(), [&](int c) { task.Combine(c); });
      });
      time.select += Milliseconds([&] { task.Select(); });
      time.attend +=
          Milliseconds([&] { chunks(task.num_attend_chunks(), [&](int c) { task.Attend(c); }); });
      time.finish += Milliseconds([&] { task.Finish(); });
      // Another head's, for this one's are in the cache now where there is one sequence only.
      const int other_head = static_cast<int>(head + shape_.kv_heads / 2) % shape_.kv_heads;
      time.columns += ReadColumns(params, other, other_head);
      time.rows += ReadRows(task.picks(), other, other_head);
    });
    LayerStages sum;
    for (const LayerStages& time : times) {
      for (const auto stage : kStages) sum.*stage += time.*stage * 1e3 / shape_.kv_heads;
    }
    runs.push_back(sum);
  }
  LayerStages medians;
  for (const auto stage : kStages) {
    std::vector<double> values;
    for (const LayerStages& run : runs) values.push_back(run.*stage);
    medians.*stage = Summarize(std::move(values)).median;
  }
  return medians;
}

}  // namespace kvasir::bench
