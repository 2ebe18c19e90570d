// Converting a checkpoint, offline: a Hugging Face folder in, a folder or a GGUF file out, with
// fewer K/V heads, fewer K/V layers, weights of another type, or any of these together. What
// `kvasir convert` does; docs/convert.md is its manual.
//
// The result is written beside its place and moved there in one step. Memory: one tensor.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "runtime/conversion/safetensors_output.h"
#include "runtime/conversion/target_model.h"
#include "runtime/formats/weight_format.h"

namespace kvasir {

struct ConversionRequest {
  std::string source;  // a Hugging Face folder
  std::string output;  // a folder, or NAME.gguf
  SharingRecipe sharing;
  // Of the result; absent = as stored. A folder takes kF32, kBf16 and kF16; a GGUF file those and
  // the block formats that CanEncode.
  std::optional<WeightFormat> weights;
  // 8 or 4, of a folder only: matrices as integers (SafetensorsOutput).
  std::optional<int> integer_bits;
  int64_t shard_bytes = 5'000'000'000;  // most bytes of tensors in one safetensors file
  bool force = false;                   // replace a model that is at `output`
};

// One side of a conversion, in numbers.
struct ModelFigures {
  std::string architecture;
  std::string sharing;  // "gqa", "mqa+cla", ...
  int kv_heads = 0;     // of layer 0
  int kv_layers = 0;    // that own K/V
  int64_t parameters = 0;
  int64_t weight_bytes = 0;
  // Of a bf16 cache.
  int64_t kv_bytes_per_token_resident = 0;
  int64_t kv_bytes_per_token_read = 0;
};

struct ConversionReport {
  ModelFigures source, result;
  int64_t tensors = 0;
  int64_t files = 0;  // of weights
};

// Bytes of tensors written so far, and all there are to write; false = stop.
using ConversionProgress = std::function<bool(int64_t done, int64_t total)>;

// Errors say what was wrong, the value, the limit and the remedy, and leave nothing behind:
// those of SourceModel::Open, PlanTarget and StagedOutput::Begin; InvalidArgument for a request
// that asks for nothing or contradicts itself; ResourceExhausted for a full disk; Cancelled when
// progress said so; FailedPrecondition when a file of the source became shorter meanwhile, in
// processes that survive that (mapped_pages.h).
absl::StatusOr<ConversionReport> Convert(const ConversionRequest& request,
                                         const ConversionProgress& progress);

}  // namespace kvasir
