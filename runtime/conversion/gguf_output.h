// A result as one GGUF file: metadata, tokenizer, and weights in plain numbers or blocks.
//
// Under a block format, the embeddings and the head are Q8_0 where that is larger, norms and biases
// are F32, and rows that are no whole blocks become Q8_0 or, failing that, BF16.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/conversion/converted_weights.h"
#include "runtime/conversion/safetensors_output.h"
#include "runtime/formats/gguf_header_writer.h"
#include "runtime/formats/weight_format.h"
#include "runtime/model/loading/stored_part.h"

namespace kvasir {

class GgufOutput {
 public:
  // `format`: one that CanEncode; absent = as the source has each tensor. Borrows `weights`.
  // Errors: those of GgufArchitectureOf and AddGgufVocabulary.
  static absl::StatusOr<GgufOutput> Plan(const ConvertedWeights* weights,
                                         std::optional<WeightFormat> format);

  // Of the tensors, without padding.
  int64_t tensor_bytes() const { return tensor_bytes_; }
  int64_t file_bytes() const { return static_cast<int64_t>(header_.size()) + data_bytes_; }
  size_t num_tensors() const { return tensors_.size(); }

  // Writes the file and reads it back: model, tokenizer and sizes must be what was meant.
  absl::Status Write(const std::string& path, const WrittenBytes& written) const;

 private:
  struct Tensor {
    WeightId id;
    StoredPart part;
    WeightFormat format = WeightFormat::kF32;
    int64_t bytes = 0;
  };

  explicit GgufOutput(const ConvertedWeights* weights) : weights_(*weights) {}
  absl::Status WriteTensors(const std::string& path, const WrittenBytes& written) const;
  absl::Status Check(const std::string& path) const;

  const ConvertedWeights& weights_;
  std::vector<float> rope_divisors_;
  std::vector<Tensor> tensors_;  // in the file's order, behind the divisors
  std::string header_;
  int64_t tensor_bytes_ = 0;
  int64_t data_bytes_ = 0;
};

}  // namespace kvasir
