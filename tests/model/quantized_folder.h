// Writes Hugging Face folders in the published forms of quantised weights, each with its twin of
// plain numbers: the forms' own arithmetic, written down once more as their packages have it, so
// that the readers are held against something that is not them.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "tests/model/checkpoint_writer.h"

namespace kvasir::testing {

struct QuantizedForm {
  std::string name;
  nlohmann::json config;  // quantization_config
  // Adds the tensors that module `base`, [out][in], consists of; returns its values.
  std::function<FloatTensor(const std::string& base, int64_t out, int64_t in, std::mt19937* random,
                            FileTensors* tensors)>
      write;
  bool in_blocks = true;  // in memory; else plain numbers
  // Values have a factor that rounds once more than the form's own arithmetic does.
  bool rounds = false;
};

// What the codes of type E2M1 stand for.
inline constexpr float kE2m1[16] = {0,     0.5f,  1,  1.5f,  2,  3,  4,  6,
                                    -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};

template <typename T>
FileTensor RawTensor(const std::string& dtype, std::vector<int64_t> shape,
                     const std::vector<T>& values) {
  return {dtype, std::move(shape),
          std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T))};
}

// GPTQ, AWQ, compressed-tensors (packed, int8, FP8) and FP8 in blocks, in all their varieties.
std::vector<QuantizedForm> QuantizedForms();
const QuantizedForm& FormNamed(const std::string& name);

// config.json of a Llama of 2 layers, hidden 64, feed-forward 160, vocabulary 50, and of a gpt-oss
// of 2 layers, hidden 64, 4 experts of 32.
nlohmann::json SmallConfig();
nlohmann::json SmallExpertsConfig();

struct Twins {
  nlohmann::json config;  // with quantization_config
  FileTensors quantized;
  FloatTensors plain;
};

// All projections of the small Llama in a form; the head, the tables and norms stay plain.
Twins MakeTwins(const QuantizedForm& form);
// The small gpt-oss with its experts in MXFP4.
Twins MakeMxfp4Twins();

}  // namespace kvasir::testing
