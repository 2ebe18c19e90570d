// Decoding with a whole model of random weights at the end of long contexts: every layer attending
// densely against every layer attending by SparQ. The contexts' K and V are noise in the pool;
// nothing was prefilled.
//
// Threads: all of SetComputeThreads. Not thread safe. Faults end the program with a message.
#pragma once

#include <string>

#include "kvcache/kv_layout.h"
#include "runtime/ops/tensor.h"
#include "tests/bench/timings.h"

namespace kvasir::bench {

struct ModelBenchOptions {
  std::string shape;  // a config.json
  int layers = 0;     // in place of the shape's, when above 0: where memory does not hold all
  int kv_heads = 0;   // as well
  ComputeType weights = ComputeType::kBf16;
  KvColumns keys = KvColumns::kSame;
  int positions = 65536;  // of each context when the last step is done
  int streams = 1;        // contexts that decode together
  int steps = 32;         // of each kind
};

struct ModelComparison {
  int layers = 0, kv_heads = 0;
  Timing dense, sparq;  // milliseconds per step, the filling of a block with key columns included
  Timing ratio;         // of steps that follow each other
  double model = 0;     // of bytes read: weights and K/V
  double weight_bytes = 0, dense_bytes = 0,
         sparq_bytes = 0;  // per step; the last two without weights
};

ModelComparison CompareModel(const ModelBenchOptions& options);

}  // namespace kvasir::bench
