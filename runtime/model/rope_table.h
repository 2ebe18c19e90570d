// cos and sin of the rotary embedding's angles for every position, computed once.
//
// Angles are formed in f32 as the Hugging Face code does (inverse frequency rounded to f32, times
// the position in f32), because that is what checkpoints were trained and evaluated with: at
// position 2000 the f32 product differs from the exact angle by about 1e-4. Owns the tables;
// immutable, thread safe.
#pragma once

#include <vector>

#include "base/aligned_buffer.h"
#include "runtime/model/layer_spec.h"
#include "runtime/ops/elementwise.h"

namespace kvasir {

// [rotary_dim / 2] angles per position, scaling included. Sources: linear, Chen et al., arXiv
// 2306.15595 (positions divided by the factor); llama3, the `llama3` rope type of Llama 3.1:
// frequencies whose wavelength is beyond original_max_positions / low_freq_factor are divided by
// the factor, those within original_max_positions / high_freq_factor are kept, between them the two
// are mixed linearly in original_max_positions / wavelength; yarn, Peng et al., arXiv 2309.00071;
// longrope, Ding et al., arXiv 2402.13753, whose second set of divisors is for a `long_context`.
std::vector<float> RopeInverseFrequencies(const RopeSpec& rope, bool long_context = false);

class RopeTable {
 public:
  // cos and sin come times the spec's attention_factor.
  RopeTable(const RopeSpec& rope, int max_positions, bool long_context = false);

  RopeView view() const { return RopeView{cos_.data(), sin_.data(), rotary_dim_}; }
  int max_positions() const { return max_positions_; }

 private:
  int rotary_dim_;
  int max_positions_;
  AlignedBuffer<float> cos_;  // [max_positions][rotary_dim / 2]
  AlignedBuffer<float> sin_;  // [max_positions][rotary_dim / 2]
};

}  // namespace kvasir
