// The command line of kvasir-quality-bench. One thread.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "kvcache/kv_layout.h"
#include "runtime/ops/tensor.h"

namespace kvasir::bench {

struct QualityOptions {
  std::string model, text;
  std::vector<std::string> tasks = {"nll", "repetition", "needle"};
  std::vector<int> compressions = {2, 4, 8};
  int context = 2048;  // tokens
  int samples = 20;
  int windows = 4;
  int scored = 0;                    // tokens of nll's windows; 0: half of the context
  std::vector<std::string> methods;  // by their names; empty: all
  ComputeType compute_type = ComputeType::kF32;
  std::optional<KvElementType> kv_type;
  double chars_per_token = 6000.0 / 2048;
  bool begin_token = false;  // contexts begin with what the tokenizer puts before a text
};

// Ends the program with the error and the list of flags.
[[noreturn]] void Fail(const std::string& error);

// Ends the program when a flag is wrong.
QualityOptions ParseQualityOptions(int argc, char** argv);

}  // namespace kvasir::bench
