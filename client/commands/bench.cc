// kvasir bench: many users at once against a running daemon.
#include <algorithm>
#include <iostream>

#include "absl/strings/str_cat.h"
#include "client/commands/command.h"
#include "client/interrupt_watcher.h"
#include "client/json_output.h"
#include "client/load_generator.h"
#include "client/progress_bar.h"

namespace kvasir {
namespace {

// An open loop is to send on time: it gets as many readers as it may need, up to this.
constexpr int32_t kOpenLoopStreams = 1024;

struct BenchFlags {
  std::string model;
  std::optional<int32_t> requests, streams, prompt_tokens, shared_prefix_tokens, max_tokens;
  std::optional<int32_t> cancel_after_tokens;
  std::optional<double> rate, read_delay;
  std::optional<uint64_t> seed;
  std::optional<bool> progress;
};

void Register(FlagSet& set, BenchFlags* f) {
  set.Add("model", "M", "model to ask; may be absent when the daemon serves one", &f->model);
  set.Add("requests", "N", "requests to send (default 64)", &f->requests);
  set.Add("streams", "N", "most requests under way at once (default 8; with --rate 1024)",
          &f->streams);
  set.Add("rate", "R", "open loop: R requests per second arrive at random (Poisson) times",
          &f->rate);
  set.Add("prompt_tokens", "N", "random prompt tokens per request (default 128)",
          &f->prompt_tokens);
  set.Add("shared_prefix_tokens", "N", "of these, so many are the same in all (default 0)",
          &f->shared_prefix_tokens);
  set.Add("max_tokens", "N", "tokens that each request generates (default 64)", &f->max_tokens);
  set.Add("seed", "N", "same seed, same prompts and arrivals (default 1)", &f->seed);
  set.Add("cancel_after_tokens", "N", "misbehave: cancel each stream after N tokens",
          &f->cancel_after_tokens);
  set.Add("read_delay", "SECONDS", "misbehave: wait so long before reading each further message",
          &f->read_delay);
  set.Add("progress", "=false hides the progress bar on standard error", &f->progress);
}

LoadOptions ToOptions(const BenchFlags& f) {
  LoadOptions options;
  options.requests = f.requests.value_or(options.requests);
  options.arrivals_per_second = f.rate.value_or(0);
  options.streams = f.streams.value_or(f.rate.has_value() ? kOpenLoopStreams : options.streams);
  options.prompt_tokens = f.prompt_tokens.value_or(options.prompt_tokens);
  options.shared_prefix_tokens = f.shared_prefix_tokens.value_or(0);
  options.max_tokens = f.max_tokens.value_or(options.max_tokens);
  options.seed = f.seed.value_or(options.seed);
  options.cancel_after_tokens = f.cancel_after_tokens.value_or(0);
  options.read_delay = absl::Seconds(f.read_delay.value_or(0));
  return options;
}

nlohmann::ordered_json ToJson(const LoadOptions& options) {
  return {{"model", options.model},
          {"requests", options.requests},
          {"streams", options.streams},
          {"rate", options.arrivals_per_second},
          {"prompt_tokens", options.prompt_tokens},
          {"shared_prefix_tokens", options.shared_prefix_tokens},
          {"max_tokens", options.max_tokens},
          {"seed", options.seed},
          {"cancel_after_tokens", options.cancel_after_tokens},
          {"read_delay_seconds", absl::ToDoubleSeconds(options.read_delay)}};
}

}  // namespace

int RunBench(const Arguments& arguments) {
  CommandLine line("bench", "[flags]",
                   "Sends many requests with random prompts at once and reports what their readers "
                   "see: percentiles of the\n"
                   "time to the first token, of the gaps between messages and of whole requests, "
                   "tokens per second, the share\n"
                   "of prompt tokens that came from the cache, and errors by code. Without --rate "
                   "each of --streams readers\n"
                   "sends its next request when the one before has ended. --timeout is per "
                   "request. Exit code 1 when\n"
                   "requests failed.");
  BenchFlags flags;
  Register(line.flags(), &flags);
  if (const auto exit_code = line.Parse(arguments)) return *exit_code;
  if (!line.positional().empty()) return line.UsageError("takes no arguments");
  if (flags.rate.has_value() && !(*flags.rate > 0)) {
    return line.UsageError(absl::StrCat("--rate is ", *flags.rate,
                                        " but must be above 0; leave it out for a closed loop"));
  }
  LoadOptions options = ToOptions(flags);

  InterruptWatcher interrupts;
  Canceller canceller;
  const auto client = line.MakeClient();
  CallOptions call = line.MakeCallOptions();
  const auto model = client->GetModel(flags.model, call);
  if (!model.ok()) return line.Fail(model.status());
  options.model = model->name();
  options.vocab_size = model->vocab_size();
  options.excluded_token_ids = {model->eos_token_ids().begin(), model->eos_token_ids().end()};

  call.canceller = &canceller;
  interrupts.SetAction([&canceller] { canceller.Cancel(); });
  absl::StatusOr<LatencyReport> report;
  {
    ProgressBar bar("bench", options.requests, flags.progress.value_or(true));
    LoadHooks hooks;
    hooks.on_progress = [&bar](int64_t ended) { bar.Set(ended, ""); };
    hooks.stopped = [&canceller] { return canceller.cancelled(); };
    report = RunLoad(
        options,
        [&](const v1::GenerateRequest& request, const GenerationClient::OnDelta& on_delta) {
          return client->Generate(request, call, on_delta);
        },
        hooks);
  }
  interrupts.SetAction(nullptr);
  if (!report.ok()) return line.UsageError(std::string(report.status().message()));

  if (line.json()) {
    nlohmann::ordered_json json = {{"load", ToJson(options)}};
    json.update(ToJson(*report));
    std::cout << DumpJson(json) << std::endl;
  } else {
    std::cout << ToText(*report) << std::flush;
  }
  if (canceller.cancelled()) return kExitInterrupted;
  return report->errors_by_code.empty() ? kExitOk : kExitFailed;
}

}  // namespace kvasir
