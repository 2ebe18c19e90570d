// Writes small Hugging Face folders for tests: honest ones of any shape, and crooked ones byte by
// byte.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runtime/model/model_spec.h"

namespace kvasir::testing {

// A folder under the system's temporary directory, removed with everything in it on destruction.
class TempFolder {
 public:
  TempFolder();
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  ~TempFolder();

  const std::string& path() const { return path_; }
  void Write(const std::string& name, const std::string& bytes) const;
  void Remove(const std::string& name) const;

 private:
  std::string path_;
};

// One tensor as a file stores it.
struct FileTensor {
  std::string dtype = "F32";
  std::vector<int64_t> shape;
  std::string bytes;
};
using FileTensors = std::map<std::string, FileTensor>;

// Row-major values of a stored tensor.
struct FloatTensor {
  int64_t rows() const { return shape[0]; }
  int64_t cols() const { return shape.size() > 1 ? shape[1] : 1; }
  std::vector<int64_t> shape;
  std::vector<float> values;
};
using FloatTensors = std::map<std::string, FloatTensor>;

// A safetensors file of any header text and data: the length in front is the header's true one.
std::string SafetensorsBytes(const std::string& header, const std::string& data);
// A well-formed safetensors file.
std::string SafetensorsBytes(const FileTensors& tensors);

// config.json of a Llama of 4 layers, 4 query heads of 8 and 2 KV heads, hidden 24, vocabulary 50,
// context 96. (hidden_size != heads * head_dim on purpose.)
nlohmann::json TinyConfig();

// Values for every stored tensor of `spec`, the same as Model::Random's of that seed,
// bf16-representable so that each dtype can store them exactly.
FloatTensors RandomTensors(const ModelSpec& spec, uint64_t seed);

FileTensors Stored(const FloatTensors& tensors, const std::string& dtype);

// Writes config.json and model.safetensors.
void WriteModel(const TempFolder& folder, const nlohmann::json& config, const FileTensors& tensors);

}  // namespace kvasir::testing
