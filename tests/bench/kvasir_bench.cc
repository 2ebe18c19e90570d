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
  double tokens_per_second = 0;
  double step_seconds = 0;  // median
  double schedule_share = 0, model_share = 0, sample_share = 0, output_share = 0;
  double read_bytes_per_second = 0;  // weights and K/V
  double flops = 0;                  // products with weights
  double spread = 0;                 // (max - min) / median of tokens/s over repeats
};

std::vector<TokenId> RandomPrompt(int length, int vocab_size, uint64_t seed) {
  std::vector<TokenId> prompt(length);
  for (TokenId& token : prompt) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    token = static_cast<TokenId>((seed >> 33) % static_cast<uint64_t>(vocab_size));
  }
  return prompt;
}

// Runs `batch` requests of `max_tokens` to their ends and returns the steps that it took.
std::vector<StepSummary> Run(Engine* engine, StepRecorder* recorder, int prompt, int batch,
                             int max_tokens, uint64_t seed) {
  recorder->Take();
  std::vector<std::shared_ptr<TokenStream>> streams;
  for (int i = 0; i < batch; ++i) {
    GenerationRequest request;
    request.id = absl::StrCat("bench-", i);
    request.prompt = RandomPrompt(prompt, engine->model().spec().vocab_size, seed * 1000 + i);
    request.sampling.temperature = 0;
    request.stopping.max_tokens = max_tokens;
    request.stopping.ignore_eos = true;
    request.arrival = absl::Now();
    auto ticket = engine->Admit(prompt).value();
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
  return recorder->Take();
}

// While the later prompts are computed, the earlier sequences decode already: so many tokens more
// keep all of them running for the steps that are timed.
int TokensUntilAllDecode(int prompt, int batch, int max_step_tokens) {
  return batch * prompt / std::max(1, max_step_tokens - batch) + 2;
}

// Two tokens are generated, for the step that ends a request is reported only after the request's end.
double PrefillTokensPerSecond(Engine* engine, StepRecorder* recorder, int prompt, uint64_t seed) {
  double tokens = 0, seconds = 0;
  for (const StepSummary& step : Run(engine, recorder, prompt, 1, 2, seed)) {
    if (step.prefill_tokens == 0) continue;
    tokens += step.prefill_tokens;
    seconds += StepSeconds(step);
  }
  return tokens / seconds;
}

// Multiply-adds x 2 of the products with weights for one token: every parameter but the embedding
// table's is used once.
double FlopsPerToken(const ModelSpec& spec) {
  const double embedding = static_cast<double>(spec.vocab_size) * spec.hidden_size;
  return 2.0 *
         (static_cast<double>(spec.num_parameters()) - (spec.tied_embeddings ? 0 : embedding));
}

// Of these, those of the head, which a prompt needs for its last token only.
double HeadFlops(const ModelSpec& spec) {
  return 2.0 * static_cast<double>(spec.vocab_size) * spec.hidden_size;
}

BatchResult MeasureDecode(Engine* engine, StepRecorder* recorder, const Options& options, int batch,
                          uint64_t seed) {
  std::vector<double> seconds, schedule, model, sample, output, bytes;
  const double weight_bytes = static_cast<double>(engine->model().weight_bytes());
  const int max_tokens = options.generate + TokensUntilAllDecode(options.prompt, batch,
                                                                 engine->config().max_step_tokens);
  for (const StepSummary& step : Run(engine, recorder, options.prompt, batch, max_tokens, seed)) {
    if (step.prefill_tokens > 0 || step.decode_tokens != batch) continue;
    const double s = StepSeconds(step);
    seconds.push_back(s);
    schedule.push_back(absl::ToDoubleSeconds(step.schedule_time) / s);
    model.push_back(absl::ToDoubleSeconds(step.model_time) / s);
    sample.push_back(absl::ToDoubleSeconds(step.sample_time) / s);
    output.push_back(absl::ToDoubleSeconds(step.output_time) / s);
    bytes.push_back((weight_bytes + static_cast<double>(step.kv_bytes_read)) / s);
  }
  BatchResult result;
  result.batch = batch;
  result.step_seconds = Median(seconds);
  result.tokens_per_second = result.step_seconds > 0 ? batch / result.step_seconds : 0;
  result.schedule_share = Median(schedule);
  result.model_share = Median(model);
  result.sample_share = Median(sample);
  result.output_share = Median(output);
  result.read_bytes_per_second = Median(bytes);
  result.flops = result.tokens_per_second * FlopsPerToken(engine->model().spec());
  return result;
}

BatchResult MedianOf(const std::vector<BatchResult>& runs) {
  BatchResult result = runs.front();
  for (auto field :
       {&BatchResult::tokens_per_second, &BatchResult::step_seconds, &BatchResult::schedule_share,
        &BatchResult::model_share, &BatchResult::sample_share, &BatchResult::output_share,
        &BatchResult::read_bytes_per_second, &BatchResult::flops}) {
    std::vector<double> values;
    for (const BatchResult& run : runs) values.push_back(run.*field);
    result.*field = Median(std::move(values));
  }
  const auto [lowest, highest] =
      std::minmax_element(runs.begin(), runs.end(), [](const BatchResult& a, const BatchResult& b) {
        return a.tokens_per_second < b.tokens_per_second;
      });
  result.spread = (highest->tokens_per_second - lowest->tokens_per_second) /
                  std::max(1e-9, result.tokens_per_second);
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
  const int longest =
      options.prompt + options.generate + TokensUntilAllDecode(options.prompt, most, 512) + 1;
  config.stream_outbox_events = longest;
  config.threads = threads;
  config.max_waiting_tokens = int64_t{1} << 40;
  config.kv_capacity_bytes =
      static_cast<int64_t>(layout.block_bytes()) * most * (layout.BlocksFor(longest) + 1);
  StepRecorder recorder;
  const std::unique_ptr<Engine> engine =
      OrDie(Engine::Create(config, model.get(), tokenizer.get(), &recorder));

  Run(engine.get(), &recorder, options.prompt, 1, 4, 1);  // warm-up
  std::vector<double> prefill;
  for (int r = 0; r < options.repeats; ++r) {
    prefill.push_back(PrefillTokensPerSecond(engine.get(), &recorder, options.prompt, 2 + r));
  }
  const double prefill_rate = Median(prefill);
  const double prefill_flops =
      prefill_rate * (FlopsPerToken(model->spec()) -
                      HeadFlops(model->spec()) * (options.prompt - 1) / options.prompt);
  std::vector<BatchResult> results;
  for (int batch : options.batches) {
    std::vector<BatchResult> runs;
    for (int r = 0; r < options.repeats; ++r) {
      runs.push_back(MeasureDecode(engine.get(), &recorder, options, batch, 2 + r));
    }
    results.push_back(MedianOf(runs));
    if (options.probe) MeasureAgain(options.weights);
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
    out["prefill_tokens_per_second"] = prefill_rate;
    out["prefill_flops"] = prefill_flops;
    for (const BatchResult& r : results) {
      nlohmann::ordered_json row;
      row["batch"] = r.batch;
      row["decode_tokens_per_second"] = r.tokens_per_second;
      row["spread"] = r.spread;
      row["step_seconds"] = r.step_seconds;
      row["shares"] = {{"schedule", r.schedule_share},
                       {"model", r.model_share},
                       {"sample", r.sample_share},
                       {"output", r.output_share}};
      row["read_bytes_per_second"] = r.read_bytes_per_second;
      row["flops"] = r.flops;
      out["decode"].push_back(std::move(row));
    }
    std::cout << out.dump(2) << "\n";
    return 0;
  }
  const auto ratio = [](double value, double limit) { return limit > 0 ? value / limit : 0; };
  std::printf("%.3f B parameters, %.2f GB of weights, %d threads, loaded in %.1f s\n",
              static_cast<double>(model->spec().num_parameters()) / 1e9,
              static_cast<double>(model->weight_bytes()) / 1e9, threads, load_seconds);
  if (options.probe) {
    std::printf("machine: reads %.1f GB/s; oneDNN large product %.0f GFLOP/s\n", bandwidth / 1e9,
                peak / 1e9);
  }
  std::printf("prefill %d: %.1f tokens/s, %.0f GFLOP/s, %.2f of the large product\n",
              options.prompt, prefill_rate, prefill_flops / 1e9, ratio(prefill_flops, peak));
  std::printf("%6s %10s %7s %7s %8s %8s %9s | %8s %7s %7s %7s\n", "decode", "tokens/s", "spread",
              "GB/s", "/memory", "GFLOP/s", "/product", "schedule", "model", "sample", "output");
  for (const BatchResult& r : results) {
    std::printf("%6d %10.1f %6.1f%% %7.1f %8.2f %8.0f %9.2f | %7.2f%% %6.2f%% %6.2f%% %6.2f%%\n",
                r.batch, r.tokens_per_second, 100 * r.spread, r.read_bytes_per_second / 1e9,
                ratio(r.read_bytes_per_second, bandwidth), r.flops / 1e9, ratio(r.flops, peak),
                100 * r.schedule_share, 100 * r.model_share, 100 * r.sample_share,
                100 * r.output_share);
  }
  return 0;
}

}  // namespace
}  // namespace kvasir::bench

int main(int argc, char** argv) { return kvasir::bench::Main(argc, argv); }
