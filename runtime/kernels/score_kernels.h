// What some models do to a row of attention scores before the softmax, and to a row of outputs
// after it. Arithmetic in f32, in place. Raw pointers, no alignment needed. Thread safe: pure
// functions.
#pragma once

#include <cstddef>

namespace kvasir {

// scores[i] = cap * tanh(scores[i] * scale / cap); cap > 0.
void CapScores(float* scores, size_t n, float scale, float cap);

// scores[i] = scores[i] * scale + slope * (first + i).
void SlopeScores(float* scores, size_t n, float scale, float slope, float first);

// x[i] *= 1 / (1 + exp(-gate[i])).
void GateRow(float* x, const float* gate, size_t n);

}  // namespace kvasir
