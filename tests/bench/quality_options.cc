#include "tests/bench/quality_options.h"

#include <cstdlib>
#include <iostream>
#include <map>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/parallel.h"

namespace kvasir::bench {
namespace {

template <typename T>
T OneOf(const std::string& flag, const std::string& value, const std::map<std::string, T>& known) {
  const auto found = known.find(value);
  if (found == known.end()) Fail(absl::StrCat("cannot use ", flag, " ", value));
  return found->second;
}

}  // namespace

void Fail(const std::string& error) {
  std::cerr << "kvasir-quality-bench: " << error << R"(
  --model PATH       a Hugging Face folder, or a GGUF file
  --text FILE        UTF-8 text to take contexts from
  --tasks A,B        nll, repetition, needle; default all
  --compressions A,B default 2,4,8
  --context N        tokens, 512 to 65536; default 2048
  --samples N        of repetition and needle, default 20
  --windows N        of nll, default 4
  --scored N         tokens at the end of each; default half of the context
  --methods A;B      of those that the output names; default all
  --compute_type T   f32 (default), bf16, int8
  --kv_type T        f32, bf16, int8; default: f32 beside f32, else bf16
  --chars_per_token X  of the model's tokenizer; default 2.93, the tale models'
  --begin_token true   contexts begin with what the tokenizer puts before a text
  --threads N        default: one per core
)";
  std::exit(2);
}

QualityOptions ParseQualityOptions(int argc, char** argv) {
  QualityOptions options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i], value = argv[i + 1];
    int number = 0;
    const bool is_number = absl::SimpleAtoi(value, &number) && number >= 1;
    if (flag == "--model") {
      options.model = value;
    } else if (flag == "--text") {
      options.text = value;
    } else if (flag == "--tasks") {
      options.tasks = absl::StrSplit(value, ',');
    } else if (flag == "--compressions") {
      options.compressions.clear();
      for (const absl::string_view part : absl::StrSplit(value, ',')) {
        if (!absl::SimpleAtoi(part, &number) || number < 2 || number > 64)
          Fail(absl::StrCat("--compressions ", value, ": use numbers from 2 to 64"));
        options.compressions.push_back(number);
      }
    } else if (flag == "--context" && is_number && number >= 512 && number <= 65536) {
      options.context = number;
    } else if (flag == "--samples" && is_number) {
      options.samples = number;
    } else if (flag == "--windows" && is_number) {
      options.windows = number;
    } else if (flag == "--scored" && is_number) {
      options.scored = number;
    } else if (flag == "--methods") {
      options.methods = absl::StrSplit(value, ';');
    } else if (flag == "--compute_type") {
      options.compute_type = OneOf<ComputeType>(
          flag, value,
          {{"f32", ComputeType::kF32}, {"bf16", ComputeType::kBf16}, {"int8", ComputeType::kInt8}});
    } else if (flag == "--kv_type") {
      options.kv_type = OneOf<KvElementType>(flag, value,
                                             {{"f32", KvElementType::kF32},
                                              {"bf16", KvElementType::kBf16},
                                              {"int8", KvElementType::kInt8}});
    } else if (flag == "--chars_per_token") {
      if (!absl::SimpleAtod(value, &options.chars_per_token) || !(options.chars_per_token >= 1) ||
          options.chars_per_token > 16)
        Fail(absl::StrCat("--chars_per_token ", value, ": use a number from 1 to 16"));
    } else if (flag == "--begin_token") {
      options.begin_token = OneOf<bool>(flag, value, {{"true", true}, {"false", false}});
    } else if (flag == "--threads" && is_number) {
      SetComputeThreads(number);
    } else {
      Fail(absl::StrCat("cannot use ", flag, " ", value));
    }
  }
  if (argc % 2 == 0) Fail(absl::StrCat(argv[argc - 1], " has no value"));
  if (options.model.empty() || options.text.empty()) Fail("--model and --text are needed");
  if (options.scored == 0) options.scored = options.context / 2;
  if (options.scored >= options.context) Fail("--scored: leave something to begin with");
  return options;
}

}  // namespace kvasir::bench
