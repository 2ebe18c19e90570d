#include "runtime/ops/panel_linear.h"

#include <algorithm>
#include <cstring>

#include "base/aligned_buffer.h"
#include "base/check.h"
#include "base/parallel.h"
#include "runtime/kernels/elementwise_kernels.h"
#include "runtime/kernels/panels/panel_kernels.h"
#include "runtime/ops/onednn_matmul.h"
#include "runtime/ops/weight_packing.h"

namespace kvasir {
namespace {

// Rows of one call: their sums (16 KiB) stay in the first cache level.
constexpr int64_t kRowsTogether = 60;

// More rows than these are cut into slabs that stay in the second cache level while several blocks
// of columns pass over them.
constexpr int64_t kSlabBytes = 192 * 1024;
constexpr int64_t kLeastSlabRows = 12;
constexpr int64_t kMostSlabBlocks = 16;

// Blocks of columns are handed out in runs of about this many bytes, long enough to stream.
constexpr int64_t kRunBytes = 128 * 1024;
constexpr int64_t kTasksPerThread = 4;  // at least, so that threads end together

constexpr int64_t kBlockColumns = kSumColumns;

// rows [count][in] from output `begin` on, into panels in which kInterleaved inputs of an output
// lie side by side.
template <int kInterleaved, typename T>
void PlacePanels(const void* from, int64_t in, int64_t begin, int64_t count, T* panels) {
  const auto* const rows = static_cast<const T*>(from);
  const auto columns = static_cast<int64_t>(kPanelOutputs);
  ParallelFor(static_cast<size_t>((count + columns - 1) / columns), [&](size_t index, int) {
    const int64_t first = static_cast<int64_t>(index) * columns;
    const int64_t filled = std::min(columns, count - first);
    T* const panel = panels + (begin + first) * in;
    for (int64_t k = 0; k < in; k += kInterleaved) {
      for (int64_t j = 0; j < filled; ++j) {
        std::memcpy(panel + k * columns + j * kInterleaved, rows + (first + j) * in + k,
                    kInterleaved * sizeof(T));
      }
    }
  });
}

class PanelLinear : public Linear {
 public:
  PanelLinear(absl::Span<const StoredMatrix> parts, absl::Span<const StoredMatrix> biases,
              PackedElement element)
      : element_(element), in_(parts[0].cols) {
    for (const StoredMatrix& part : parts) out_ += part.rows;
    const auto columns = static_cast<int64_t>(kPanelOutputs);
    const int64_t panels = (out_ + columns - 1) / columns;
    packed_ = PackWeights(parts, biases, element, kInt8PanelLimit,
                          static_cast<size_t>(panels * columns * in_ * ElementBytes(element)),
                          [this](const void* rows, int64_t begin, int64_t count, uint8_t* to) {
                            Place(rows, begin, count, to);
                          });
  }

  void Run(const MatmulInput& x, MatrixView y, bool accumulate) override {
    KVASIR_CHECK(x.compute_type() == input_type() && x.cols() == in_ && y.stride >= out_);
    switch (element_) {
      case PackedElement::kInt8:
        return RunAs<uint8_t, int8_t, int32_t>(x, y, accumulate);
      case PackedElement::kBf16:
        return RunAs<float, bf16, float>(x, y, accumulate);
      case PackedElement::kF16:
        return RunAs<float, f16, float>(x, y, accumulate);
      case PackedElement::kF32:
        KVASIR_CHECK(false);
    }
  }

  void Warm(int64_t) override {}  // has no primitives

  int64_t in_features() const override { return in_; }
  int64_t out_features() const override { return out_; }
  size_t packed_bytes() const override { return packed_.data.size(); }
  void CountBytes(WeightBytes* bytes) const override {
    (*bytes)[element_ == PackedElement::kInt8   ? "int8"
             : element_ == PackedElement::kBf16 ? "bf16"
                                                : "f16"] += packed_bytes();
  }

 private:
  ComputeType input_type() const {
    return element_ == PackedElement::kInt8 ? ComputeType::kInt8 : ComputeType::kF32;
  }

  void Place(const void* rows, int64_t begin, int64_t count, uint8_t* to) const {
    if (element_ == PackedElement::kInt8) {
      PlacePanels<4>(rows, in_, begin, count, to);
    } else if (element_ == PackedElement::kBf16) {
      PlacePanels<2>(rows, in_, begin, count, reinterpret_cast<uint16_t*>(to));
    } else {
      PlacePanels<1>(rows, in_, begin, count, reinterpret_cast<uint16_t*>(to));
    }
  }

  // Rows of T times weights of W. A task has some rows and some blocks of columns.
  template <typename T, typename W, typename Sum>
  void RunAs(const MatmulInput& x, MatrixView y, bool accumulate) const {
    const int64_t rows = x.rows();
    const int64_t blocks = (out_ + kBlockColumns - 1) / kBlockColumns;
    const int64_t slab_rows = std::clamp(kSlabBytes / (in_ * static_cast<int64_t>(sizeof(T))),
                                         kLeastSlabRows, kRowsTogether);
    const int64_t task_rows = rows <= kRowsTogether ? kRowsTogether : slab_rows;
    const int64_t slabs = (rows + task_rows - 1) / task_rows;
    const int64_t most = slabs > 1
                             ? kMostSlabBlocks
                             : kRunBytes / (kBlockColumns * in_ * static_cast<int64_t>(sizeof(W)));
    const int64_t even = blocks * slabs / (kTasksPerThread * ComputeThreads());
    const int64_t together = std::max<int64_t>(1, std::min(most, even));
    const int64_t runs = (blocks + together - 1) / together;
    ParallelStream(static_cast<size_t>(runs * slabs), [&](size_t index, int) {
      const int64_t run = static_cast<int64_t>(index) / slabs;
      const int64_t row = static_cast<int64_t>(index) % slabs * task_rows;
      const int64_t last = std::min(blocks, (run + 1) * together);
      for (int64_t block = run * together; block < last; ++block) {
        RunBlock<T, W, Sum>(x, row, std::min(task_rows, rows - row), block * kBlockColumns, y,
                            accumulate);
      }
    });
  }

  template <typename T, typename W, typename Sum>
  void RunBlock(const MatmulInput& x, int64_t row, int64_t rows, int64_t column, MatrixView y,
                bool accumulate) const {
    thread_local AlignedBuffer<Sum> sums;
    sums.Resize(kRowsTogether * kBlockColumns);
    const int64_t columns = std::min(kBlockColumns, out_ - column);
    const auto panel_columns = static_cast<int64_t>(kPanelOutputs);
    const WeightPanels<W> weights{
        reinterpret_cast<const W*>(packed_.data.data()) + column * in_,
        static_cast<size_t>(panel_columns * in_),
        static_cast<size_t>((columns + panel_columns - 1) / panel_columns)};
    PanelProduct(static_cast<const T*>(x.data()) + row * in_, in_, rows, in_, weights,
                 /*add=*/false, sums.data());
    for (int64_t r = 0; r < rows; ++r) {
      Finish(x, row + r, column, columns, sums.data() + r * kBlockColumns, accumulate,
             y.row(row + r) + column);
    }
  }

  const float* Bias(int64_t column) const {
    return packed_.bias.size() > 0 ? packed_.bias.data() + column : nullptr;
  }

  // y = or += a row's sums of a block of columns, with the bias.
  void Finish(const MatmulInput& x, int64_t row, int64_t column, int64_t columns,
              const int32_t* sums, bool accumulate, float* y) const {
    DequantizeRow(sums, packed_.column_sums.data() + column, packed_.column_scales.data() + column,
                  Bias(column), x.row_scales()[row], accumulate, columns, y);
  }
  void Finish(const MatmulInput&, int64_t, int64_t column, int64_t columns, const float* sums,
              bool accumulate, float* y) const {
    const float* const bias = Bias(column);
    for (int64_t j = 0; j < columns; ++j) {
      const float value = sums[j] + (bias == nullptr ? 0.0f : bias[j]);
      y[j] = accumulate ? y[j] + value : value;
    }
  }

  const PackedElement element_;
  const int64_t in_;
  int64_t out_ = 0;
  PackedWeights packed_;
};

bool AllAre(absl::Span<const StoredMatrix> parts, WeightFormat format) {
  return std::all_of(parts.begin(), parts.end(),
                     [format](const StoredMatrix& part) { return part.type == format; });
}

}  // namespace

bool SuitsPanels(absl::Span<const StoredMatrix> parts, ComputeType wanted) {
  switch (wanted) {
    case ComputeType::kF32:
      return false;  // the oracle
    case ComputeType::kBf16:
      return !OneDnnHasBf16() && parts[0].cols % 2 == 0 &&
             (AllAre(parts, WeightFormat::kBf16) || AllAre(parts, WeightFormat::kF16));
    case ComputeType::kInt8:
      return !OneDnnHasAvx512() && HasInt8Panels() && parts[0].cols % 4 == 0;
  }
  return false;
}

std::unique_ptr<Linear> CreatePanelLinear(absl::Span<const StoredMatrix> parts,
                                          absl::Span<const StoredMatrix> biases,
                                          ComputeType wanted) {
  const PackedElement element = wanted == ComputeType::kInt8           ? PackedElement::kInt8
                                : parts[0].type == WeightFormat::kBf16 ? PackedElement::kBf16
                                                                       : PackedElement::kF16;
  return std::make_unique<PanelLinear>(parts, biases, element);
}

}  // namespace kvasir
