// What a grammar costs: the time of each mask and each commit, over random outputs of several
// grammars with a real vocabulary.
//
//   build/release/bin/kvasir-mask-bench ../shared/text/vocab/ggml-vocab-llama-bpe.gguf
//
// One line per grammar: tokens, masks' p50, p99 and largest time, commits' p50 and p99, and how
// long compiling took. Microseconds of the thread's own time, for compiling of the clock's.
#include <time.h>

#include <algorithm>
#include <cstdint>
#include <iostream>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/types/span.h"
#include "runtime/grammar/grammar_compiler.h"
#include "runtime/tokenizer/gguf_text.h"
#include "runtime/tokenizer/tokenizer.h"

namespace kvasir {
namespace {

constexpr int kOutputs = 40;
constexpr int kTokens = 100;  // of each

struct Case {
  const char* name;
  Constraint constraint;
};

std::vector<Case> Cases() {
  using Kind = Constraint::Kind;
  return {
      {"any JSON object", {.kind = Kind::kJsonSchema, .text = R"({"type":"object"})"}},
      {"tool call",
       {.kind = Kind::kJsonSchema,
        .text = R"({"type":"object","properties":{"query":{"type":"string"},"limit":{"type":)"
                R"("integer","minimum":1,"maximum":50},"tags":{"type":"array","items":{"type":)"
                R"("string","pattern":"^[a-z]{2,10}$"}}},"required":["query","limit","tags"],)"
                R"("additionalProperties":false})"}},
      {"text of 1000 characters",
       {.kind = Kind::kJsonSchema, .text = R"({"type":"string","minLength":1000})"}},
      {"regular expression", {.kind = Kind::kRegex, .text = R"((\w+ ){50,}[0-9]{3}\.)"}},
      {"structural tag",
       {.kind = Kind::kStructuralTag,
        .text = R"({"tags":[{"begin":"<tool_call>","schema":"","end":"</tool_call>"}],)"
                R"("at_once":false,"only_one":false})"}},
  };
}

// Of this thread on a core, so that a host's other work is not in the figures.
absl::Duration ThreadTime() {
  timespec spent{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &spent);
  return absl::DurationFromTimespec(spent);
}

double Microseconds(absl::Duration since) {
  return absl::ToDoubleMicroseconds(ThreadTime() - since);
}

double Quantile(std::vector<double>* times, double share) {
  std::sort(times->begin(), times->end());
  return (*times)[std::min(times->size() - 1, static_cast<size_t>(share * times->size()))];
}

void Measure(const Case& measured, int vocab_size, GrammarCompiler* compiler) {
  const absl::Time begin = absl::Now();  // compiling has a thread of its own
  const auto compiled = compiler->Compile(measured.constraint, absl::InfiniteFuture());
  const double compile_time = absl::ToDoubleMicroseconds(absl::Now() - begin);
  if (!compiled.ok()) {
    std::cout << measured.name << ": " << compiled.status() << "\n";
    return;
  }
  std::vector<double> masks, commits;
  std::vector<uint32_t> mask(MaskWords(vocab_size));
  for (int seed = 0; seed < kOutputs; ++seed) {
    std::mt19937_64 random(seed);
    const auto matcher = (*compiled)->Clone();
    for (int i = 0; i < kTokens && !matcher->IsComplete(); ++i) {
      const absl::Duration mask_begin = ThreadTime();
      if (!matcher->FillMask(absl::MakeSpan(mask)).ok()) break;
      masks.push_back(Microseconds(mask_begin));
      TokenId token = random() % vocab_size;
      while (((mask[token / 32] >> (token % 32)) & 1) == 0) token = (token + 1) % vocab_size;
      const absl::Duration commit_begin = ThreadTime();
      if (!matcher->Commit(token).ok()) break;
      commits.push_back(Microseconds(commit_begin));
    }
  }
  std::cout << absl::StrFormat(
                   "%-24s %5d tokens  mask p50 %6.1f  p99 %7.1f  max %8.1f  commit p50 %5.1f  p99 "
                   "%6.1f  compile %8.1f",
                   measured.name, masks.size(), Quantile(&masks, 0.5), Quantile(&masks, 0.99),
                   masks.back(), Quantile(&commits, 0.5), Quantile(&commits, 0.99), compile_time)
            << std::endl;
}

int Run(const std::string& path) {
  std::unique_ptr<Tokenizer> tokenizer;
  if (absl::EndsWith(path, ".gguf")) {
    auto text = LoadGgufText(path, "");
    if (text.ok()) tokenizer = std::move(text->tokenizer);
  } else if (auto loaded = Tokenizer::Load(path); loaded.ok()) {
    tokenizer = *std::move(loaded);
  }
  if (tokenizer == nullptr) {
    std::cerr << "no tokenizer in " << path << "\n";
    return 1;
  }
  std::vector<TokenId> ends;
  if (tokenizer->eos_token_id()) ends.push_back(*tokenizer->eos_token_id());
  GrammarCompiler compiler(tokenizer.get(), tokenizer->vocab_size(), ends, GrammarLimits());
  const absl::Time begin = absl::Now();
  (void)compiler.Compile({.kind = Constraint::Kind::kRegex, .text = "a"}, absl::InfiniteFuture());
  std::cout << tokenizer->vocab_size() << " tokens; made ready in "
            << absl::ToInt64Milliseconds(absl::Now() - begin) << " ms; microseconds:\n";
  for (const Case& each : Cases()) Measure(each, tokenizer->vocab_size(), &compiler);
  return 0;
}

}  // namespace
}  // namespace kvasir

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: kvasir-mask-bench TOKENIZER_FOLDER | VOCABULARY.gguf\n";
    return 2;
  }
  return kvasir::Run(argv[1]);
}
