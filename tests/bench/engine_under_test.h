// An engine over a model folder or random weights of a shape, and what kvasir-bench measures of it:
// prefill alone, decoding of many streams in-process, and the same streams through gRPC and HTTP.
//
// For the bench's main thread only. Faults end the program with a message: there is nobody to hand
// them to.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "runtime/engine/engine.h"
#include "server/frontend/model_registry.h"

namespace kvasir::bench {

[[noreturn]] void Die(const std::string& message);

template <typename T>
T OrDie(absl::StatusOr<T> value) {
  if (!value.ok()) Die(std::string(value.status().message()));
  return *std::move(value);
}

// What weights are computed in, and what plain ones become before.
struct WeightChoice {
  ComputeType compute_type = ComputeType::kBf16;
  std::optional<WeightFormat> quantize_to;
};

struct EngineOptions {
  std::string model;  // a folder, or
  std::string shape;  // a config.json whose shape gets random weights
  KvElementType kv = KvElementType::kBf16;
  std::vector<int> prompts = {512};  // tokens of the prompts whose prefill is timed
  int context = 128;                 // tokens in each sequence before its decoding is timed
  int generate = 32;                 // decode steps that are timed
  int most_streams = 32;
  int threads = 1;
  SpeculationParams speculation;
  std::string draft_model;  // for SpeculationMode::kDraft: a folder
  std::string text;         // a file whose tokens are the prompts whose decoding is timed
  float temperature = 0;
};

// One measurement of decoding: the steps in which all sequences decode.
struct DecodeRun {
  double tokens_per_second = 0;  // by the clock, from the first such step's end to the last one's
  double step_seconds = 0;       // median of the steps' own times; what is left is between steps
  double schedule_share = 0, model_share = 0, sample_share = 0, output_share = 0;
  double read_bytes_per_second = 0;  // weights and K/V
  double drafted_per_step = 0, accepted_per_step = 0;
};

// Steps with the moments of their ends. Filled by the engine thread.
class StepRecorder : public EngineObserver {
 public:
  struct Step {
    StepSummary summary;
    absl::Time end;
  };
  void OnStep(const StepSummary& step) override;
  std::vector<Step> Take();

 private:
  absl::Mutex mutex_;
  std::vector<Step> steps_ ABSL_GUARDED_BY(mutex_);
};

class GrpcDoor;
class HttpDoor;

// How streams reach the engine.
enum class Door { kNone, kGrpc, kHttp };

class EngineUnderTest {
 public:
  // Loads, and warms up.
  EngineUnderTest(const EngineOptions& options, const WeightChoice& weights);
  ~EngineUnderTest();

  // Tokens per second over the steps of one prompt of `tokens` that no cache knows.
  double PrefillTokensPerSecond(int tokens);

  // `streams` requests at once, read in-process or through a door by a thread each. The prompts are
  // the same every time, so that only the first run computes them: the prefix cache has them later.
  // `mode` holds in-process; through a door it is options.speculation's.
  DecodeRun Decode(int streams, Door door, SpeculationMode mode);

  const Model& model() const { return *served_->model; }
  double load_seconds() const { return load_seconds_; }

  // Operations (2 per multiply-add) of the products with weights for one decoded token, and for one
  // token of a prompt of `tokens`, whose head is needed once.
  double DecodeOperationsPerToken() const;
  double PrefillOperationsPerToken(int tokens) const;

 private:
  std::vector<StepRecorder::Step> RunInProcess(absl::Span<const std::vector<TokenId>> prompts,
                                               int max_tokens, SpeculationMode mode);
  // Random tokens; with options.text, of its tokens.
  std::vector<TokenId> DecodePrompt(int stream) const;

  const EngineOptions options_;
  std::vector<TokenId> text_;
  double load_seconds_ = 0;
  uint64_t prefill_seed_;
  StepRecorder* recorder_ = nullptr;  // owned by served_
  ModelRegistry models_;
  ServedModel* served_ = nullptr;  // in models_
  // Made when first asked for.
  std::unique_ptr<GrpcDoor> grpc_;
  std::unique_ptr<HttpDoor> http_;
};

}  // namespace kvasir::bench
