// The weights of a result as safetensors: model.safetensors, or shards of a bounded size with the
// index that names them. Tensors keep the names and shapes of the source's family; what the recipe
// does not change is copied byte for byte, unless another element type is asked for. Matrices may
// become integers with scales, in the tensors of compressed-tensors.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/conversion/converted_weights.h"
#include "runtime/conversion/integer_weights.h"
#include "runtime/formats/weight_format.h"
#include "runtime/model/weight_roles.h"

namespace kvasir {

// Told how many more bytes were written; false = stop: what was under way ends with Cancelled.
using WrittenBytes = std::function<bool(int64_t)>;

// What the tensors of a folder are stored as.
struct FolderTypes {
  // kBf16, kF16 or kF32 for every tensor, instead of the source's own.
  std::optional<WeightFormat> plain;
  // The matrices of attention and feed-forward as integers; embeddings, head, routers, norms and
  // biases stay plain.
  std::optional<IntegerFormat> integers;
};

// Eight bits per row, or four bits in the largest groups of 128, 64 or 32 inputs that divide every
// matrix. Unimplemented: a matrix is not stored as one tensor, or four bits fit no group.
absl::StatusOr<IntegerFormat> ChooseIntegers(const TargetModel& target, int bits);

class SafetensorsOutput {
 public:
  // `shard_bytes`: most bytes of tensors in one file (a larger tensor has a file of its own).
  // types.integers: of ChooseIntegers. Borrows `weights`.
  SafetensorsOutput(const ConvertedWeights* weights, const FolderTypes& types, int64_t shard_bytes);

  int64_t tensor_bytes() const { return tensor_bytes_; }
  size_t num_tensors() const;
  size_t num_files() const { return shards_.size(); }
  // Modules with a matrix that is no integers, by their names.
  const std::vector<std::string>& left_out() const { return left_out_; }

  // Writes the files into an existing folder.
  absl::Status Write(const std::string& folder, const WrittenBytes& written) const;

 private:
  struct Tensor {
    std::string name;
    std::string dtype;
    std::vector<int64_t> shape;
    int64_t bytes = 0;
  };
  // One tensor of the model and the tensors that stand for it, one behind the other.
  struct Weight {
    std::vector<Tensor> tensors;
    WeightFormat type = WeightFormat::kBf16;  // of a plain one
    std::optional<WeightId> computed;         // absent: copied
    bool integers = false;
  };
  using Shard = std::vector<Weight>;

  Weight Describe(const std::string& name, const std::vector<int64_t>& shape,
                  const std::optional<WeightId>& matrix, bool merged) const;
  std::string FileName(size_t shard) const;
  absl::Status WriteShard(const std::string& path, const Shard& shard,
                          const WrittenBytes& written) const;

  const ConvertedWeights& weights_;
  const FolderTypes types_;
  std::vector<Shard> shards_;
  std::vector<std::string> left_out_;
  int64_t tensor_bytes_ = 0;
};

}  // namespace kvasir
