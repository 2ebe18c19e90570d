// kvasir-quality-bench: what sparse attention, and K/V of eight bits, cost in quality, on one
// model. Prints one JSON object per line; quality.py runs it on several models and makes the table
// and the plot.
//
//   kvasir-quality-bench --model DIR --text FILE --tasks nll,repetition,needle --samples 20
//   kvasir-quality-bench --model FILE.gguf --text FILE --compute_type bf16 --kv_type int8
//       --methods dense --chars_per_token 4 --begin_token true
//
// Everything attends densely up to where a task begins to be scored, and by the method under test
// from there on, as a decoding sequence does; all methods start from forks of the same cache. f32
// unless asked otherwise, so that differences are the method's. For a context of 2048 tokens
// (--context), in which a text of 6000 characters leaves room for what follows:
//
//   nll         mean negative log-likelihood of the second half (--scored: of fewer tokens) of
//               windows of 2048 tokens, given what stands before
//   repetition  such a text, a line break, and some 128 characters of it once more, up to the end
//               of a word: how many of the next 256 come out before the first wrong one
//   needle      such a text with five sentences hidden in it that tell three words each, one of
//               which is asked for: the share of samples whose answer is exact

#include <algorithm>
#include <cmath>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "runtime/model/model.h"
#include "runtime/ops/sparse/sparq_method.h"
#include "runtime/tokenizer/gguf_text.h"
#include "runtime/tokenizer/tokenizer.h"
#include "tests/bench/baseline_choosers.h"
#include "tests/bench/quality_options.h"
#include "tests/model/test_decoder.h"

namespace kvasir::bench {
namespace {

using kvasir::testing::ArgMax;
using kvasir::testing::NegativeLogLikelihood;
using kvasir::testing::TestDecoder;
using kvasir::testing::TestSequence;

constexpr int kPromptChars = 128;
constexpr int kReferenceChars = 256;
constexpr int kStepTokens = 512;
constexpr int kBlockTokens = 16;  // of TestDecoder, and the page of Quest's paper
// Adaptive k begins at half of SparQ's positions and ends at twice as many.
constexpr float kMinMass = 0.9f;
// A wrong character counts when so many bytes stand behind it: until then it may be the first part
// of one whose other bytes are not there yet.
constexpr size_t kSettledBytes = 8;

// The first end of a word at or behind `at`.
size_t WordEnd(const std::string& text, size_t at) {
  return std::min(text.find_first_of(" \n", at), text.size());
}

struct Method {
  std::string name;
  int compression;  // dense: 1
  std::optional<SparseParams> params;
};

struct Tally {
  double score = 0;
  int64_t count = 0;
  double bytes = 0, dense_bytes = 0;
};

class Study {
 public:
  Study(const QualityOptions& options, std::string text)
      : text_(std::move(text)),
        context_(options.context),
        scored_(options.scored),
        context_chars_(static_cast<int>(options.context * options.chars_per_token)) {
    Model::Options model_options;
    model_options.compute_type = options.compute_type;
    auto model = Model::Load(options.model, model_options);
    if (!model.ok()) Fail(std::string(model.status().message()));
    model_ = *std::move(model);
    tokenizer_ = LoadTokenizer(options.model);
    if (options.begin_token) begin_ = *tokenizer_->Encode("", {});
    MakeMethods(options.compressions);
    KeepMethods(options.methods);
    // One context, longer where words are rare ones, and what each method adds to it: at most half.
    const int pool_tokens = context_ * (3 + static_cast<int>(methods_.size() + 1) / 2);
    decoder_ = std::make_unique<TestDecoder>(model_.get(), pool_tokens, kStepTokens,
                                             KvColumns::kSame, options.kv_type);
  }

  void Nll(int windows);
  void Repetition(int samples);
  void Needle(int samples);
  void Print(const std::string& task) const;

 private:
  static std::unique_ptr<Tokenizer> LoadTokenizer(const std::string& model);
  void MakeMethods(const std::vector<int>& compressions);
  void KeepMethods(const std::vector<std::string>& names);
  // Of dense attention, for one token that sees `positions`, itself among them.
  double DenseBytes(size_t positions) const;
  TestSequence Fork(const TestSequence& from, const Method& method);
  void CountBytes(const TestSequence& sequence, int sparse_from, Tally* tally);
  std::vector<TokenId> Encode(const std::string& text) const;
  // A sequence whose K/V are computed densely, and the first token after it.
  TestSequence Prefill(const std::vector<TokenId>& prompt, TokenId* next);
  // What each method says after the prompt, greedily: how many bytes agree with `wanted` before the
  // first that does not, blanks at the beginning aside. Bytes are counted.
  std::vector<size_t> Agreement(const std::string& prompt, const std::string& wanted,
                                std::vector<Tally>* tallies);
  // Some context_chars_ characters of the text from a random place on, from the beginning of a word
  // to the end of one.
  std::string RandomContext();

  const std::string text_;
  const int context_;  // tokens
  const int scored_;   // of them, by nll
  const int context_chars_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::vector<TokenId> begin_;  // stands before every context
  std::unique_ptr<TestDecoder> decoder_;
  const WindowChooser window_;
  const BlockBoundChooser block_bounds_;
  std::vector<Method> methods_;
  std::map<std::string, std::vector<Tally>> tallies_;  // by task, beside methods_
  std::mt19937 random_{1};                             // every run draws the same samples
};

std::unique_ptr<Tokenizer> Study::LoadTokenizer(const std::string& model) {
  if (absl::EndsWith(model, ".gguf")) {
    auto text = LoadGgufText(model, /*template_override=*/"");
    if (!text.ok()) Fail(std::string(text.status().message()));
    return std::move(text->tokenizer);
  }
  auto tokenizer = Tokenizer::Load(model);
  if (!tokenizer.ok()) Fail(std::string(tokenizer.status().message()));
  return *std::move(tokenizer);
}

void Study::KeepMethods(const std::vector<std::string>& names) {
  if (names.empty()) return;
  const auto wanted = [&](const Method& method) {
    return std::find(names.begin(), names.end(), method.name) != names.end();
  };
  for (const std::string& name : names) {
    if (std::none_of(methods_.begin(), methods_.end(),
                     [&](const Method& method) { return method.name == name; }))
      Fail(absl::StrCat("no method is called ", name));
  }
  methods_.erase(std::remove_if(methods_.begin(), methods_.end(), std::not_fn(wanted)),
                 methods_.end());
}

void Study::MakeMethods(const std::vector<int>& compressions) {
  const ModelSpec& spec = model_->spec();
  const AttentionShape shape{spec.head_dim(), spec.query_heads() / spec.attention(0).kv_heads};
  bool borrows = false;
  for (int layer = 0; layer < spec.num_layers(); ++layer)
    borrows |= spec.attention(layer).kv_owner != layer;
  methods_.push_back({"dense", 1, std::nullopt});
  for (const int compression : compressions) {
    const auto add = [&](const char* name, const SparqRequest& request) {
      methods_.push_back({name, compression, ResolveSparq(request, shape, context_)});
    };
    // Without the floors that serving has, so that all are compared at the compression they say.
    SparqRequest sparq;
    sparq.compression = static_cast<float>(compression);
    sparq.rank = std::max(1, spec.head_dim() / compression);
    sparq.top_k = context_ / (2 * compression);
    add("SparQ", sparq);
    SparqRequest variant = sparq;
    variant.mean_value = variant.mean_of_unselected = true;
    add("SparQ, corrected mean", variant);
    variant = sparq;
    variant.least_mass = kMinMass;
    variant.top_k = *sparq.top_k / 2;
    variant.max_top_k = *sparq.top_k * 2;
    add("SparQ, adaptive k", variant);
    variant = sparq;
    variant.reuse_picks = true;
    if (borrows) add("SparQ, selection reuse", variant);

    SparqRequest oracle;  // the whole target goes into positions
    oracle.all_dimensions = true;
    oracle.top_k = context_ / compression;
    add("exact top-k (oracle)", oracle);
    SparseParams baseline;
    baseline.rank = spec.head_dim();
    baseline.top_k = context_ / compression;
    baseline.chooser = &window_;
    methods_.push_back({"window and sinks", compression, baseline});
    // Two rows of K per block are the bounds: a share of 1 / kBlockTokens that no choice can save.
    baseline.chooser = &block_bounds_;
    baseline.top_k = context_ / compression - context_ / kBlockTokens;
    if (baseline.top_k >= kBlockTokens) methods_.push_back({"Quest", compression, baseline});
  }
}

TestSequence Study::Fork(const TestSequence& from, const Method& method) {
  TestSequence sequence = decoder_->NewSequence();
  sequence.table = decoder_->manager().Fork(from.table);
  sequence.tokens = from.tokens;
  sequence.sparq = method.params;
  sequence.sparse_from = static_cast<int>(from.tokens.size());
  return sequence;
}

double Study::DenseBytes(size_t positions) const {
  const KvLayout& layout = decoder_->manager().layout();
  const auto end = static_cast<int64_t>(positions);
  return static_cast<double>(layout.ReadBytes(end - 1, end));
}

void Study::CountBytes(const TestSequence& sequence, int sparse_from, Tally* tally) {
  double dense = 0;
  for (size_t positions = sparse_from + 1; positions <= sequence.tokens.size(); ++positions) {
    dense += DenseBytes(positions);
  }
  tally->dense_bytes += dense;
  tally->bytes +=
      sequence.sparq.has_value() ? static_cast<double>(sequence.sparse_bytes_read) : dense;
}

std::vector<TokenId> Study::Encode(const std::string& text) const {
  Tokenizer::EncodeOptions options;
  options.add_special_tokens = false;
  auto ids = tokenizer_->Encode(text, options);
  if (!ids.ok()) Fail(std::string(ids.status().message()));
  return *std::move(ids);
}

TestSequence Study::Prefill(const std::vector<TokenId>& prompt, TokenId* next) {
  TestSequence sequence = decoder_->NewSequence();
  *next = ArgMax(decoder_->Append(&sequence, prompt, kStepTokens, /*all_logits=*/false)[0]);
  return sequence;
}

void Study::Nll(int windows) {
  std::vector<Tally>& tallies = tallies_["nll"];
  tallies.resize(methods_.size());
  const int scored_from = context_ - scored_;
  // Eight characters per token are more than a vocabulary of this size reaches in prose.
  const std::vector<TokenId> tokens =
      Encode(text_.substr(0, WordEnd(text_, size_t{8} * windows * context_)));
  if (tokens.size() <= static_cast<size_t>(windows) * context_)
    Fail("the text is too short for so many windows");
  for (int w = 0; w < windows; ++w) {
    const TokenId* begin = tokens.data() + static_cast<size_t>(w) * context_;
    std::vector<TokenId> prompt = begin_;
    prompt.insert(prompt.end(), begin, begin + scored_from);
    TokenId next;
    const TestSequence start = Prefill(prompt, &next);
    for (size_t m = 0; m < methods_.size(); ++m) {
      TestSequence sequence = Fork(start, methods_[m]);
      // A step at a time: a large vocabulary's logits are a gigabyte for a thousand tokens.
      for (int at = scored_from; at < context_; at += kStepTokens) {
        const absl::Span<const TokenId> step(begin + at, std::min(kStepTokens, context_ - at));
        const auto logits = decoder_->Append(&sequence, step, kStepTokens, /*all_logits=*/true);
        for (size_t i = 0; i < logits.size(); ++i) {
          tallies[m].score += NegativeLogLikelihood(logits[i], begin[at + i + 1]);
          ++tallies[m].count;
        }
      }
      CountBytes(sequence, static_cast<int>(prompt.size()), &tallies[m]);
    }
  }
}

std::vector<size_t> Study::Agreement(const std::string& prompt, const std::string& wanted,
                                     std::vector<Tally>* tallies) {
  TokenId first;
  std::vector<TokenId> ids = Encode(prompt);
  ids.insert(ids.begin(), begin_.begin(), begin_.end());
  const TestSequence start = Prefill(ids, &first);
  std::vector<TestSequence> sequences;
  for (const Method& method : methods_) sequences.push_back(Fork(start, method));
  std::vector<std::vector<TokenId>> said(methods_.size(), {first});
  std::vector<size_t> agreed(methods_.size(), 0);
  // Whether more tokens can change what agrees.
  const auto is_open = [&](size_t m) {
    const auto decoded = tokenizer_->Decode(said[m], /*skip_special_tokens=*/false);
    if (!decoded.ok()) Fail(std::string(decoded.status().message()));
    const absl::string_view text = absl::StripLeadingAsciiWhitespace(*decoded);
    const size_t shared = std::min(text.size(), wanted.size());
    agreed[m] =
        std::mismatch(text.begin(), text.begin() + shared, wanted.begin()).first - text.begin();
    // A token that says nothing could repeat for ever.
    return text.size() < agreed[m] + kSettledBytes && said[m].size() <= wanted.size();
  };
  while (true) {
    std::vector<TestDecoder::Work> work;
    std::vector<size_t> open;
    for (size_t m = 0; m < methods_.size(); ++m) {
      if (!is_open(m)) continue;
      work.push_back({&sequences[m], {said[m].back()}, 1});
      open.push_back(m);
    }
    if (work.empty()) break;
    const auto logits = decoder_->Step(work);
    for (size_t i = 0; i < open.size(); ++i) said[open[i]].push_back(ArgMax(logits[i][0]));
  }
  for (size_t m = 0; m < methods_.size(); ++m) {
    CountBytes(sequences[m], static_cast<int>(ids.size()), &(*tallies)[m]);
  }
  return agreed;
}

std::string Study::RandomContext() {
  const size_t begin = WordEnd(text_, random_() % (text_.size() - 2 * context_chars_)) + 1;
  return text_.substr(begin, WordEnd(text_, begin + context_chars_) - begin);
}

void Study::Repetition(int samples) {
  std::vector<Tally>& tallies = tallies_["repetition"];
  tallies.resize(methods_.size());
  for (int s = 0; s < samples; ++s) {
    const std::string context = RandomContext();
    const size_t begin =
        WordEnd(context, random_() % (context_chars_ - kPromptChars - 2 * kReferenceChars)) + 1;
    const size_t end = WordEnd(context, begin + kPromptChars);
    const std::string reference(
        absl::StripLeadingAsciiWhitespace(absl::string_view(context).substr(end, kReferenceChars)));
    const auto agreed = Agreement(absl::StrCat(context, "\n", context.substr(begin, end - begin)),
                                  reference, &tallies);
    for (size_t m = 0; m < methods_.size(); ++m) {
      tallies[m].score += static_cast<double>(agreed[m]);
      ++tallies[m].count;
    }
  }
}

void Study::Needle(int samples) {
  constexpr const char* kAdjectives[] = {"old",  "little", "white", "golden",
                                         "poor", "great",  "young", "black"};
  constexpr const char* kNouns[] = {"king",  "tree", "horse", "ship",  "garden",
                                    "house", "bird", "river", "woman", "tower"};
  constexpr const char* kWords[] = {"water",  "fire",   "silver", "bread", "night",  "stone",
                                    "summer", "letter", "music",  "storm", "window", "queen",
                                    "forest", "snow",   "money",  "table"};
  constexpr int kLongestNeedle = 100;
  constexpr int kOthers = 4;  // sentences like the one that is asked for
  std::vector<Tally>& tallies = tallies_["needle"];
  tallies.resize(methods_.size());
  const auto any = [this](const auto& list) {
    return std::string(list[random_() % std::size(list)]);
  };
  for (int s = 0; s < samples; ++s) {
    std::string context = RandomContext();
    std::string question, answer;
    for (int n = 0; n <= kOthers; ++n) {
      const std::string asked =
          absl::StrCat("The secret words of the ", any(kAdjectives), " ", any(kNouns), " are");
      if (absl::StrContains(context, asked)) continue;  // its answer would not be the only one
      const std::string told = absl::StrCat(any(kWords), " ", any(kWords), " ", any(kWords), ".");
      // The needle that is asked for goes through all depths in turn.
      const size_t places = context_chars_ - kLongestNeedle;
      const size_t depth = n == 0 ? places * s / samples : random_() % places;
      context.insert(WordEnd(context, depth), absl::StrCat(" ", asked, " ", told));
      if (n == 0) {
        question = asked;
        answer = told;
      }
    }
    const auto agreed = Agreement(absl::StrCat(context, "\n", question), answer, &tallies);
    for (size_t m = 0; m < methods_.size(); ++m) {
      tallies[m].score += agreed[m] == answer.size() ? 1.0 : 0.0;
      ++tallies[m].count;
    }
  }
}

void Study::Print(const std::string& task) const {
  const std::vector<Tally>& tallies = tallies_.at(task);
  for (size_t m = 0; m < methods_.size(); ++m) {
    const nlohmann::ordered_json line = {
        {"task", task},
        {"method", methods_[m].name},
        {"compression", methods_[m].compression},
        {"score", tallies[m].score / static_cast<double>(tallies[m].count)},
        {"count", tallies[m].count},
        {"bytes_share", tallies[m].bytes / tallies[m].dense_bytes}};
    std::cout << line.dump() << std::endl;
  }
}

int Main(int argc, char** argv) {
  const QualityOptions options = ParseQualityOptions(argc, argv);
  std::ifstream file(options.text, std::ios::binary);
  std::string text(std::istreambuf_iterator<char>(file), {});
  if (text.size() < size_t{12} * options.context)
    Fail(absl::StrCat(options.text,
                      " is missing or shorter than 12 characters per token of the context"));
  Study study(options, std::move(text));
  for (const std::string& task : options.tasks) {
    if (task == "nll") {
      study.Nll(options.windows);
    } else if (task == "repetition") {
      study.Repetition(options.samples);
    } else if (task == "needle") {
      study.Needle(options.samples);
    } else {
      Fail(absl::StrCat("no task is called ", task));
    }
    study.Print(task);
  }
  return 0;
}

}  // namespace
}  // namespace kvasir::bench

int main(int argc, char** argv) { return kvasir::bench::Main(argc, argv); }
