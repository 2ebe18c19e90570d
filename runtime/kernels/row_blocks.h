// Which register tile a product kernel runs: the number of rows is a template argument of the
// kernels, and a variable of their callers. Thread safe: pure functions.
#pragma once

#include <cstddef>

namespace kvasir {

// Calls body.operator()<rows>(), 1 <= rows <= kMax; for 0 rows or more than kMax, nothing.
template <int kMax, typename Body>
inline void WithRows(size_t rows, const Body& body) {
  if (rows == kMax) return body.template operator()<kMax>();
  if constexpr (kMax > 1) WithRows<kMax - 1>(rows, body);
}

// Cuts [0, rows) into as few blocks of at most kMax rows as it takes, as even as they can be: a
// block of one or two rows would have too few sums under way to hide an addition's latency. Calls
// body.operator()<n>(first_row) for each.
template <int kMax, typename Body>
inline void ForRowBlocks(size_t rows, const Body& body) {
  const size_t blocks = (rows + kMax - 1) / kMax;
  for (size_t b = 0; b < blocks; ++b) {
    const size_t first = rows * b / blocks;
    WithRows<kMax>(rows * (b + 1) / blocks - first,
                   [&]<int kRows>() { body.template operator()<kRows>(first); });
  }
}

}  // namespace kvasir
