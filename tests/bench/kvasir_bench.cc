// kvasir-bench: the engine in-process, without gRPC, over a model folder or random weights of a
// shape.
//
//   kvasir-bench --model deploy/models/tale-7m-gqa2 --batch 1,8,16,32
//   kvasir-bench --shape tests/bench/shapes/llama-1b.json --weights int8 --prompt 512 --generate 64
//   --json
//
// For each batch size it starts that many requests at once, lets every prompt be computed, and
// times the steps in which all of them decode. Prefill is timed over the steps that compute
// prompts. Medians over steps; ratios are to this machine's read bandwidth and to oneDNN's large
// product, measured in the same run.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "nlohmann/json.hpp"
#include "runtime/base/cpu_topology.h"
#include "runtime/base/parallel.h"
#include "runtime/engine/engine.h"
#include "runtime/model/hf_config.h"
#include "tests/bench/machine_limits.h"
#include "tests/test_models.h"

namespace kvasir::bench {
namespace {

struct Options {
  std::string model;
  std::string shape;
  ComputeType weights = ComputeType::kBf16;
  KvElementType kv = KvElementType::kBf16;
  int prompt = 512;
  int generate = 64;
  int repeats = 3;
  std::vector<int> batches = {1, 4, 8, 16, 32};
  int threads = 0;
  bool json = false;
  bool probe = true;
};

[[noreturn]] void Usage(const std::string& error) {
  std::cerr << "kvasir-bench: " << error << R"(
  --model DIR             a Hugging Face folder, or
  --shape FILE            a config.json whose shape gets random weights
  --weights f32|bf16|int8 default bf16
  --kv f32|bf16|f16|int8  default bf16
  --prompt N              prompt tokens, default 512
  --generate N            tokens timed per sequence, default 64
  --batch A,B,...         concurrent sequences, default 1,4,8,16,32
  --repeats N             default 3; medians are reported
  --threads N             default: usable CPUs
  --no_probe              skip measuring the machine (no ratios)
  --json                  one JSON object
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
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--json") {
      options.json = true;
      continue;
    }
    if (flag == "--no_probe") {
      options.probe = false;
      continue;
    }
    if (i + 1 == argc) Usage("unknown flag, or its value is missing: " + flag);
    const std::string value = argv[++i];
    if (flag == "--model")
      options.model = value;
    else if (flag == "--shape")
      options.shape = value;
    else if (flag == "--prompt")
      options.prompt = number(value);
    else if (flag == "--generate")
      options.generate = number(value);
    else if (flag == "--repeats")
      options.repeats = number(value);
    else if (flag == "--threads")
      options.threads = number(value);
    else if (flag == "--batch") {
      options.batches.clear();
      for (absl::string_view part : absl::StrSplit(value, ','))
        options.batches.push_back(number(std::string(part)));
    } else if (flag == "--weights") {
      const std::map<std::string, ComputeType> types = {
          {"f32", ComputeType::kF32}, {"bf16", ComputeType::kBf16}, {"int8", ComputeType::kInt8}};
      if (!types.contains(value)) Usage("--weights takes f32, bf16 or int8, not " + value);
      options.weights = types.at(value);
    } else if (flag == "--kv") {
      const std::map<std::string, KvElementType> types = {{"f32", KvElementType::kF32},
                                                          {"bf16", KvElementType::kBf16},
                                                          {"f16", KvElementType::kF16},
                                                          {"int8", KvElementType::kInt8}};
      if (!types.contains(value)) Usage("--kv takes f32, bf16, f16 or int8, not " + value);
      options.kv = types.at(value);
    } else {
      Usage("unknown flag " + flag);
    }
  }
  if (options.model.empty() == options.shape.empty()) Usage("give --model or --shape");
  return options;
}

double Median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Sums of the steps that only prefill, and medians of those in which every sequence decodes.
class StepRecorder : public EngineObserver {
 public:
  void OnStep(const StepSummary& step) override {
    absl::MutexLock lock(&mutex_);
    steps_.push_back(step);
  }
  std::vector<StepSummary> Take() {
    absl::MutexLock lock(&mutex_);
    return std::exchange(steps_, {});
  }

 private:
  absl::Mutex mutex_;
  std::vector<StepSummary> steps_ ABSL_GUARDED_BY(mutex_);
};

double StepSeconds(const StepSummary& step) {
  return absl::ToDoubleSeconds(step.schedule_time + step.model_time + step.sample_time +
                               step.output_time);
}

struct BatchResult {
  int batch = 0;
  double prefill_tokens_per_second = 0;
  double decode_tokens_per_second = 0;
  double step_seconds = 0;  // median decode step
  double schedule_share = 0, model_share = 0, sample_share = 0, output_share = 0;
  double read_bytes_per_second = 0;  // weights and K/V, in decode
  double prefill_flops = 0;
  double spread = 0;  // (max - min) / median of decode tokens/s over repeats
};

std::vector<TokenId> RandomPrompt(int length, int vocab_size, uint64_t seed) {
  std::vector<TokenId> prompt(length);
  for (TokenId& token : prompt) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    token = static_cast<TokenId>((seed >> 33) % static_cast<uint64_t>(vocab_size));
  }
  return prompt;
}

BatchResult Measure(Engine* engine, StepRecorder* recorder, const Options& options, int batch,
                    uint64_t seed) {
  recorder->Take();
  std::vector<std::shared_ptr<TokenStream>> streams;
  for (int i = 0; i < batch; ++i) {
    GenerationRequest request;
    request.id = absl::StrCat("bench-", i);
    request.prompt =
        RandomPrompt(options.prompt, engine->model().spec().vocab_size, seed * 1000 + i);
    request.sampling.temperature = 0;
    request.stopping.max_tokens = options.generate + 1;
    request.stopping.ignore_eos = true;
    request.arrival = absl::Now();
    auto ticket = engine->Admit(options.prompt).value();
    streams.push_back(engine->Submit(std::move(ticket), std::move(request)).value());
  }
  for (const auto& stream : streams) {
    while (true) {
      const StreamEvent event = stream->WaitPop();
      if (const auto* finished = std::get_if<FinishedEvent>(&event)) {
        if (!finished->status.ok()) Usage(std::string(finished->status.message()));
        break;
      }
    }
  }

  BatchResult result;
  result.batch = batch;
  double prefill_seconds = 0, prefill_tokens = 0;
  std::vector<double> seconds, schedule, model, sample, output, bytes;
  const double weight_bytes = static_cast<double>(engine->model().weight_bytes());
  for (const StepSummary& step : recorder->Take()) {
    const double s = StepSeconds(step);
    if (step.decode_tokens == 0) {
      prefill_seconds += s;
      prefill_tokens += step.prefill_tokens;
    } else if (step.prefill_tokens == 0 && step.decode_tokens == batch) {
      seconds.push_back(s);
      schedule.push_back(absl::ToDoubleSeconds(step.schedule_time) / s);
      model.push_back(absl::ToDoubleSeconds(step.model_time) / s);
      sample.push_back(absl::ToDoubleSeconds(step.sample_time) / s);
      output.push_back(absl::ToDoubleSeconds(step.output_time) / s);
      bytes.push_back((weight_bytes + static_cast<double>(step.kv_bytes_read)) / s);
    }
  }
  result.prefill_tokens_per_second = prefill_seconds > 0 ? prefill_tokens / prefill_seconds : 0;
  result.step_seconds = Median(seconds);
  result.decode_tokens_per_second = result.step_seconds > 0 ? batch / result.step_seconds : 0;
  result.schedule_share = Median(schedule);
  result.model_share = Median(model);
  result.sample_share = Median(sample);
  result.output_share = Median(output);
  result.read_bytes_per_second = Median(bytes);
  // Every parameter but the embedding table is used once per token; attention's own products are
  // left out.
  const ModelSpec& spec = engine->model().spec();
  const double embedding = static_cast<double>(spec.vocab_size) * spec.hidden_size;
  const double head = spec.tied_embeddings ? embedding : 2 * embedding;
  result.prefill_flops =
      result.prefill_tokens_per_second * 2.0 * (static_cast<double>(spec.num_parameters()) - head);
  return result;
}

BatchResult MedianOf(const std::vector<BatchResult>& runs) {
  BatchResult result = runs.front();
  const auto median = [&runs](double BatchResult::*field) {
    std::vector<double> values;
    for (const BatchResult& run : runs) values.push_back(run.*field);
    return Median(std::move(values));
  };
  for (auto field :
       {&BatchResult::prefill_tokens_per_second, &BatchResult::decode_tokens_per_second,
        &BatchResult::step_seconds, &BatchResult::schedule_share, &BatchResult::model_share,
        &BatchResult::sample_share, &BatchResult::output_share, &BatchResult::read_bytes_per_second,
        &BatchResult::prefill_flops}) {
    result.*field = median(field);
  }
  double lowest = result.decode_tokens_per_second, highest = lowest;
  for (const BatchResult& run : runs) {
    lowest = std::min(lowest, run.decode_tokens_per_second);
    highest = std::max(highest, run.decode_tokens_per_second);
  }
  result.spread = result.decode_tokens_per_second > 0
                      ? (highest - lowest) / result.decode_tokens_per_second
                      : 0;
  return result;
}

template <typename T>
T OrDie(absl::StatusOr<T> value) {
  if (!value.ok()) Usage(std::string(value.status().message()));
  return *std::move(value);
}

std::unique_ptr<Model> LoadModel(const Options& options) {
  Model::Options load;
  load.compute_type = options.weights;
  if (!options.model.empty()) return OrDie(Model::Load(options.model, load));
  std::ifstream file(options.shape);
  std::stringstream text;
  text << file.rdbuf();
  if (!file) Usage("cannot read " + options.shape);
  return OrDie(Model::Random(OrDie(ParseHfConfig(text.str(), "")), load, /*seed=*/1));
}

int Main(int argc, char** argv) {
  const Options options = Parse(argc, argv);
  const int threads = options.threads > 0 ? options.threads : UsableCpus();
  SetComputeThreads(threads);
  const auto started = absl::Now();
  const std::unique_ptr<Model> model = LoadModel(options);
  const double load_seconds = absl::ToDoubleSeconds(absl::Now() - started);
  // Only its decoding of ids matters here, and any tokenizer can do that.
  const std::string tokenizer_folder =
      !options.model.empty()
          ? options.model
          : (testing::SourceRoot() / "deploy/models" / testing::kBundledModel).string();
  const std::unique_ptr<Tokenizer> tokenizer = OrDie(Tokenizer::Load(tokenizer_folder));

  const int most = *std::max_element(options.batches.begin(), options.batches.end());
  const KvLayout layout = OrDie(model->spec().MakeKvLayout(options.kv, 32));
  EngineConfig config;
  config.model_name = "bench";
  config.kv_element_type = options.kv;
  config.max_running = std::max(64, most);
  config.max_step_tokens = 512;
  config.prefill_chunk_tokens = 512;
  config.prefix_cache = false;
  config.stream_outbox_events = options.generate + 8;
  config.threads = threads;
  config.max_waiting_tokens = int64_t{1} << 40;
  config.kv_capacity_bytes = static_cast<int64_t>(layout.block_bytes()) * most *
                             (layout.BlocksFor(options.prompt + options.generate + 1) + 1);
  StepRecorder recorder;
  const std::unique_ptr<Engine> engine =
      OrDie(Engine::Create(config, model.get(), tokenizer.get(), &recorder));

  std::vector<BatchResult> results;
  for (int batch : options.batches) {
    Measure(engine.get(), &recorder, options, batch, 1);  // warm-up
    std::vector<BatchResult> runs;
    for (int r = 0; r < options.repeats; ++r) {
      runs.push_back(Measure(engine.get(), &recorder, options, batch, 2 + r));
    }
    results.push_back(MedianOf(runs));
  }

  const double bandwidth = options.probe ? ReadBandwidth() : 0;
  const double peak = options.probe ? ProductRate(options.weights) : 0;
  if (options.json) {
    nlohmann::ordered_json out;
    out["parameters"] = model->spec().num_parameters();
    out["weight_bytes"] = model->weight_bytes();
    out["threads"] = threads;
    out["load_seconds"] = load_seconds;
    out["prompt_tokens"] = options.prompt;
    out["read_bandwidth_bytes_per_second"] = bandwidth;
    out["large_product_flops"] = peak;
    for (const BatchResult& r : results) {
      nlohmann::ordered_json row;
      row["batch"] = r.batch;
      row["prefill_tokens_per_second"] = r.prefill_tokens_per_second;
      row["decode_tokens_per_second"] = r.decode_tokens_per_second;
      row["decode_spread"] = r.spread;
      row["decode_step_seconds"] = r.step_seconds;
      row["shares"] = {{"schedule", r.schedule_share},
                       {"model", r.model_share},
                       {"sample", r.sample_share},
                       {"output", r.output_share}};
      row["decode_read_bytes_per_second"] = r.read_bytes_per_second;
      row["prefill_flops"] = r.prefill_flops;
      out["results"].push_back(std::move(row));
    }
    std::cout << out.dump(2) << "\n";
    return 0;
  }
  std::printf("%.3f B parameters, %.2f GB of weights, %d threads, prompt %d, loaded in %.1f s\n",
              static_cast<double>(model->spec().num_parameters()) / 1e9,
              static_cast<double>(model->weight_bytes()) / 1e9, threads, options.prompt,
              load_seconds);
  if (options.probe) {
    std::printf("machine: reads %.1f GB/s; oneDNN large product %.0f GFLOP/s\n", bandwidth / 1e9,
                peak / 1e9);
  }
  std::printf("%5s %12s %8s %12s %8s %8s %8s | %8s %8s %8s %8s\n", "batch", "prefill t/s",
              "/oneDNN", "decode t/s", "spread", "GB/s", "/memory", "schedule", "model", "sample",
              "output");
  for (const BatchResult& r : results) {
    std::printf("%5d %12.1f %8.2f %12.1f %7.1f%% %8.1f %8.2f | %7.2f%% %7.2f%% %7.2f%% %7.2f%%\n",
                r.batch, r.prefill_tokens_per_second, peak > 0 ? r.prefill_flops / peak : 0,
                r.decode_tokens_per_second, 100 * r.spread, r.read_bytes_per_second / 1e9,
                bandwidth > 0 ? r.read_bytes_per_second / bandwidth : 0, 100 * r.schedule_share,
                100 * r.model_share, 100 * r.sample_share, 100 * r.output_share);
  }
  return 0;
}

}  // namespace
}  // namespace kvasir::bench

int main(int argc, char** argv) { return kvasir::bench::Main(argc, argv); }
