#include "tests/bench/engine_under_test.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/parallel.h"
#include "runtime/model/hf_config.h"
#include "runtime/tokenizer/gguf_text.h"
#include "tests/bench/grpc_door.h"
#include "tests/bench/http_door.h"
#include "tests/engine/wait_pop.h"
#include "tests/test_models.h"

namespace kvasir::bench {
namespace {

constexpr char kName[] = "bench";

double Median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

double StepSeconds(const StepSummary& step) {
  return absl::ToDoubleSeconds(step.schedule_time + step.model_time + step.sample_time +
                               step.output_time);
}

std::vector<TokenId> RandomPrompt(int length, int vocab_size, uint64_t seed) {
  std::vector<TokenId> prompt(length);
  for (TokenId& token : prompt) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    token = static_cast<TokenId>((seed >> 33) % static_cast<uint64_t>(vocab_size));
  }
  return prompt;
}

std::unique_ptr<Model> LoadModel(const EngineOptions& options, const WeightChoice& weights) {
  Model::Options load;
  load.compute_type = weights.compute_type;
  load.quantize_to = weights.quantize_to;
  if (!options.model.empty()) return OrDie(Model::Load(options.model, load));
  std::ifstream file(options.shape);
  std::stringstream text;
  text << file.rdbuf();
  if (!file) Die("cannot read " + options.shape);
  return OrDie(Model::Random(OrDie(ParseHfConfig(text.str(), "")), load, /*seed=*/1));
}

// Only its decoding of ids matters here, and any tokenizer can do that.
std::unique_ptr<Tokenizer> LoadTokenizer(const EngineOptions& options) {
  if (absl::EndsWith(options.model, ".gguf"))
    return std::move(OrDie(LoadGgufText(options.model, "")).tokenizer);
  if (!options.model.empty()) return OrDie(Tokenizer::Load(options.model));
  return OrDie(
      Tokenizer::Load((testing::SourceRoot() / "deploy/models" / testing::kBundledModel).string()));
}

std::vector<TokenId> ReadTokens(const std::string& path, const Tokenizer& tokenizer) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  if (!file) Die("cannot read " + path);
  return OrDie(tokenizer.Encode(text.str(), {}));
}

// While the later prompts are computed, the earlier sequences decode already: so many tokens more
// keep all of them running for the steps that are timed.
int TokensUntilAllDecode(int prompt, int streams, int max_step_tokens) {
  return streams * prompt / std::max(1, max_step_tokens - streams) + 2;
}

}  // namespace

void Die(const std::string& message) {
  std::fprintf(stderr, "kvasir-bench: %s\n", message.c_str());
  std::exit(2);
}

void StepRecorder::OnStep(const StepSummary& step) {
  absl::MutexLock lock(&mutex_);
  steps_.push_back({step, absl::Now()});
}

std::vector<StepRecorder::Step> StepRecorder::Take() {
  absl::MutexLock lock(&mutex_);
  return std::exchange(steps_, {});
}

EngineUnderTest::EngineUnderTest(const EngineOptions& options, const WeightChoice& weights)
    : options_(options), prefill_seed_(1'000'000) {
  auto served = std::make_unique<ServedModel>();
  served->name = kName;
  const absl::Time started = absl::Now();
  RunWithOwnTeam([&] { served->model = LoadModel(options, weights); });
  load_seconds_ = absl::ToDoubleSeconds(absl::Now() - started);
  if (!options.draft_model.empty()) {
    Model::Options load;
    load.compute_type = weights.compute_type;
    RunWithOwnTeam([&] { served->draft_model = OrDie(Model::Load(options.draft_model, load)); });
  }
  served->tokenizer = LoadTokenizer(options);
  if (!options.text.empty()) text_ = ReadTokens(options.text, *served->tokenizer);
  served->grammars =
      std::make_unique<GrammarCompiler>(served->tokenizer.get(), served->model->spec().vocab_size,
                                        served->model->spec().eos_token_ids, GrammarLimits());
  auto recorder = std::make_unique<StepRecorder>();
  recorder_ = recorder.get();
  served->observer = std::move(recorder);

  EngineConfig config;
  config.model_name = kName;
  config.kv_element_type = options.kv;
  config.max_running = std::max(64, options.most_streams);
  config.max_step_tokens = 512;
  config.prefill_chunk_tokens = 512;
  config.threads = options.threads;
  config.max_waiting_tokens = int64_t{1} << 40;
  const int longest_prompt = *std::max_element(options.prompts.begin(), options.prompts.end());
  const int longest =
      std::max(longest_prompt, options.context) + options.generate +
      TokensUntilAllDecode(options.context, options.most_streams, config.max_step_tokens) + 2;
  config.stream_outbox_events = longest;
  const KvLayout layout =
      OrDie(served->model->spec().MakeKvLayout(options.kv, config.block_tokens));
  // Live sequences, their prompts cached, and the prompt whose prefill is timed.
  config.kv_capacity_bytes = static_cast<int64_t>(layout.block_bytes()) *
                             (2 * options.most_streams + 4) * (layout.BlocksFor(longest) + 1);
  served->engine =
      OrDie(Engine::Create(config, served->model.get(), served->tokenizer.get(),
                           served->observer.get(), Clock::Real(), served->draft_model.get()));
  served->speculation.defaults = options.speculation;
  served->speculation.draft_model = options.draft_model;
  served_ = served.get();
  if (const absl::Status added = models_.Add(std::move(served)); !added.ok()) {
    Die(std::string(added.message()));
  }
  RunInProcess({RandomPrompt(longest_prompt, model().spec().vocab_size, ++prefill_seed_)},
               /*max_tokens=*/4, SpeculationMode::kOff);
}

EngineUnderTest::~EngineUnderTest() = default;

double EngineUnderTest::PrefillTokensPerSecond(int tokens) {
  double computed = 0, seconds = 0;
  // Two tokens are generated, for the step that ends a request is reported only after its end.
  const auto prompt = RandomPrompt(tokens, model().spec().vocab_size, ++prefill_seed_);
  for (const auto& [step, end] : RunInProcess({prompt}, 2, SpeculationMode::kOff)) {
    if (step.prefill_tokens == 0) continue;
    computed += step.prefill_tokens;
    seconds += StepSeconds(step);
  }
  return computed / seconds;
}

std::vector<TokenId> EngineUnderTest::DecodePrompt(int stream) const {
  constexpr uint64_t kSeed = 1;
  if (text_.empty())
    return RandomPrompt(options_.context, model().spec().vocab_size, kSeed + stream);
  // Each stream begins elsewhere in the text, which goes round.
  std::vector<TokenId> prompt;
  for (int i = 0; i < options_.context; ++i)
    prompt.push_back(text_[(static_cast<size_t>(stream) * options_.context + i) % text_.size()]);
  return prompt;
}

std::vector<StepRecorder::Step> EngineUnderTest::RunInProcess(
    absl::Span<const std::vector<TokenId>> prompts, int max_tokens, SpeculationMode mode) {
  Engine* const engine = served_->engine.get();
  recorder_->Take();
  std::vector<std::shared_ptr<TokenStream>> open;
  for (const std::vector<TokenId>& prompt : prompts) {
    GenerationRequest request;
    request.id = absl::StrCat("bench-", open.size());
    request.prompt = prompt;
    request.sampling.temperature = options_.temperature;
    request.sampling.seed = open.size();
    request.speculation = options_.speculation;
    request.speculation.mode = mode;
    request.stopping.max_tokens = max_tokens;
    request.stopping.ignore_eos = true;
    request.arrival = absl::Now();
    open.push_back(OrDie(
        engine->Submit(OrDie(engine->Admit({.prompt_tokens = static_cast<int64_t>(prompt.size())})),
                       std::move(request))));
  }
  for (const auto& stream : open) {
    while (true) {
      const StreamEvent event = WaitPop(stream.get());
      const auto* finished = std::get_if<FinishedEvent>(&event);
      if (finished == nullptr) continue;
      if (!finished->status.ok()) Die(std::string(finished->status.message()));
      break;
    }
  }
  return recorder_->Take();
}

DecodeRun EngineUnderTest::Decode(int streams, Door door, SpeculationMode mode) {
  const int max_tokens =
      options_.generate +
      TokensUntilAllDecode(options_.context, streams, served_->engine->config().max_step_tokens);
  std::vector<StepRecorder::Step> steps;
  if (door != Door::kNone) {
    if (door == Door::kGrpc && grpc_ == nullptr) grpc_ = std::make_unique<GrpcDoor>(&models_);
    if (door == Door::kHttp && http_ == nullptr) http_ = std::make_unique<HttpDoor>(&models_);
    std::vector<v1::GenerateRequest> requests(static_cast<size_t>(streams));
    for (int i = 0; i < streams; ++i) {
      v1::GenerateRequest& request = requests[static_cast<size_t>(i)];
      for (TokenId token : DecodePrompt(i)) request.mutable_token_ids()->add_ids(token);
      request.mutable_sampling()->set_temperature(options_.temperature);
      request.mutable_sampling()->set_seed(i);
      request.mutable_stopping()->set_max_tokens(max_tokens);
      request.mutable_stopping()->set_ignore_eos(true);
    }
    recorder_->Take();
    door == Door::kGrpc ? grpc_->Run(requests) : http_->Run(requests);
    steps = recorder_->Take();
  } else {
    std::vector<std::vector<TokenId>> prompts;
    for (int i = 0; i < streams; ++i) prompts.push_back(DecodePrompt(i));
    steps = RunInProcess(prompts, max_tokens, mode);
  }

  std::vector<double> seconds, schedule, model_time, sample, output;
  double bytes_read = 0;
  double tokens = 0, drafted = 0, accepted = 0;  // of all steps but the first
  absl::Time first, last;
  for (const auto& [step, end] : steps) {
    if (step.prefill_tokens > 0 || step.decode_tokens != streams) continue;
    if (seconds.empty()) {
      first = end;
    } else {
      tokens += streams + step.accepted_tokens;
      drafted += step.draft_tokens;
      accepted += step.accepted_tokens;
    }
    last = end;
    const double s = StepSeconds(step);
    seconds.push_back(s);
    schedule.push_back(absl::ToDoubleSeconds(step.schedule_time) / s);
    model_time.push_back(absl::ToDoubleSeconds(step.model_time) / s);
    sample.push_back(absl::ToDoubleSeconds(step.sample_time) / s);
    output.push_back(absl::ToDoubleSeconds(step.output_time) / s);
    bytes_read += static_cast<double>(step.weight_bytes_read + step.kv_bytes_read);
  }
  if (seconds.size() < 2) Die("too few decode steps were seen; raise --generate");
  const double intervals = static_cast<double>(seconds.size() - 1);
  const double elapsed = absl::ToDoubleSeconds(last - first);
  DecodeRun run;
  run.tokens_per_second = tokens / elapsed;
  run.drafted_per_step = drafted / intervals;
  run.accepted_per_step = accepted / intervals;
  run.read_bytes_per_second =
      bytes_read / static_cast<double>(seconds.size()) * intervals / elapsed;
  run.step_seconds = Median(std::move(seconds));
  run.schedule_share = Median(std::move(schedule));
  run.model_share = Median(std::move(model_time));
  run.sample_share = Median(std::move(sample));
  run.output_share = Median(std::move(output));
  return run;
}

double EngineUnderTest::DecodeOperationsPerToken() const {
  const ModelSpec& spec = model().spec();
  // Every parameter is used once, but for the embedding table's and those of experts not chosen.
  double parameters = static_cast<double>(spec.num_parameters());
  if (!spec.head.tied) parameters -= static_cast<double>(spec.vocab_size) * spec.hidden_size;
  for (const LayerSpec& layer : spec.layers) {
    if (!layer.feed_forward.moe) continue;
    parameters -= 3.0 * (layer.feed_forward.moe->experts - layer.feed_forward.moe->chosen) *
                  layer.feed_forward.moe->width * spec.hidden_size;
  }
  return 2.0 * parameters;
}

double EngineUnderTest::PrefillOperationsPerToken(int tokens) const {
  const ModelSpec& spec = model().spec();
  const double head = 2.0 * static_cast<double>(spec.vocab_size) * spec.hidden_size;
  return DecodeOperationsPerToken() - head * (tokens - 1) / tokens;
}

}  // namespace kvasir::bench
