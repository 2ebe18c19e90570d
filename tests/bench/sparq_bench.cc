// kvasir-sparq-bench: what SparQ attention gains over dense attention, against the byte model. Not
// a test.
//
//   kvasir-sparq-bench                                        one layer, the whole table
//   kvasir-sparq-bench --stages --shapes mha --keys int8      where SparQ's time goes
//   kvasir-sparq-bench --break_even                           from which context on it pays
//   kvasir-sparq-bench --model tests/bench/shapes/llama-7b.json --layers 8 --weights int8
//
// One layer, one decoding sequence or several: medians of runs of both kinds that take turns, dense
// over SparQ, the same ratio of the bytes that each reads, and the first as a share of the
// second: 1.00 means that SparQ is as near to the memory's bandwidth as dense attention.
// Percentages are how far the middle half of the runs lies apart.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "base/openmp_config.h"
#include "base/parallel.h"
#include "runtime/ops/sparse/sparq_method.h"
#include "tests/bench/machine_limits.h"
#include "tests/bench/sparq_layer_bench.h"
#include "tests/bench/sparq_model_bench.h"

namespace kvasir::bench {
namespace {

struct NamedHeads {
  const char* name;
  int query_heads, kv_heads;
};
constexpr NamedHeads kShapes[] = {{"mha", 32, 32}, {"gqa", 32, 8}, {"mqa", 32, 1}};
constexpr float kCompressions[] = {8, 4, 2};

struct Options {
  std::vector<std::string> shapes = {"mha", "gqa", "mqa"};
  std::vector<std::string> keys = {"same", "int8"};
  std::vector<std::string> selections = {"softmax", "logit"};
  std::vector<int> positions;  // empty: what the mode takes by default
  int block_tokens = 0;        // 0: what suits the keys
  int head_dim = 128;
  int batch = 1;
  int repeats = 15;
  int threads = 0;
  bool stages = false;
  bool break_even = false;
  ModelBenchOptions model;
};

[[noreturn]] void Usage(const std::string& error) {
  std::cerr << "kvasir-sparq-bench: " << error << R"(
  --shapes A,B,...        mha (32 heads), gqa (8 KV heads), mqa (1); default all
  --positions A,B,...     cached tokens, default 4096,16384,32768,65536,131072
  --keys A,B              key columns: same, int8; default both
  --selections A,B        softmax, logit: how a group agrees on its picks; default both
  --block_tokens N        default 32, and 64 with int8 columns
  --head_dim N            default 128
  --batch N               sequences that decode together, default 1 (not with --stages)
  --repeats N             default 15
  --threads N             default: one per core
  --stages                where SparQ's time goes instead, per KV head and thread
  --break_even            from which context on SparQ pays instead, with the parameters of attention.auto
  --model FILE            a whole model instead: random weights of a config.json's shape, its K and V noise
    --weights bf16|int8   default bf16
    --layers N            in place of the shape's
    --kv_heads N          in place of the shape's
    --streams N           contexts that decode together, default 1
)";
  std::exit(2);
}

int Number(absl::string_view text) {
  int value = 0;
  if (!absl::SimpleAtoi(text, &value) || value < 1)
    Usage("not a positive number: " + std::string(text));
  return value;
}

std::vector<std::string> Names(const std::string& text, const std::vector<std::string>& known) {
  std::vector<std::string> list = absl::StrSplit(text, ',');
  for (const std::string& name : list) {
    if (std::find(known.begin(), known.end(), name) == known.end()) Usage("unknown name: " + name);
  }
  return list;
}

Options Parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--stages" || flag == "--break_even") {
      (flag == "--stages" ? options.stages : options.break_even) = true;
      continue;
    }
    if (i + 1 == argc) Usage("unknown flag, or its value is missing: " + flag);
    const std::string value = argv[++i];
    if (flag == "--shapes") {
      options.shapes = Names(value, {"mha", "gqa", "mqa"});
    } else if (flag == "--keys") {
      options.keys = Names(value, {"same", "int8"});
    } else if (flag == "--selections") {
      options.selections = Names(value, {"softmax", "logit"});
    } else if (flag == "--positions") {
      for (absl::string_view text : absl::StrSplit(value, ','))
        options.positions.push_back(Number(text));
    } else if (flag == "--block_tokens") {
      options.block_tokens = Number(value);
    } else if (flag == "--head_dim") {
      options.head_dim = Number(value);
    } else if (flag == "--batch") {
      options.batch = Number(value);
    } else if (flag == "--repeats") {
      options.repeats = Number(value);
    } else if (flag == "--threads") {
      options.threads = Number(value);
    } else if (flag == "--model") {
      options.model.shape = value;
    } else if (flag == "--weights") {
      options.model.weights = Names(value, {"bf16", "int8"}).front() == "int8" ? ComputeType::kInt8
                                                                               : ComputeType::kBf16;
    } else if (flag == "--layers") {
      options.model.layers = Number(value);
    } else if (flag == "--kv_heads") {
      options.model.kv_heads = Number(value);
    } else if (flag == "--streams") {
      options.model.streams = Number(value);
    } else {
      Usage("unknown flag " + flag);
    }
  }
  return options;
}

KvColumns Keys(const std::string& name) {
  return name == "int8" ? KvColumns::kInt8 : KvColumns::kSame;
}

// Int8 rows fill a cache line from 64 positions on.
int BlockTokens(const Options& options, const std::string& keys) {
  return options.block_tokens > 0 ? options.block_tokens : keys == "int8" ? 64 : 32;
}

// Calls run(shape, positions, keys, bench) for everything that was asked for.
template <class Run>
void ForEachLayer(const Options& options, const std::vector<int>& positions, const Run& run) {
  for (const NamedHeads& heads : kShapes) {
    if (std::count(options.shapes.begin(), options.shapes.end(), heads.name) == 0) continue;
    const LayerShape shape = {heads.name, heads.query_heads, heads.kv_heads, options.head_dim};
    for (const std::string& keys : options.keys) {
      for (const int n : positions) {
        LayerBench bench(shape, n, Keys(keys), BlockTokens(options, keys), options.batch);
        run(shape, n, keys, &bench);
        std::fflush(stdout);
      }
    }
  }
}

template <class Run>
void ForEachSelection(const Options& options, const LayerShape& shape, const Run& run) {
  for (const std::string& name : options.selections) {
    const bool logit = name == "logit";
    // One query head has nothing to agree on.
    if (logit && options.selections.size() > 1 && shape.query_heads == shape.kv_heads) continue;
    run(name, logit ? SparseSelection::kLogitSum : SparseSelection::kSoftmaxSum);
  }
}

void PrintTable(const Options& options, const std::vector<int>& positions) {
  std::printf("%-5s%8s %-6s%-9s%17s %17s %7s %16s %7s %7s\n", "", "tokens", "keys", "selection",
              "dense ms", "SparQ ms", "GB/s", "ratio", "bytes'", "share");
  ForEachLayer(
      options, positions,
      [&](const LayerShape& shape, int n, const std::string& keys, LayerBench* bench) {
        ForEachSelection(options, shape, [&](const std::string& selection, SparseSelection rule) {
          const LayerComparison c = bench->Compare(bench->StandardParams(rule), options.repeats);
          std::printf(
              "%-5s%8d %-6s%-9s%9.3f %6.1f%% %9.3f %6.1f%% %7.1f %8.2f %6.1f%% %7.2f %7.2f\n",
              shape.name, n, keys.c_str(), selection.c_str(), c.dense.median, 100 * c.dense.spread,
              c.sparq.median, 100 * c.sparq.spread, c.sparq_bytes / c.sparq.median * 1e-6,
              c.ratio.median, 100 * c.ratio.spread, c.model, c.ratio.median / c.model);
        });
      });
}

void PrintStages(const Options& options, const std::vector<int>& positions) {
  std::printf("microseconds per KV head; in brackets what only reading the same memory takes\n");
  std::printf("%-5s%8s %-6s%-9s%7s %17s %8s %8s %17s %8s\n", "", "tokens", "keys", "selection",
              "begin", "rank", "combine", "select", "attend", "finish");
  ForEachLayer(
      options, positions,
      [&](const LayerShape& shape, int n, const std::string& keys, LayerBench* bench) {
        ForEachSelection(options, shape, [&](const std::string& selection, SparseSelection rule) {
          const LayerStages s = bench->Stages(bench->StandardParams(rule), options.repeats);
          std::printf("%-5s%8d %-6s%-9s%7.1f %8.1f (%6.1f) %8.1f %8.1f %8.1f (%6.1f) %8.1f\n",
                      shape.name, n, keys.c_str(), selection.c_str(), s.begin, s.rank, s.columns,
                      s.combine, s.select, s.attend, s.rows, s.finish);
        });
      });
}

// Dense over SparQ with what attention.auto would choose at each length, whether it would be sparse
// or not.
void PrintBreakEven(const Options& options, const std::vector<int>& positions) {
  constexpr double kTolerance = 0.95;  // what is no slower than this counts as even
  std::printf("dense / SparQ at a compression of");
  for (const float compression : kCompressions) std::printf(" %10g", compression);
  std::printf("\n");
  // [shape and keys][compression]: the length from which on SparQ is never slower.
  std::map<std::string, std::vector<int>> even;
  ForEachLayer(options, positions,
               [&](const LayerShape& shape, int n, const std::string& keys, LayerBench* bench) {
                 const std::string name = std::string(shape.name) + " " + keys;
                 std::vector<int>& from =
                     even.try_emplace(name, std::size(kCompressions), 0).first->second;
                 std::printf("%-10s%8d tokens        ", name.c_str(), n);
                 for (size_t i = 0; i < std::size(kCompressions); ++i) {
                   SparqRequest request;
                   request.compression = kCompressions[i];
                   const AttentionShape of{shape.dim, shape.query_heads / shape.kv_heads};
                   const double ratio =
                       bench->Compare(ResolveSparq(request, of, n), options.repeats).ratio.median;
                   std::printf(" %10.2f", ratio);
                   if (ratio < kTolerance) {
                     from[i] = 0;
                   } else if (from[i] == 0) {
                     from[i] = n;
                   }
                 }
                 std::printf("\n");
               });
  std::printf("\nSparQ pays from so many tokens on (-: not at any of those measured)\n");
  for (const auto& [name, from] : even) {
    std::printf("%-10s                      ", name.c_str());
    for (const int n : from) std::printf(" %10s", n == 0 ? "-" : std::to_string(n).c_str());
    std::printf("\n");
  }
}

void PrintModel(const Options& options, const std::vector<int>& positions) {
  for (const std::string& keys : options.keys) {
    for (const int n : positions) {
      ModelBenchOptions of = options.model;
      of.keys = Keys(keys);
      of.positions = n;
      const ModelComparison c = CompareModel(of);
      std::printf(
          "%d layers, %d KV heads, %.2f GB of %s weights, %d x %d tokens, keys %s\n"
          "  dense %8.2f ms a step %5.1f%%  %5.1f GB/s  K/V %.2f GB\n"
          "  SparQ %8.2f ms a step %5.1f%%  %5.1f GB/s  K/V %.2f GB\n"
          "  ratio %.2f %5.1f%%  bytes' %.2f  share %.2f\n",
          c.layers, c.kv_heads, c.weight_bytes * 1e-9,
          of.weights == ComputeType::kInt8 ? "int8" : "bf16", of.streams, n, keys.c_str(),
          c.dense.median, 100 * c.dense.spread,
          (c.weight_bytes + c.dense_bytes) / c.dense.median * 1e-6, c.dense_bytes * 1e-9,
          c.sparq.median, 100 * c.sparq.spread,
          (c.weight_bytes + c.sparq_bytes) / c.sparq.median * 1e-6, c.sparq_bytes * 1e-9,
          c.ratio.median, 100 * c.ratio.spread, c.model, c.ratio.median / c.model);
      std::fflush(stdout);
    }
  }
}

int Main(int argc, char** argv) {
  const Options options = Parse(argc, argv);
  SetComputeThreads(options.threads > 0 ? options.threads : ComputeThreads());
  const auto positions = [&](std::vector<int> by_default) {
    return options.positions.empty() ? by_default : options.positions;
  };
  std::printf("threads %d, reads %.1f GB/s, medians of %d\n", ComputeThreads(),
              ReadBandwidthNow() * 1e-9,
              options.model.shape.empty() ? options.repeats : options.model.steps);
  if (!options.model.shape.empty()) {
    PrintModel(options, positions({65536}));
  } else if (options.break_even) {
    PrintBreakEven(options, positions({256, 512, 1024, 2048, 4096, 8192, 16384}));
  } else if (options.stages) {
    PrintStages(options, positions({65536}));
  } else {
    PrintTable(options, positions({4096, 16384, 32768, 65536, 131072}));
  }
  return 0;
}

}  // namespace
}  // namespace kvasir::bench

int main(int argc, char** argv) {
  // As the daemon does, so that the bench measures the daemon's threads.
  kvasir::ConfigureOpenMp(argv);
  return kvasir::bench::Main(argc, argv);
}
