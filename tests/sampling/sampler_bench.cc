// Microseconds per row of the sampler and of log-probabilities, vocabulary 128k, one thread.
//
//   sampler_bench [vocab] [repeats]
//
// Rows: "peaked" looks like a model's (bulk of standard deviation 2.5 and a few dozen likely
// tokens); "normal" has no peak; "flat" differs only by noise, so that top_p keeps most of the
// vocabulary: the worst case for every cut.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <vector>

#include "runtime/sampling/sampler.h"

namespace kvasir {
namespace {

struct Case {
  const char* row;
  const char* name;
  const std::vector<float>* logits;
  SamplingParams params;
};

void Report(const char* row, const char* name, int repeats, const std::function<void()>& run) {
  std::vector<double> microseconds;
  for (int i = 0; i < repeats + 3; ++i) {
    const auto start = std::chrono::steady_clock::now();
    run();
    const std::chrono::duration<double, std::micro> taken =
        std::chrono::steady_clock::now() - start;
    if (i >= 3) microseconds.push_back(taken.count());  // the first ones touch new memory
  }
  std::sort(microseconds.begin(), microseconds.end());
  std::printf("%-8s %-34s median %8.1f us  min %8.1f  p90 %8.1f\n", row, name,
              microseconds[repeats / 2], microseconds[0], microseconds[repeats * 9 / 10]);
}

int Main(int argc, char** argv) {
  const int vocab = argc > 1 ? std::max(1, std::atoi(argv[1])) : 128256;
  const int repeats = argc > 2 ? std::max(1, std::atoi(argv[2])) : 200;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> peaked(vocab), bulk(vocab), flat(vocab);
  for (int i = 0; i < vocab; ++i) {
    peaked[i] = 2.5f * normal(random);
    bulk[i] = 2.5f * normal(random);
    flat[i] = 0.01f * normal(random);
  }
  for (int i = 0; i < 40; ++i) peaked[random() % vocab] = 20.0f - 0.4f * i;

  const auto params = [](float temperature, float top_p, int top_k, float min_p) {
    SamplingParams result;
    result.temperature = temperature;
    result.top_p = top_p;
    result.top_k = top_k;
    result.min_p = min_p;
    return result;
  };
  Sampler sampler(vocab);
  const std::pair<const char*, const std::vector<float>*> rows[] = {
      {"peaked", &peaked}, {"normal", &bulk}, {"flat", &flat}};
  for (const auto& [row, logits] : rows) {
    const Case cases[] = {
        {row, "greedy", logits, params(0, 1, 0, 0)},
        {row, "temperature 0.7", logits, params(0.7f, 1, 0, 0)},
        {row, "temperature 0.7 top_p 0.9", logits, params(0.7f, 0.9f, 0, 0)},
        {row, "temperature 0.7 top_k 50", logits, params(0.7f, 1, 50, 0)},
        {row, "temperature 0.7 top_k 50 top_p 0.9", logits, params(0.7f, 0.9f, 50, 0)},
        {row, "temperature 0.7 top_k 5000", logits, params(0.7f, 1, 5000, 0)},
        {row, "temperature 0.7 min_p 0.05", logits, params(0.7f, 1, 0, 0.05f)},
    };
    for (const Case& c : cases) {
      SampleRequest request;
      request.params = &c.params;
      Report(c.row, c.name, repeats, [&] {
        ++request.output_position;
        sampler.Sample(*c.logits, request);
      });
    }
    Report(row, "logprob + 20 alternatives", repeats,
           [&, logits = logits] { LogprobOf(*logits, 7, 20); });
  }
  return 0;
}

}  // namespace
}  // namespace kvasir

int main(int argc, char** argv) { return kvasir::Main(argc, argv); }
