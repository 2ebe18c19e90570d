// One measured choice per product: which of several ways multiplies how many rows. Which one is
// faster depends on the CPU, on who else uses its units, and on the shape; what it gives does not:
// only ways that are equal to the bit are ever candidates. So a choice may differ from run to run,
// needs not be kept, and no result depends on it.
//
// A ProductChoice is a value; not thread safe while it is being set.
#pragma once

#include <array>
#include <cstdint>

#include "absl/functional/function_ref.h"
#include "absl/types/span.h"

namespace kvasir {

enum class ProductWay : uint8_t {
  kOneDnn,
  kColumns,  // few rows by a kernel of ours: AMX, VNNI, or BF16
  kPanels,   // many rows by a kernel of ours: AMX
  kWidened,  // bf16 as f32, by FMAs of AVX-512
};

// Products are measured with these numbers of rows; others take the way of the next larger one, and
// of the last.
inline constexpr std::array<int64_t, 8> kMeasuredRows = {1, 4, 8, 16, 32, 64, 128, 512};

class ProductChoice {
 public:
  // `few` up to `most_few` rows and `many` beyond: what holds where nothing is measured.
  ProductChoice(ProductWay few, int64_t most_few, ProductWay many);

  ProductWay For(int64_t rows) const { return ways_[Band(rows)]; }
  void Set(int64_t rows, ProductWay way) { ways_[Band(rows)] = way; }

  bool operator==(const ProductChoice&) const = default;

 private:
  static size_t Band(int64_t rows);

  std::array<ProductWay, kMeasuredRows.size()> ways_;
};

// Seconds of one product of so many rows.
using TimeProduct = absl::FunctionRef<double(ProductWay way, int64_t rows)>;

// `choice` with each band of up to max_rows rows replaced by the fastest of `ways` where it is
// faster than the one held by more than noise. Ways take turns, each counts with the shortest of
// its times. Bands from the first on that is not done when `seconds` are used up stay as they are;
// the time used is at most that of one band more.
ProductChoice MeasureChoice(ProductChoice choice, absl::Span<const ProductWay> ways,
                            int64_t max_rows, double seconds, TimeProduct time);

}  // namespace kvasir
