// kvasir-sparq-bench: SparQ attention against dense attention on one layer and one decoding sequence, and against
// the byte model. Not a test.
//
//   kvasir-sparq-bench --positions 16384,65536 --repeats 15
//   kvasir-sparq-bench --shapes mha --keys int8 --stages
//
// Columns: milliseconds of each (the medians of runs that take turns), dense over SparQ, the same ratio of the bytes
// that each reads, and the first as a share of the second: 1.00 means that SparQ is as near to the memory's bandwidth
// as dense attention. Rank is head_dim / 8, top_k max(128, positions / 16); the mean of V stands in without groups.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "runtime/base/parallel.h"
#include "runtime/kernels/bf16_attention_kernels.h"
#include "runtime/ops/paged_attention.h"
#include "runtime/ops/sparq_attention.h"
#include "runtime/ops/sparq_task.h"
#include "tests/bench/sparq_pool.h"

namespace kvasir::bench {
namespace {

constexpr float kScale = 0.088f;
constexpr AttentionShape kShapes[] = {{"mha", 32, 32, 128}, {"gqa", 32, 8, 128}, {"mqa", 32, 1, 128}};

struct Options {
  std::vector<std::string> shapes = {"mha", "gqa", "mqa"};
  std::vector<std::string> keys = {"same", "int8"};
  std::vector<std::string> selections = {"softmax", "logit"};
  std::vector<int> positions = {4096, 16384, 32768, 65536, 131072};
  int repeats = 15;
  int threads = 0;
  bool stages = false;
};

[[noreturn]] void Usage(const std::string& error) {
  std::cerr << "kvasir-sparq-bench: " << error << R"(
  --shapes A,B,...        mha (32 heads of 128), gqa (8 KV heads), mqa (1); default all
  --positions A,B,...     cached tokens, default 4096,16384,32768,65536,131072
  --keys A,B              key columns: same (blocks of 32), int8 (blocks of 64); default both
  --selections A,B        softmax, logit: how a group agrees on its picks; default both
  --repeats N             default 15
  --threads N             default: usable CPUs
  --stages                where SparQ's time goes instead, per KV head and thread
)";
  std::exit(2);
}

Options Parse(int argc, char** argv) {
  Options options;
  const auto number = [](const std::string& text) {
    int value = 0;
    if (!absl::SimpleAtoi(text, &value) || value < 1) Usage("not a positive number: " + text);
    return value;
  };
  const auto names = [](const std::string& text, const std::vector<std::string>& known) {
    std::vector<std::string> list = absl::StrSplit(text, ',');
    for (const std::string& name : list) {
      if (std::find(known.begin(), known.end(), name) == known.end()) Usage("unknown name: " + name);
    }
    return list;
  };
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--stages") {
      options.stages = true;
      continue;
    }
    if (i + 1 == argc) Usage("unknown flag, or its value is missing: " + flag);
    const std::string value = argv[++i];
    if (flag == "--shapes") {
      options.shapes = names(value, {"mha", "gqa", "mqa"});
    } else if (flag == "--keys") {
      options.keys = names(value, {"same", "int8"});
    } else if (flag == "--selections") {
      options.selections = names(value, {"softmax", "logit"});
    } else if (flag == "--positions") {
      options.positions.clear();
      for (const std::string& text : std::vector<std::string>(absl::StrSplit(value, ','))) {
        options.positions.push_back(number(text));
      }
    } else if (flag == "--repeats") {
      options.repeats = number(value);
    } else if (flag == "--threads") {
      options.threads = number(value);
    } else {
      Usage("unknown flag " + flag);
    }
  }
  return options;
}

double Median(std::vector<double> times) {
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  return times[times.size() / 2];
}

double Milliseconds(const std::function<void()>& run) {
  const auto start = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

SparqParams Params(const AttentionShape& shape, int positions, SparqSelection selection) {
  SparqParams params;
  params.rank = shape.dim / 8;
  params.top_k = std::max(128, positions / 16);
  params.local_window = 32;
  params.mean_value = shape.query_heads == shape.kv_heads;
  params.selection = selection;
  return params;
}

void Compare(const AttentionShape& shape, int positions, const SparqPool& pool, SparqSelection selection,
             int repeats) {
  MatmulInput out(ComputeType::kBf16);
  PagedAttention dense;
  SparqAttention sparse;
  const SparqParams params = Params(shape, positions, selection);
  const auto run_dense = [&](int s) {
    dense.Run(pool.queries(), shape.query_heads, kScale, {AttentionSequence{0, 1, positions - 1, pool.blocks(s)}},
              pool.view(), &out);
  };
  const auto run_sparse = [&](int s) {
    sparse.Run(pool.queries(), shape.query_heads, kScale,
               {SparqSequence{{0, 1, positions - 1, pool.blocks(s)}, params}}, pool.view(), &out);
  };
  run_dense(0);
  run_sparse(0);
  std::vector<double> dense_times, sparse_times;
  for (int i = 0; i < repeats; ++i) {
    const int s = i % pool.num_sequences();
    dense_times.push_back(Milliseconds([&] { run_dense(s); }));
    sparse_times.push_back(Milliseconds([&] { run_sparse((s + 1) % pool.num_sequences()); }));
  }
  const double dense_ms = Median(dense_times), sparse_ms = Median(sparse_times);
  const int64_t sparse_bytes = SparqBytesRead(pool.layout(), 0, positions, params);
  const double model = static_cast<double>(positions) * pool.layout().read_bytes_per_token() / sparse_bytes;
  std::printf("%-4s %7d  keys %-4s %-7s  dense %8.3f ms  sparq %8.3f ms %5.1f GB/s  ratio %5.2f  model %5.2f  share %4.2f\n",
              shape.name, positions, SparqKeysName(pool.layout().sparq_keys()),
              selection == SparqSelection::kSoftmaxSum ? "softmax" : "logit", dense_ms, sparse_ms,
              static_cast<double>(sparse_bytes) / sparse_ms * 1e-6, dense_ms / sparse_ms, model,
              dense_ms / sparse_ms / model);
  std::fflush(stdout);
}

// Microseconds of each stage, summed over KV heads that the threads take one by one, divided by their number.
void Stages(const AttentionShape& shape, int positions, const SparqPool& pool, SparqSelection selection,
            int repeats) {
  enum { kBegin, kRank, kCombine, kSelect, kAttend, kFinish, kNum };
  std::vector<std::vector<double>> stages(kNum);
  const int group = shape.query_heads / shape.kv_heads;
  std::vector<float> out(static_cast<size_t>(shape.query_heads) * shape.dim);
  std::vector<SparqTask> tasks(ComputeThreads());
  for (int i = 0; i < repeats; ++i) {
    std::vector<std::vector<double>> times(tasks.size(), std::vector<double>(kNum));
    ParallelFor(shape.kv_heads, [&](size_t head, int thread) {
      SparqTask& task = tasks[thread];
      std::vector<double>& time = times[thread];
      SparqItem item;
      item.q = pool.queries().data + head * group * shape.dim;
      item.group = group;
      item.kv_head = static_cast<int>(head);
      item.positions = positions;
      item.blocks = pool.blocks(i % pool.num_sequences());
      item.params = Params(shape, positions, selection);
      item.scale = kScale;
      item.bf16_products = HasBf16Products();
      item.out = out.data() + head * group * shape.dim;
      time[kBegin] += Milliseconds([&] { task.Begin(item, pool.view()); });
      time[kRank] += Milliseconds([&] { for (int c = 0; c < task.num_rank_chunks(); ++c) task.Rank(c); });
      time[kCombine] += Milliseconds([&] { task.Merge(); });
      time[kCombine] += Milliseconds([&] { for (int c = 0; c < task.num_rank_chunks(); ++c) task.Combine(c); });
      time[kSelect] += Milliseconds([&] { task.Select(); });
      time[kAttend] += Milliseconds([&] { for (int c = 0; c < task.num_attend_chunks(); ++c) task.Attend(c); });
      time[kFinish] += Milliseconds([&] { task.Finish(); });
    });
    for (int stage = 0; stage < kNum; ++stage) {
      double sum = 0;
      for (const auto& time : times) sum += time[stage];
      stages[stage].push_back(sum * 1e3 / shape.kv_heads);
    }
  }
  std::printf("%-4s %7d  keys %-4s %-7s us per KV head: begin %6.1f  rank %6.1f  combine %6.1f  select %6.1f  attend %6.1f  finish %6.1f\n",
              shape.name, positions, SparqKeysName(pool.layout().sparq_keys()),
              selection == SparqSelection::kSoftmaxSum ? "softmax" : "logit", Median(stages[kBegin]),
              Median(stages[kRank]), Median(stages[kCombine]), Median(stages[kSelect]), Median(stages[kAttend]),
              Median(stages[kFinish]));
  std::fflush(stdout);
}

int Main(int argc, char** argv) {
  const Options options = Parse(argc, argv);
  SetComputeThreads(options.threads > 0 ? options.threads : ComputeThreads());
  std::printf("threads %d, medians of %d\n", ComputeThreads(), options.repeats);
  for (const AttentionShape& shape : kShapes) {
    if (std::count(options.shapes.begin(), options.shapes.end(), shape.name) == 0) continue;
    for (const int positions : options.positions) {
      for (const std::string& keys : options.keys) {
        const bool int8 = keys == "int8";
        // Int8 rows fill a cache line from 64 positions on.
        const SparqPool pool(shape, positions, int8 ? 64 : 32, int8 ? SparqKeys::kInt8 : SparqKeys::kSame);
        for (const std::string& name : options.selections) {
          const bool logit = name == "logit";
          // One query head has nothing to agree on.
          if (logit && options.selections.size() > 1 && shape.query_heads == shape.kv_heads) continue;
          const SparqSelection selection = logit ? SparqSelection::kLogitSum : SparqSelection::kSoftmaxSum;
          (options.stages ? Stages : Compare)(shape, positions, pool, selection, options.repeats);
        }
      }
    }
  }
  return 0;
}

}  // namespace
}  // namespace kvasir::bench

int main(int argc, char** argv) { return kvasir::bench::Main(argc, argv); }
