// One attention layer, one decoding sequence or a batch of them: SparQ against dense attention and
// the byte model, where SparQ's time goes, and what reading the same memory costs without any
// arithmetic.
//
// Threads: all of SetComputeThreads. Not thread safe.
#pragma once

#include <vector>

#include "runtime/ops/sparse/sparq_attention.h"
#include "tests/bench/sparq_pool.h"
#include "tests/bench/timings.h"

namespace kvasir::bench {

struct LayerShape {
  const char* name;
  int query_heads, kv_heads, dim;
};

struct LayerComparison {
  Timing dense, sparq;     // milliseconds
  Timing ratio;            // dense over SparQ, of runs that follow each other
  double model = 0;        // the same ratio of the bytes that each reads
  double sparq_bytes = 0;  // of the batch
};

// Microseconds per KV head, as a thread takes them one by one.
struct LayerStages {
  double begin = 0, rank = 0, combine = 0, select = 0, attend = 0, finish = 0;
  double columns = 0;  // only reading the lines that `rank` reads
  double rows = 0;     // only reading the rows that `attend` reads
};

class LayerBench {
 public:
  // `batch` sequences decode together in what Compare measures.
  LayerBench(const LayerShape& shape, int positions, KvColumns keys, int block_tokens,
             int batch = 1);

  // Rank dim / 8, top_k max(128, positions / 16), the mean of V without groups.
  SparseParams StandardParams(SparseSelection selection) const;

  // `repeats` runs of each, and again a few times while they scatter too much: the calmest are
  // reported.
  LayerComparison Compare(const SparseParams& params, int repeats);
  LayerStages Stages(const SparseParams& params, int repeats);

  const KvLayout& layout() const { return pool_.layout(); }

 private:
  double ReadColumns(const SparseParams& params, int sequence, int head) const;
  double ReadRows(absl::Span<const int32_t> picks, int sequence, int head) const;

  const LayerShape shape_;
  const int positions_;
  const int batch_;
  const SparqPool pool_;
  std::vector<float> queries_;  // [batch][query_heads][dim]
};

}  // namespace kvasir::bench
