#include "tests/model/checkpoint_writer.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/bf16.h"
#include "base/check.h"
#include "runtime/model/architectures/registry.h"
#include "runtime/model/embedding.h"
#include "runtime/model/loading/random_weights.h"
#include "runtime/model/loading/tensor_map.h"

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
  RandomWeights source(spec.num_layers(), seed);
  FloatTensors tensors;
  const TensorMap map = *MapTensors(spec, nullptr);
  for (const auto& [id, weight] : map.weights()) {
    for (const StoredPart& part : weight.parts) {
      FloatTensor& tensor = tensors[part.name];
      tensor.shape = part.shape;
      int64_t size = 1;
      for (const int64_t dim : part.shape) size *= dim;
      tensor.values.resize(size);
      const PartValues values = *source.Get(id, part);
      std::vector<float> floats(part.rows * part.cols);
      WidenToFloat(values.matrix.data, values.matrix.type, part.rows * part.cols, floats.data());
      for (int64_t r = 0; r < part.rows; ++r) {
        const int64_t row = part.row_order.empty() ? r : part.row_order[r];
        for (int64_t c = 0; c < part.cols; ++c) {
          float& value = tensor.values[part.offset + row * part.row_stride + c * part.col_stride];
          value = floats[r * part.cols + c] - part.add;
          if (part.exponential) value = std::log(floats[r * part.cols + c]);
        }
      }
    }
  }
  return tensors;
}

FileTensors Stored(const FloatTensors& tensors, const std::string& dtype) {
  FileTensors stored;
  for (const auto& [name, tensor] : tensors) {
    FileTensor out;
    out.dtype = dtype;
    out.shape = tensor.shape;
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
