// Vector passes over one row of logits, dispatched to the machine's best instruction set.
//
// A row is looked at in blocks of kRowBlock values. The maxima and sums of blocks let later steps
// skip almost all of the vocabulary: a block whose maximum is below a bound holds no candidate, and
// a draw walks block sums first.
//
// What is no number, everywhere: NaN counts as -infinity, +infinity as the largest finite float.
// Raw pointers, no allocation, stateless; safe from any thread. Rows and outputs need no alignment.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvasir {

// 256 floats: small enough that the k-th largest block maximum bounds top-k closely (500 blocks in
// a vocabulary of 128k), large enough that one horizontal sum per block costs nothing (16 vectors
// of AVX-512).
inline constexpr size_t kRowBlock = 256;

inline constexpr size_t NumRowBlocks(size_t size) { return (size + kRowBlock - 1) / kRowBlock; }

// How far beyond the last result CompactAtLeast may write: one vector of the widest machine known
// to Highway.
inline constexpr size_t kCompactSlack = 64;

// maxima[b] = largest value of block b, at most the largest finite float; -infinity for a block of
// NaN. maxima: [NumRowBlocks(size)]
void BlockMaxima(const float* row, size_t size, float* maxima);

// exp((value - max) * inverse_temperature); sums[b] = sum over block b. `max` is the row's finite
// maximum, so that terms lie in [0, 1]. sums: [NumRowBlocks(size)]
void BlockExpSums(const float* row, size_t size, float max, float inverse_temperature, float* sums);

// The same terms one by one. weights: [size]
void ExpWeights(const float* values, size_t size, float max, float inverse_temperature,
                float* weights);

// Collects the values >= bound in order of their index; returns their number. `bound` is finite,
// `maxima` from BlockMaxima of the same row. values, ids: room for size + kCompactSlack
size_t CompactAtLeast(const float* row, size_t size, const float* maxima, float bound,
                      float* values, int32_t* ids);

}  // namespace kvasir
