// Which register tile a product kernel runs: the number of rows is a template argument of the
// kernels, and a variable of their callers. Thread safe: pure functions.
#pragma once

#include <cstddef>

namespace kvasir {

// Calls body.operator()<rows>(), 1 <= rows <= kMost; for 0 rows or more than kMost, nothing.
template <int kMost, typename Body>
inline void WithRows(size_t rows, const Body& body) {
  if (rows == kMost) return body.template operator()<kMost>();
  if constexpr (kMost > 1) WithRows<kMost - 1>(rows, body);
}

// Cuts [0, rows) into as few blocks of at most kMost rows as it takes, as even as they can be: a
// block of one or two rows would have too few sums under way to hide an addition's latency. Calls
// body.operator()<n>(first_row) for each.
template <int kMost, typename Body>
inline void ForRowBlocks(size_t rows, const Body& body) {
  const size_t blocks = (rows + kMost - 1) / kMost;
  for (size_t b = 0; b < blocks; ++b) {
    const size_t first = rows * b / blocks;
    WithRows<kMost>(rows * (b + 1) / blocks - first,
                    [&]<int kRows>() { body.template operator()<kRows>(first); });
  }
}

}  // namespace kvasir
