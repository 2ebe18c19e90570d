// kvasir convert: a checkpoint with fewer K/V heads, fewer K/V layers, or smaller weights. The work
// is done by kvasir-convert, a program of its own: this one speaks to servers and links no model.
#include <signal.h>

#include <iostream>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/byte_text.h"
#include "client/child_process.h"
#include "client/commands/command.h"
#include "client/interrupt_watcher.h"
#include "client/json_output.h"
#include "client/local_server.h"
#include "client/progress_bar.h"
#include "client/text_scorer.h"

namespace kvasir {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kDescription[] =
    "Makes another checkpoint of the one in SOURCE, a Hugging Face folder, and writes it to "
    "OUTPUT: a folder, or a\n"
    "file NAME.gguf. K/V heads and K/V layers become fewer by the recipes of the GQA, CLA and MLKV "
    "papers; the result\n"
    "is meant to be trained on, and says less well what the source said. docs/convert.md has the "
    "recipes. OUTPUT\n"
    "appears whole or not at all.";

struct ConvertFlags {
  std::optional<int32_t> kv_heads, cla, mlkv, window, max_tokens;
  std::optional<std::string> heads, layers, weights, score, compute_type;
  std::optional<uint64_t> seed, shard_bytes;
  std::optional<bool> progress;
  bool force = false;
};

void Register(FlagSet& flags, ConvertFlags* to) {
  flags.Add("kv_heads", "G", "K/V heads per layer: fewer than now, a divisor of them (1 = MQA)",
            &to->kv_heads);
  flags.Add("heads", "HOW", "heads of a group become their mean (default), first, or random values",
            &to->heads);
  flags.Add("cla", "C", "C layers share the K/V of the first of them", &to->cla);
  flags.Add("mlkv", "M", "M layers have K/V, the others share theirs", &to->mlkv);
  flags.Add("layers", "HOW",
            "layers that share become the first (default with --cla), their mean (default with "
            "--mlkv), or the running_mean of MLKV's published code",
            &to->layers);
  flags.Add("seed", "N", "of --heads random (default 0)", &to->seed);
  flags.Add("weights", "TYPE",
            "bf16, f16 or f32; in a folder also int8 or int4, in a GGUF file q8_0, q4_0 or q4_k "
            "(default: as stored)",
            &to->weights);
  flags.Add("shard_bytes", "N", "most bytes in one safetensors file (default 5000000000)",
            &to->shard_bytes);
  flags.Add("force", "replace a model that is at OUTPUT", &to->force);
  flags.Add("score", "FILE",
            "score this text (as kvasir score does) before and after, with a kvasird of its own",
            &to->score);
  flags.Add("window", "W", "of --score: tokens per window (default 512)", &to->window);
  flags.Add("max_tokens", "N", "of --score: stop after N tokens (default: the whole text)",
            &to->max_tokens);
  flags.Add("compute_type", "TYPE", "of --score: f32 (default), bf16 or int8", &to->compute_type);
  flags.Add("progress", "=false hides the progress bar on standard error", &to->progress);
}

std::string RequestOf(const ConvertFlags& flags, const std::string& source,
                      const std::string& output) {
  Json request = {{"source", source}, {"output", output}, {"force", flags.force}};
  const auto add = [&](const char* key, const auto& value) {
    if (value.has_value()) request[key] = *value;
  };
  add("kv_heads", flags.kv_heads);
  add("heads", flags.heads);
  add("cla", flags.cla);
  add("mlkv", flags.mlkv);
  add("layers", flags.layers);
  add("seed", flags.seed);
  add("weights", flags.weights);
  add("shard_bytes", flags.shard_bytes);
  return DumpJson(request);
}

// kvasir-convert's report.
absl::StatusOr<Json> RunConversion(const std::string& request, bool show_progress,
                                   InterruptWatcher* interrupts) {
  absl::StatusOr<ChildProcess> process =
      ChildProcess::Start("kvasir-convert", {request}, ChildProcess::Errors::kInherited);
  if (!process.ok()) return process.status();
  interrupts->SetAction([&] { process->Signal(SIGTERM); });
  absl::StatusOr<Json> report = absl::InternalError("kvasir-convert ended without a report");
  {
    std::optional<ProgressBar> bar;
    while (const std::optional<std::string> line = process->ReadLine()) {
      const Json message = Json::parse(*line, nullptr, /*allow_exceptions=*/false);
      if (!message.is_object()) continue;
      if (message.contains("report")) {
        report = message["report"];
      } else if (message.contains("error")) {
        report = absl::Status(
            static_cast<absl::StatusCode>(message["error"].value("code", 2)),
            message["error"].value("message", std::string("kvasir-convert gave no reason")));
      } else if (message.contains("done")) {
        const auto total = message.value("total", int64_t{0});
        if (!bar) bar.emplace("convert", total, show_progress);
        bar->Set(message.value("done", int64_t{0}), ByteText(static_cast<double>(total)));
      }
    }
  }
  const int exit_code = process->Wait();
  interrupts->SetAction(nullptr);
  if (report.ok() && exit_code != 0) {
    return absl::InternalError(absl::StrCat("kvasir-convert ended with exit code ", exit_code));
  }
  return report;
}

absl::StatusOr<ScoreResult> ScoreModel(const std::string& model, const std::string& text,
                                       const ConvertFlags& flags, const std::string& title) {
  const auto server = LocalServer::Start(model, flags.compute_type.value_or("f32"));
  if (!server.ok()) return server.status();
  GenerationClient::Options options;
  options.target = (*server)->address();
  GenerationClient client(options);
  ScoreOptions score;
  score.window_tokens = flags.window.value_or(score.window_tokens);
  score.max_tokens = flags.max_tokens.value_or(0);
  const auto result =
      ScoreText(&client, CallOptions(), text, score, title, flags.progress.value_or(true));
  if (!result.ok()) return result.status();
  return result->result;
}

Json ToJson(const ScoreResult& score) {
  return {{"tokens", score.tokens}, {"nll_mean", score.nll_mean}, {"perplexity", score.perplexity}};
}

// Before and after. Whatever fails here, the result stays where it is.
absl::StatusOr<Json> ScoreBoth(const std::string& source, const std::string& output,
                               const std::string& text, const ConvertFlags& flags) {
  const auto before = ScoreModel(source, text, flags, "score before");
  if (!before.ok()) return before.status();
  const auto after = ScoreModel(output, text, flags, "score after");
  if (!after.ok()) return after.status();
  return Json{{"file", *flags.score},
              {"window", flags.window.value_or(ScoreOptions().window_tokens)},
              {"compute_type", flags.compute_type.value_or("f32")},
              {"before", ToJson(*before)},
              {"after", ToJson(*after)}};
}

std::string ReportText(const Json& report) {
  const auto number = [&](const char* side, const char* key) {
    return report[side].value(key, int64_t{0});
  };
  std::string text = absl::StrFormat("%s: %d tensors in %d file(s), %.1f s\n",
                                     report.value("output", ""), report.value("tensors", 0),
                                     report.value("files", 0), report.value("seconds", 0.0));
  const auto row = [&](absl::string_view name, const std::string& before,
                       const std::string& after) {
    absl::StrAppendFormat(&text, "  %-28s %14s  ->  %s\n", name, before, after);
  };
  const auto heads = [&](const char* side) {
    return absl::StrCat(number(side, "kv_heads"), " x ", number(side, "kv_layers"));
  };
  const auto bytes = [&](const char* side, const char* key) {
    return ByteText(static_cast<double>(number(side, key)));
  };
  row("sharing", report["source"].value("sharing", ""), report["result"].value("sharing", ""));
  row("K/V heads x layers", heads("source"), heads("result"));
  row("weights", bytes("source", "weight_bytes"), bytes("result", "weight_bytes"));
  row("KV per token, resident", bytes("source", "kv_bytes_per_token_resident"),
      bytes("result", "kv_bytes_per_token_resident"));
  row("KV per token, read per step", bytes("source", "kv_bytes_per_token_read"),
      bytes("result", "kv_bytes_per_token_read"));
  if (report.contains("score")) {
    const auto nll = [&](const char* side) {
      return absl::StrFormat("%.4f", report["score"][side].value("nll_mean", 0.0));
    };
    row("negative log-likelihood", nll("before"), nll("after"));
  }
  return text;
}

}  // namespace

int RunConvert(const Arguments& arguments) {
  CommandLine line("convert", "[flags] SOURCE OUTPUT", kDescription,
                   CommandLine::Reach::kThisMachine);
  ConvertFlags flags;
  Register(line.flags(), &flags);
  if (const auto exit_code = line.Parse(arguments)) return *exit_code;
  if (line.positional().size() != 2) return line.UsageError("takes a SOURCE and an OUTPUT");
  if (flags.window.value_or(1) < 1) return line.UsageError("--window must be at least 1");
  const std::string& source = line.positional()[0];
  const std::string& output = line.positional()[1];
  std::string text;
  if (flags.score.has_value()) {
    absl::StatusOr<std::string> read = ReadTextFile(*flags.score);
    if (!read.ok()) return line.Fail(read.status());
    text = *std::move(read);
  }

  InterruptWatcher interrupts;
  const absl::Time start = absl::Now();
  absl::StatusOr<Json> report =
      RunConversion(RequestOf(flags, source, output), flags.progress.value_or(true), &interrupts);
  if (!report.ok()) {
    const int exit_code = line.Fail(report.status());
    return absl::IsCancelled(report.status()) ? kExitInterrupted : exit_code;
  }
  (*report)["output"] = output;
  (*report)["seconds"] = absl::ToDoubleSeconds(absl::Now() - start);
  if (flags.score.has_value()) {
    const absl::StatusOr<Json> score = ScoreBoth(source, output, text, flags);
    if (!score.ok()) {
      return line.Fail(absl::Status(
          score.status().code(),
          absl::StrCat(output, " is written, but was not scored: ", score.status().message())));
    }
    (*report)["score"] = *score;
  }
  if (line.json()) {
    std::cout << DumpJson(*report) << std::endl;
  } else {
    std::cout << ReportText(*report) << std::flush;
  }
  return kExitOk;
}

}  // namespace kvasir
