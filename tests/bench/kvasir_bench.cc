// kvasir-bench: prints how near the engine comes to the machine's limits, for a model folder or for
// random weights of a shape.
//
//   kvasir-bench --shape tests/bench/shapes/llama-1b.json --weights bf16,int8 --grpc 16
//
// For each weight type: the prefill of prompts, and decoding of 1, 4, 8, 16 and 32 streams at
// once, over the steps in which all of them decode. Rates are by the clock, gaps between steps
// included. GB/s counts weights and K/V read, GFLOP/s the products with weights; both also as
// ratios to the read bandwidth and to oneDNN's large product, measured between the rounds of the
// same run. Rounds are interleaved; medians over them, spread = (most - least) / median. --grpc
// and --http also run that many streams through a gRPC server and the C++ client, or through the
// HTTP port as server-sent events, in turn with the in-process run of the same round, and print
// what that costs. So does every further --speculative.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/openmp_config.h"
#include "base/parallel.h"
#include "base/thread_placement.h"
#include "nlohmann/json.hpp"
#include "runtime/ops/cpu_target.h"
#include "tests/bench/engine_under_test.h"
#include "tests/bench/machine_limits.h"

namespace kvasir::bench {
namespace {

struct Options {
  EngineOptions engine;
  std::vector<std::string> weights = {"bf16"};
  std::vector<int> batches = {1, 4, 8, 16, 32};
  std::vector<int> grpc, http;
  std::vector<SpeculationMode> speculation = {SpeculationMode::kOff};
  int repeats = 3;
  bool json = false;
  bool probe = true;
};

// Block formats compute from bf16 inputs.
const std::map<std::string, WeightChoice> kWeightTypes = {
    {"f32", {ComputeType::kF32, {}}},
    {"bf16", {ComputeType::kBf16, {}}},
    {"int8", {ComputeType::kInt8, {}}},
    {"q8_0", {ComputeType::kBf16, WeightFormat::kQ8_0}},
    {"q4_0", {ComputeType::kBf16, WeightFormat::kQ4_0}},
    {"q4_k", {ComputeType::kBf16, WeightFormat::kQ4_K}},
    {"int4", {ComputeType::kBf16, WeightFormat::kInt4Zero32}},
    {"int4_64", {ComputeType::kBf16, WeightFormat::kInt4Group64}},
    {"int4_128", {ComputeType::kBf16, WeightFormat::kInt4Group128}}};

[[noreturn]] void Usage(const std::string& error) {
  std::cerr << "kvasir-bench: " << error << R"(
  --model DIR             a Hugging Face folder or GGUF file, or
  --shape FILE            a config.json whose shape gets random weights
  --weights A,B,...       of f32, bf16, int8; or plain weights brought into blocks: q8_0, q4_0,
                          q4_k, int4, int4_64, int4_128; default bf16
  --kv f32|bf16|f16|int8  default bf16
  --prompt A,B,...        tokens of the prompts whose prefill is timed, default 512
  --context N             tokens of each sequence before its decoding is timed, default 128
  --generate N            decode steps timed, default 32
  --batch A,B,...         streams at once, default 1,4,8,16,32
  --grpc A,B,...          also through gRPC, for these numbers of streams
  --http A,B,...          also through the HTTP port, as server-sent events
  --repeats N             rounds, default 3; medians are reported
  --threads N             default: one per core
  --speculative A,B,...   of ngram, draft:DIR and off: guesses at next tokens, checked beside them;
                          default off. Several take turns in every round
  --max_draft_tokens N    most guesses per sequence and step, default 8
  --text FILE             prompts before decoding are of this text; default random tokens
  --temperature X         of decoding, default 0
  --cpu_target auto|avx512_bf16|avx512|avx2
  --no_probe              skip measuring the machine (no ratios)
  --json                  one JSON object per weight type
)";
  std::exit(2);
}

int Number(absl::string_view text) {
  int value = 0;
  if (!absl::SimpleAtoi(text, &value) || value < 1) {
    Usage(absl::StrCat("not a positive number: ", text));
  }
  return value;
}

std::vector<int> Numbers(const std::string& text) {
  std::vector<int> numbers;
  for (absl::string_view part : absl::StrSplit(text, ',')) numbers.push_back(Number(part));
  return numbers;
}

template <typename Value>
Value OneOf(const std::string& flag, const std::string& name,
            const std::map<std::string, Value>& values) {
  const auto found = values.find(name);
  if (found == values.end()) Usage(flag + " does not take " + name);
  return found->second;
}

SpeculationMode SpeculationOf(const std::string& flag, absl::string_view name,
                              EngineOptions* engine) {
  if (absl::ConsumePrefix(&name, "draft:")) {
    engine->draft_model = std::string(name);
    return SpeculationMode::kDraft;
  }
  return OneOf<SpeculationMode>(
      flag, std::string(name),
      {{"ngram", SpeculationMode::kNgram}, {"off", SpeculationMode::kOff}});
}

Options Parse(int argc, char** argv) {
  Options options;
  options.engine.threads = PlanThreads().threads;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--json" || flag == "--no_probe") {
      (flag == "--json" ? options.json : options.probe) = flag == "--json";
      continue;
    }
    if (i + 1 == argc) Usage("unknown flag, or its value is missing: " + flag);
    const std::string value = argv[++i];
    if (flag == "--model") {
      options.engine.model = value;
    } else if (flag == "--shape") {
      options.engine.shape = value;
    } else if (flag == "--weights") {
      options.weights = absl::StrSplit(value, ',');
      for (const std::string& name : options.weights) OneOf(flag, name, kWeightTypes);
    } else if (flag == "--kv") {
      options.engine.kv = OneOf<KvElementType>(flag, value,
                                               {{"f32", KvElementType::kF32},
                                                {"bf16", KvElementType::kBf16},
                                                {"f16", KvElementType::kF16},
                                                {"int8", KvElementType::kInt8}});
    } else if (flag == "--prompt") {
      options.engine.prompts = Numbers(value);
    } else if (flag == "--context") {
      options.engine.context = Number(value);
    } else if (flag == "--generate") {
      options.engine.generate = Number(value);
    } else if (flag == "--batch") {
      options.batches = Numbers(value);
    } else if (flag == "--grpc") {
      options.grpc = Numbers(value);
    } else if (flag == "--http") {
      options.http = Numbers(value);
    } else if (flag == "--repeats") {
      options.repeats = Number(value);
    } else if (flag == "--speculative") {
      options.speculation.clear();
      for (const absl::string_view mode : absl::StrSplit(value, ','))
        options.speculation.push_back(SpeculationOf(flag, mode, &options.engine));
      options.engine.speculation.mode = options.speculation.front();
    } else if (flag == "--max_draft_tokens") {
      options.engine.speculation.max_draft_tokens = Number(value);
    } else if (flag == "--text") {
      options.engine.text = value;
    } else if (flag == "--temperature") {
      if (!absl::SimpleAtof(value, &options.engine.temperature))
        Usage(absl::StrCat("not a number: ", value));
    } else if (flag == "--threads") {
      options.engine.threads = Number(value);
    } else if (flag == "--cpu_target") {
      const absl::Status limited =
          LimitCpuTarget(OneOf<CpuTarget>(flag, value,
                                          {{"auto", CpuTarget::kAuto},
                                           {"avx512_bf16", CpuTarget::kAvx512Bf16},
                                           {"avx512", CpuTarget::kAvx512},
                                           {"avx2", CpuTarget::kAvx2}}));
      if (!limited.ok()) Usage(std::string(limited.message()));
    } else {
      Usage("unknown flag " + flag);
    }
  }
  if (options.engine.model.empty() == options.engine.shape.empty())
    Usage("give --model or --shape");
  for (const std::vector<int>& through : {options.grpc, options.http}) {
    for (const int streams : through) {
      if (std::count(options.batches.begin(), options.batches.end(), streams) == 0) {
        options.batches.push_back(streams);
      }
    }
  }
  std::sort(options.batches.begin(), options.batches.end());
  options.engine.most_streams = options.batches.back();
  return options;
}

struct Spread {
  double median = 0;
  double relative = 0;  // (most - least) / median
};

Spread Summarize(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const double median = values[values.size() / 2];
  return {median, median > 0 ? (values.back() - values.front()) / median : 0};
}

// All rounds of one line of the table.
struct Line {
  std::string what;
  std::vector<DecodeRun> runs;
  double operations_per_token = 0;
  std::vector<double> cost;  // beside the first way to run these streams: 1 - rate / its rate

  Spread Of(double DecodeRun::*field) const {
    std::vector<double> values;
    for (const DecodeRun& run : runs) values.push_back(run.*field);
    return Summarize(std::move(values));
  }
};

// How streams are run: in-process with each mode of speculation, and through doors with the first.
struct Way {
  Door door = Door::kNone;
  SpeculationMode mode = SpeculationMode::kOff;
  std::string suffix = {};  // of the line's name
};

std::vector<Way> WaysOf(const Options& options, int streams) {
  std::vector<Way> ways;
  for (const SpeculationMode mode : options.speculation) {
    ways.push_back(
        {Door::kNone, mode,
         options.speculation.size() > 1 ? absl::StrCat(" ", SpeculationModeName(mode)) : ""});
  }
  const auto has = [&](const std::vector<int>& list) {
    return std::count(list.begin(), list.end(), streams) > 0;
  };
  const SpeculationMode first = options.speculation.front();
  if (has(options.grpc)) ways.push_back({Door::kGrpc, first, " gRPC"});
  if (has(options.http)) ways.push_back({Door::kHttp, first, " HTTP"});
  return ways;
}

std::vector<Line> Measure(const Options& options, EngineUnderTest* engine, ComputeType limits) {
  std::vector<Line> lines;
  for (const int prompt : options.engine.prompts) {
    lines.push_back({.what = absl::StrCat("prefill ", prompt),
                     .runs = {},
                     .operations_per_token = engine->PrefillOperationsPerToken(prompt),
                     .cost = {}});
  }
  for (const int streams : options.batches) {
    const double operations = engine->DecodeOperationsPerToken();
    for (const Way& way : WaysOf(options, streams))
      lines.push_back({absl::StrCat("decode ", streams, way.suffix), {}, operations, {}});
  }
  for (int round = 0; round < options.repeats; ++round) {
    if (options.probe) RunWithOwnTeam([&] { MeasureAgain(limits); });
    size_t line = 0;
    for (const int prompt : options.engine.prompts) {
      DecodeRun prefill;
      prefill.tokens_per_second = engine->PrefillTokensPerSecond(prompt);
      lines[line++].runs.push_back(prefill);
    }
    for (const int streams : options.batches) {
      const std::vector<Way> ways = WaysOf(options, streams);
      // Forwards and backwards by turns, so that a drift of the machine favours none.
      for (size_t turn = 0; turn < ways.size(); ++turn) {
        const size_t way = round % 2 == 0 ? turn : ways.size() - 1 - turn;
        lines[line + way].runs.push_back(engine->Decode(streams, ways[way].door, ways[way].mode));
      }
      const double first = lines[line].runs.back().tokens_per_second;
      for (size_t way = 1; way < ways.size(); ++way) {
        Line& other = lines[line + way];
        other.cost.push_back(1 - other.runs.back().tokens_per_second / first);
      }
      line += ways.size();
    }
  }
  if (options.probe) RunWithOwnTeam([&] { MeasureAgain(limits); });
  return lines;
}

void PrintJson(const std::string& weights, const EngineUnderTest& engine, double bandwidth,
               double peak, const std::vector<Line>& lines) {
  nlohmann::ordered_json out;
  out["weights"] = weights;
  out["parameters"] = engine.model().spec().num_parameters();
  out["weight_bytes"] = engine.model().weight_bytes();
  out["threads"] = ComputeThreads();
  out["load_seconds"] = engine.load_seconds();
  out["read_bandwidth_bytes_per_second"] = bandwidth;
  out["large_product_operations_per_second"] = peak;
  for (const Line& line : lines) {
    const Spread rate = line.Of(&DecodeRun::tokens_per_second);
    nlohmann::ordered_json row;
    row["what"] = line.what;
    row["tokens_per_second"] = rate.median;
    row["spread"] = rate.relative;
    row["read_bytes_per_second"] = line.Of(&DecodeRun::read_bytes_per_second).median;
    row["operations_per_second"] = rate.median * line.operations_per_token;
    row["drafted_per_step"] = line.Of(&DecodeRun::drafted_per_step).median;
    row["accepted_per_step"] = line.Of(&DecodeRun::accepted_per_step).median;
    row["step_seconds"] = line.Of(&DecodeRun::step_seconds).median;
    row["shares"] = {{"schedule", line.Of(&DecodeRun::schedule_share).median},
                     {"model", line.Of(&DecodeRun::model_share).median},
                     {"sample", line.Of(&DecodeRun::sample_share).median},
                     {"output", line.Of(&DecodeRun::output_share).median}};
    if (!line.cost.empty()) row["door_cost"] = Summarize(line.cost).median;
    out["lines"].push_back(std::move(row));
  }
  std::cout << out.dump(2) << "\n";
}

void PrintTable(const std::string& weights, const EngineUnderTest& engine, double bandwidth,
                double peak, const std::vector<Line>& lines) {
  const auto ratio = [](double value, double limit) { return limit > 0 ? value / limit : 0; };
  std::printf("%s: %.3f B parameters, %.2f GB of weights, %d threads, loaded in %.1f s\n",
              weights.c_str(), static_cast<double>(engine.model().spec().num_parameters()) / 1e9,
              static_cast<double>(engine.model().weight_bytes()) / 1e9, ComputeThreads(),
              engine.load_seconds());
  if (bandwidth > 0) {
    std::printf("machine: reads %.1f GB/s, oneDNN large product %.0f GFLOP/s\n", bandwidth / 1e9,
                peak / 1e9);
  }
  std::printf("%-16s %9s %7s %7s %7s %8s %9s | %8s %7s %7s %7s | %s\n", "", "tokens/s", "spread",
              "GB/s", "/reads", "GFLOP/s", "/product", "schedule", "model", "sample", "output",
              "costs");
  for (const Line& line : lines) {
    const Spread rate = line.Of(&DecodeRun::tokens_per_second);
    const double bytes = line.Of(&DecodeRun::read_bytes_per_second).median;
    const double operations = rate.median * line.operations_per_token;
    std::printf("%-16s %9.1f %6.1f%% ", line.what.c_str(), rate.median, 100 * rate.relative);
    if (bytes > 0) {
      std::printf("%7.1f %7.2f ", bytes / 1e9, ratio(bytes, bandwidth));
    } else {
      std::printf("%7s %7s ", "", "");
    }
    std::printf("%8.0f %9.2f |", operations / 1e9, ratio(operations, peak));
    if (bytes > 0) {
      std::printf(" %7.2f%% %6.2f%% %6.2f%% %6.2f%% |",
                  100 * line.Of(&DecodeRun::schedule_share).median,
                  100 * line.Of(&DecodeRun::model_share).median,
                  100 * line.Of(&DecodeRun::sample_share).median,
                  100 * line.Of(&DecodeRun::output_share).median);
    }
    if (!line.cost.empty()) {
      const auto [least, most] = std::minmax_element(line.cost.begin(), line.cost.end());
      std::printf(" %.1f%% (%.1f to %.1f)", 100 * Summarize(line.cost).median, 100 * *least,
                  100 * *most);
    }
    if (const double drafted = line.Of(&DecodeRun::drafted_per_step).median; drafted > 0) {
      std::printf(" %.2f of %.2f drafted tokens per step accepted",
                  line.Of(&DecodeRun::accepted_per_step).median, drafted);
    }
    std::printf("\n");
  }
  std::fflush(stdout);
}

int Main(int argc, char** argv) {
  const Options options = Parse(argc, argv);
  SetComputeThreads(options.engine.threads);
  if (!options.json) std::printf("%s\n", DescribeCpuTarget().c_str());
  for (const std::string& weights : options.weights) {
    EngineUnderTest engine(options.engine, kWeightTypes.at(weights));
    const ComputeType arithmetic = engine.model().compute_type();
    const std::vector<Line> lines = Measure(options, &engine, arithmetic);
    const double bandwidth = options.probe ? ReadBandwidth() : 0;
    const double peak = options.probe ? ProductRate(arithmetic) : 0;
    (options.json ? PrintJson : PrintTable)(weights, engine, bandwidth, peak, lines);
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
