#include "runtime/ops/paged_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/check.h"
#include "base/parallel.h"
#include "runtime/kernels/convert.h"
#include "runtime/kernels/score_kernels.h"
#include "runtime/ops/attention_plan.h"
#include "runtime/ops/attention_tile.h"

namespace kvasir {
namespace {

// Rows merged by one task: the partials come from other cores' caches, and going through several
// rows per chunk fetches their statistics together.
constexpr int kMergeRows = 8;

constexpr float kLog2E = 1.44269504088896340736f;

}  // namespace

struct PagedAttention::Scratch {
  AttentionPlan plan;
  std::vector<AttentionTile> tiles;  // [threads]
  AlignedBuffer<float> partial_mix;  // [num_partials][max_rows][v_stride]
  AlignedBuffer<float> partial_max;  // [num_partials][max_rows]
  AlignedBuffer<float> partial_sum;  // [num_partials][max_rows]
  AlignedBuffer<float> mixed;        // [rows][num_query_heads * v_dim], int8 output only

  TilePartial Partial(int64_t index, int max_rows, int v_stride) {
    return {partial_mix.data() + index * max_rows * v_stride, partial_max.data() + index * max_rows,
            partial_sum.data() + index * max_rows};
  }
};

PagedAttention::PagedAttention() : scratch_(std::make_unique<Scratch>()) {}
PagedAttention::~PagedAttention() = default;

namespace {

// Everything of one Run that its tasks read.
struct Call {
  AttentionQueries queries;
  AttentionRules rules;
  int group = 1;
  absl::Span<const AttentionSequence> sequences;
  KvView kv;
  MatmulInput* out = nullptr;
  float* mixed = nullptr;  // int8 output only

  TileQueries Queries(int sequence, int kv_head, int first_token, int num_tokens) const {
    const AttentionSequence& s = sequences[sequence];
    TileQueries tile;
    tile.q = queries.q;
    tile.first_row = s.row_begin + first_token;
    tile.num_tokens = num_tokens;
    tile.first_position = s.first_position + first_token;
    tile.first_head = kv_head * group;
    tile.group = group;
    return tile;
  }

  // Divides row r of a finished tile by its sum, in which a sink takes part, and puts it into the
  // output.
  void Store(const TileQueries& tile, int r, const TilePartial& total, int v_stride) const {
    const int64_t row = tile.first_row + r / tile.group;
    const int head = tile.first_head + r % tile.group;
    const int64_t offset = int64_t{head} * kv.v_dim, at = row * out->cols() + offset;
    float* mix = total.mix + static_cast<int64_t>(r) * v_stride;
    float factor = 1.0f / total.sum[r];
    if (rules.sinks != nullptr) {
      const float sink = rules.sinks[head] * kLog2E, max = std::max(sink, total.max[r]);
      const float share = Exp2Scalar(total.max[r] - max);
      factor = share / (total.sum[r] * share + Exp2Scalar(sink - max));
    }
    for (int i = 0; i < kv.v_dim; ++i) mix[i] *= factor;
    if (queries.gate.data != nullptr) GateRow(mix, queries.gate.row(row) + offset, kv.v_dim);
    switch (out->compute_type()) {
      case ComputeType::kF32:
        std::copy_n(mix, kv.v_dim, static_cast<float*>(out->mutable_data()) + at);
        break;
      case ComputeType::kBf16:
        FromFloats(mix, kv.v_dim, static_cast<bf16*>(out->mutable_data()) + at);
        break;
      case ComputeType::kInt8:  // the scale needs the whole row: quantised when all heads are there
        std::copy_n(mix, kv.v_dim, mixed + at);
        break;
    }
  }
};

void RunWholeTile(const Call& call, const AttentionTask& task, AttentionTile* tile) {
  const TileQueries queries =
      call.Queries(task.sequence, task.kv_head, task.first_token, task.num_tokens);
  const int rows = queries.num_rows();
  tile->SetQueries(queries, call.rules);
  const TilePartial total = tile->total_partial();
  std::fill_n(total.sum, rows, 0.0f);
  for (int chunk = task.chunk_begin; chunk < task.chunk_end; ++chunk) {
    // Rows that see nothing of the first chunk keep their sum of 0.
    const bool first = chunk == task.chunk_begin;
    const TilePartial part = first ? total : tile->chunk_partial();
    const TileRows seen =
        tile->Attend(call.sequences[task.sequence].blocks, task.kv_head, chunk, part);
    if (!first) AttentionTile::Merge(part, seen.begin, seen.end, tile->v_stride(), total);
  }
  for (int r = 0; r < rows; ++r) call.Store(queries, r, total, tile->v_stride());
}

}  // namespace

void PagedAttention::Run(const AttentionQueries& queries, const AttentionRules& rules,
                         absl::Span<const AttentionSequence> sequences, const KvView& kv,
                         MatmulInput* out) {
  const MatrixView q = queries.q;
  KVASIR_CHECK(kv.slice.kv_heads > 0 && queries.num_heads % kv.slice.kv_heads == 0);
  KVASIR_CHECK(kv.block_tokens > 0 && kv.block_tokens % 16 == 0 && rules.scale > 0);
  Scratch& scratch = *scratch_;
  Call call{queries, rules, queries.num_heads / kv.slice.kv_heads, sequences, kv, out, nullptr};
  out->Resize(q.rows, int64_t{queries.num_heads} * kv.v_dim);
  if (out->compute_type() == ComputeType::kInt8) {
    scratch.mixed.Resize(q.rows * out->cols());
    call.mixed = scratch.mixed.data();
  }

  const int threads = ComputeThreads();
  const TileArithmetic arithmetic = ChooseTileArithmetic(out->compute_type(), kv);
  scratch.plan.Build(sequences, kv.slice.kv_heads, call.group, rules, MaxTileRows(arithmetic),
                     threads);
  const AttentionPlan& plan = scratch.plan;
  const int max_rows = plan.max_rows();
  scratch.tiles.resize(threads);
  for (AttentionTile& tile : scratch.tiles) tile.Prepare(arithmetic, kv, max_rows);
  const int v_stride = scratch.tiles[0].v_stride();
  scratch.partial_mix.Resize(plan.num_partials() * max_rows * v_stride);
  scratch.partial_max.Resize(plan.num_partials() * max_rows);
  scratch.partial_sum.Resize(plan.num_partials() * max_rows);

  ParallelFor(plan.tasks().size(), [&](size_t index, int thread) {
    const AttentionTask& task = plan.tasks()[index];
    AttentionTile& tile = scratch.tiles[thread];
    if (task.split < 0) {
      RunWholeTile(call, task, &tile);
      return;
    }
    tile.SetQueries(call.Queries(task.sequence, task.kv_head, task.first_token, task.num_tokens),
                    rules);
    for (int chunk = task.chunk_begin; chunk < task.chunk_end; ++chunk) {
      const TilePartial part =
          scratch.Partial(plan.splits()[task.split].PartialOf(chunk), max_rows, v_stride);
      const TileRows seen = tile.Attend(sequences[task.sequence].blocks, task.kv_head, chunk, part);
      // Marks rows that see nothing of this chunk.
      std::fill_n(part.sum, seen.begin, 0.0f);
      std::fill(part.sum + seen.end, part.sum + task.num_tokens * call.group, 0.0f);
    }
  });

  // Merge the splits, a few rows of one tile at a time: rows are independent, chunks go in
  // ascending order.
  const int strips = (max_rows + kMergeRows - 1) / kMergeRows;
  ParallelFor(plan.splits().size() * strips, [&](size_t index, int) {
    const AttentionSplit& split = plan.splits()[index / strips];
    const TileQueries tile =
        call.Queries(split.sequence, split.kv_head, split.first_token, split.num_tokens);
    const int first_row = static_cast<int>(index % strips) * kMergeRows;
    const int end_row = std::min(tile.num_rows(), first_row + kMergeRows);
    const TilePartial whole = scratch.Partial(split.first_partial, max_rows, v_stride);
    for (int chunk = 1; chunk < split.num_chunks; ++chunk) {
      const TilePartial part = scratch.Partial(split.first_partial + chunk, max_rows, v_stride);
      AttentionTile::Merge(part, first_row, end_row, v_stride, whole);
    }
    for (int r = first_row; r < end_row; ++r) call.Store(tile, r, whole, v_stride);
  });

  if (out->compute_type() == ComputeType::kInt8) {
    ParallelFor(q.rows,
                [&](size_t r, int) { out->SetRow(r, scratch.mixed.data() + r * out->cols()); });
  }
}

int64_t DenseBytesRead(const AttentionRules& rules, const AttentionSequence& sequence,
                       const KvView& kv) {
  const int64_t element = static_cast<int64_t>(KvElementBytes(kv.element_type));
  const int64_t scales = kv.element_type == KvElementType::kInt8 ? 2 * sizeof(float) : 0;
  const int64_t row_bytes = kv.slice.kv_heads * ((kv.k_dim + kv.v_dim) * element + scales);
  int64_t bytes = 0;
  for (int i = 0; i < sequence.num_rows; ++i) {
    const int position = sequence.first_position + i;
    bytes += (position + 1 - rules.FirstSeen(position)) * row_bytes;
  }
  return bytes;
}

}  // namespace kvasir
