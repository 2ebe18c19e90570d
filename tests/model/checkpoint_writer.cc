#include "tests/model/checkpoint_writer.h"

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/bf16.h"
#include "base/check.h"
#include "runtime/model/embedding.h"
#include "runtime/model/random_weights.h"
#include "runtime/model/tensor_inventory.h"

namespace kvasir::testing {

TempFolder::TempFolder() {
  std::string pattern = (std::filesystem::temp_directory_path() / "kvasir_model_XXXXXX").string();
  KVASIR_CHECK(mkdtemp(pattern.data()) != nullptr);
  path_ = pattern;
}

TempFolder::~TempFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

void TempFolder::Write(const std::string& name, const std::string& bytes) const {
  std::ofstream file(path_ + "/" + name, std::ios::binary);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  KVASIR_CHECK(file.good());
}

void TempFolder::Remove(const std::string& name) const {
  std::filesystem::remove(path_ + "/" + name);
}

std::string SafetensorsBytes(const std::string& header, const std::string& data) {
  std::string file;
  for (int i = 0; i < 8; ++i) file.push_back(static_cast<char>(header.size() >> (8 * i) & 0xff));
  return file + header + data;
}

std::string SafetensorsBytes(const FileTensors& tensors) {
  nlohmann::json header = {{"__metadata__", {{"format", "pt"}}}};
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    const size_t begin = data.size();
    data += tensor.bytes;
    header[name] = {
        {"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {begin, data.size()}}};
  }
  return SafetensorsBytes(header.dump(), data);
}

nlohmann::json TinyConfig() {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"hidden_size", 24},
          {"intermediate_size", 40},
          {"num_hidden_layers", 4},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"head_dim", 8},
          {"max_position_embeddings", 96},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", 10000.0},
          {"vocab_size", 50},
          {"tie_word_embeddings", false},
          {"hidden_act", "silu"},
          {"bos_token_id", 1},
          {"eos_token_id", 2}};
}

FloatTensors RandomTensors(const ModelSpec& spec, uint64_t seed) {
  RandomWeights source(spec.num_layers, seed);
  FloatTensors tensors;
  for (const TensorShape& shape : ExpectedTensors(spec)) {
    const StoredMatrix stored = *source.Get(shape.name, shape.rows, shape.cols);
    FloatTensor tensor{shape.rows, shape.cols, std::vector<float>(shape.rows * shape.cols)};
    WidenToFloat(stored.data, stored.type, shape.rows * shape.cols, tensor.values.data());
    tensors.emplace(shape.name, std::move(tensor));
    source.Release(shape.name);
  }
  return tensors;
}

FileTensors Stored(const FloatTensors& tensors, const std::string& dtype) {
  FileTensors stored;
  for (const auto& [name, tensor] : tensors) {
    FileTensor out;
    out.dtype = dtype;
    out.shape = {tensor.rows};
    if (tensor.cols != 1) out.shape.push_back(tensor.cols);
    for (const float value : tensor.values) {
      if (dtype == "F32") {
        out.bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
      } else {
        const uint16_t bits = dtype == "BF16" ? ToBf16(value).bits : ToF16(value).bits;
        out.bytes.append(reinterpret_cast<const char*>(&bits), sizeof(bits));
      }
    }
    stored.emplace(name, std::move(out));
  }
  return stored;
}

void WriteModel(const TempFolder& folder, const nlohmann::json& config,
                const FileTensors& tensors) {
  folder.Write("config.json", config.dump());
  folder.Write("model.safetensors", SafetensorsBytes(tensors));
}

}  // namespace kvasir::testing
