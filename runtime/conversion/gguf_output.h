// A result as one GGUF file: metadata, tokenizer, and weights in plain numbers or blocks.
//
// Norms, biases, routers, positions and convolutions are F32. Under a block format, the embeddings
// and the head are Q8_0 where that is larger, and rows that are no whole blocks become Q8_0 or,
// failing that, BF16.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/conversion/converted_weights.h"
#include "runtime/conversion/output_file.h"
#include "runtime/conversion/safetensors_output.h"
#include "runtime/formats/gguf_header_writer.h"
#include "runtime/formats/weight_format.h"
#include "runtime/model/gguf/gguf_dialect.h"
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

  // Writes the file. Once its metadata is there it is read back: model, tokenizer and sizes must be
  // what was meant (CheckSameModel, CheckSameTokens), before any of the tensors is made.
  absl::Status Write(const std::string& path, const WrittenBytes& written) const;

 private:
  // Weights that lie in one tensor, in the order in which they lie there.
  struct Piece {
    WeightId id;
    StoredPart part;
  };
  struct Tensor {
    std::string name;
    std::vector<int64_t> shape;  // outermost first
    WeightFormat format = WeightFormat::kF32;
    std::vector<Piece> pieces;
    int64_t row_values() const { return shape.back(); }
    int64_t bytes() const;
  };

  explicit GgufOutput(const ConvertedWeights* weights) : weights_(*weights) {}
  // The tensors of a model by the names of its dialect, without their formats.
  static absl::StatusOr<std::vector<Tensor>> LayOut(const ModelSpec& spec,
                                                    const GgufDialect& dialect);
  WeightFormat FormatOf(const Tensor& tensor, std::optional<WeightFormat> format) const;
  absl::Status WriteTensor(const Tensor& tensor, OutputFile* file,
                           const WrittenBytes& written) const;
  absl::Status Check(const std::string& path) const;

  const ConvertedWeights& weights_;
  // In the file's order: vectors of F32 that belong to the metadata, then the weights.
  std::vector<std::pair<std::string, std::vector<float>>> rope_tensors_;
  std::vector<Tensor> tensors_;
  std::string header_;
  int64_t tensor_bytes_ = 0;
  int64_t data_bytes_ = 0;
};

}  // namespace kvasir
