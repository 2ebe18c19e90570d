#include "runtime/ops/weight_packing.h"

#include <algorithm>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/mapped_pages.h"
#include "base/parallel.h"
#include "runtime/kernels/convert.h"
#include "runtime/ops/onednn_version.h"

namespace kvasir {
namespace {

// Output rows are re-ordered this many bytes at a time: large enough to occupy all cores, small
// beside any model worth serving.
constexpr int64_t kSlabBytes = int64_t{16} << 20;

// Slabs begin at multiples of this many output rows, a multiple of every block that oneDNN's
// layouts use along the outputs (16 to 64), so that a slab is whole blocks.
constexpr int64_t kSlabRows = 64;

// One stored row as f32 in `out`. The stored row may be unaligned, even to its element size, so it
// is copied to `raw` [cols * 4 bytes] first when it has to be.
void RowToFloats(const StoredMatrix& matrix, int64_t row, uint8_t* raw, float* out) {
  const size_t row_bytes = RowBytes(matrix.type, matrix.cols);
  const auto* from = static_cast<const uint8_t*>(matrix.data) + row * row_bytes;
  if (matrix.input_order != nullptr) {
    auto* ordered = reinterpret_cast<float*>(raw);
    StoredRow(matrix, row, ordered);
    for (int64_t c = 0; c < matrix.cols; ++c) out[matrix.input_order[c]] = ordered[c];
    return;
  }
  if (matrix.type != WeightFormat::kBf16 && matrix.type != WeightFormat::kF16) {
    StoredRow(matrix, row, out);
    return;
  }
  if (reinterpret_cast<uintptr_t>(from) % ElementBytes(matrix.type) != 0) {
    std::memcpy(raw, from, row_bytes);
    from = raw;
  }
  if (matrix.type == WeightFormat::kBf16) {
    ToFloats(reinterpret_cast<const bf16*>(from), matrix.cols, out);
  } else {
    ToFloats(reinterpret_cast<const f16*>(from), matrix.cols, out);
  }
}

// Which part, and which of its rows, is row `row` of the stack.
std::pair<const StoredMatrix*, int64_t> FindRow(absl::Span<const StoredMatrix> parts, int64_t row) {
  for (const StoredMatrix& part : parts) {
    if (row < part.rows) return {&part, row};
    row -= part.rows;
  }
  return {nullptr, 0};
}

// Rows [begin, end) of the stack have been read.
void ReleaseRows(absl::Span<const StoredMatrix> parts, int64_t begin, int64_t end) {
  for (const StoredMatrix& part : parts) {
    const int64_t first = std::max<int64_t>(begin, 0), last = std::min(end, part.rows);
    if (first < last) {
      const int64_t row_bytes = RowBytes(part.type, part.cols);
      ReleaseMapped(static_cast<const uint8_t*>(part.data) + first * row_bytes,
                    static_cast<size_t>((last - first) * row_bytes));
    }
    begin -= part.rows;
    end -= part.rows;
  }
}

// Converts rows [begin, end) of the stack into `slab` [end - begin][cols] of the compute type.
class SlabConverter {
 public:
  SlabConverter(absl::Span<const StoredMatrix> parts, PackedElement element, int int8_limit,
                PackedWeights* packed)
      : parts_(parts), element_(element), int8_limit_(int8_limit), packed_(packed) {
    const size_t cols = parts[0].cols;
    scratch_.Resize(static_cast<size_t>(ComputeThreads()) * 2 * cols);
  }

  void Convert(int64_t begin, int64_t end, void* slab) {
    ParallelFor(static_cast<size_t>(end - begin), [&](size_t index, int thread) {
      ConvertRow(begin + static_cast<int64_t>(index), index, thread, slab);
    });
  }

 private:
  void ConvertRow(int64_t row, size_t slab_row, int thread, void* slab) {
    const auto [part, part_row] = FindRow(parts_, row);
    const int64_t cols = part->cols;
    float* floats = scratch_.data() + static_cast<int64_t>(thread) * 2 * cols;
    auto* raw = reinterpret_cast<uint8_t*>(floats + cols);
    switch (element_) {
      case PackedElement::kF32:
        RowToFloats(*part, part_row, raw, static_cast<float*>(slab) + slab_row * cols);
        break;
      case PackedElement::kF16:
        std::memcpy(static_cast<f16*>(slab) + slab_row * cols,
                    static_cast<const uint8_t*>(part->data) + part_row * cols * 2, cols * 2);
        break;
      case PackedElement::kBf16: {
        bf16* to = static_cast<bf16*>(slab) + slab_row * cols;
        if (part->type == WeightFormat::kBf16) {
          std::memcpy(to, static_cast<const uint8_t*>(part->data) + part_row * cols * 2, cols * 2);
        } else {
          RowToFloats(*part, part_row, raw, floats);
          FromFloats(floats, cols, to);
        }
        break;
      }
      case PackedElement::kInt8: {
        int8_t* to = static_cast<int8_t*>(slab) + slab_row * cols;
        RowToFloats(*part, part_row, raw, floats);
        packed_->column_scales[row] = QuantizeS8(floats, cols, int8_limit_, to);
        int32_t sum = 0;
        for (int64_t i = 0; i < cols; ++i) sum += to[i];
        packed_->column_sums[row] = sum;
        break;
      }
    }
  }

  absl::Span<const StoredMatrix> parts_;
  PackedElement element_;
  int int8_limit_;
  PackedWeights* packed_;
  AlignedBuffer<float> scratch_;  // [threads][2][cols]
};

}  // namespace

AlignedBuffer<float> StackBiases(absl::Span<const StoredMatrix> parts,
                                 absl::Span<const StoredMatrix> biases) {
  AlignedBuffer<float> stacked;
  if (std::none_of(biases.begin(), biases.end(),
                   [](const StoredMatrix& b) { return b.data != nullptr; })) {
    return stacked;
  }
  int64_t total = 0;
  for (const StoredMatrix& part : parts) total += part.rows;
  stacked.Resize(total);
  float* to = stacked.data();
  for (size_t i = 0; i < parts.size(); ++i) {
    if (biases[i].data == nullptr) {
      std::fill_n(to, parts[i].rows, 0.0f);
    } else {
      StoredMatrix row = biases[i];
      row.cols = parts[i].rows;
      row.rows = 1;
      AlignedBuffer<uint8_t> raw(row.cols * sizeof(float));
      RowToFloats(row, 0, raw.data(), to);
    }
    to += parts[i].rows;
  }
  return stacked;
}

PackedWeights PackWeights(absl::Span<const StoredMatrix> parts,
                          absl::Span<const StoredMatrix> biases, PackedElement element,
                          int int8_limit, size_t bytes, PlaceRows place) {
  const int64_t cols = parts[0].cols;
  int64_t rows = 0;
  for (const StoredMatrix& part : parts) rows += part.rows;

  PackedWeights packed;
  packed.data = HugeBuffer(bytes);
  // Blocks may be padded in both directions, and the products read the padding.
  if (rows % kSlabRows != 0 || cols % 64 != 0)
    std::memset(packed.data.data(), 0, packed.data.size());
  packed.bias = StackBiases(parts, biases);
  if (element == PackedElement::kInt8) {
    packed.column_scales.Resize(rows);
    packed.column_sums.Resize(rows);
  }

  const int64_t row_bytes = cols * ElementBytes(element);
  const int64_t slab_rows = std::max(kSlabRows, kSlabBytes / row_bytes / kSlabRows * kSlabRows);
  AlignedBuffer<uint8_t> slab(std::min(slab_rows, rows) * row_bytes);
  SlabConverter converter(parts, element, int8_limit, &packed);
  for (int64_t begin = 0; begin < rows; begin += slab_rows) {
    const int64_t count = std::min(slab_rows, rows - begin);
    converter.Convert(begin, begin + count, slab.data());
    place(slab.data(), begin, count, packed.data.data());
    ReleaseRows(parts, begin, begin + count);
  }
  return packed;
}

absl::StatusOr<PackedWeights> PackWeights(absl::Span<const StoredMatrix> parts,
                                          absl::Span<const StoredMatrix> biases,
                                          ComputeType compute_type, int int8_limit,
                                          const dnnl::memory::desc& layout,
                                          const dnnl::engine& engine) {
  const int64_t cols = parts[0].cols;
  int64_t rows = 0;
  for (const StoredMatrix& part : parts) rows += part.rows;
  const PackedElement element = compute_type == ComputeType::kF32    ? PackedElement::kF32
                                : compute_type == ComputeType::kBf16 ? PackedElement::kBf16
                                                                     : PackedElement::kInt8;
  try {
    dnnl::stream stream(engine);
    return PackWeights(parts, biases, element, int8_limit, layout.get_size(),
                       [&](const void* slab, int64_t begin, int64_t count, uint8_t* packed) {
                         const dnnl::memory::desc from({cols, count}, DataType(layout),
                                                       dnnl::memory::format_tag::ba);
                         const dnnl::memory::desc to =
                             begin == 0 && count == rows
                                 ? layout
                                 : layout.submemory_desc({cols, count}, {0, begin});
                         dnnl::memory source(from, engine, const_cast<void*>(slab));
                         dnnl::memory target(to, engine, DNNL_MEMORY_NONE);
                         target.set_data_handle(packed);
                         dnnl::reorder(source, target).execute(stream, source, target);
                         stream.wait();
                       });
  } catch (const dnnl::error& error) {
    return absl::InternalError(
        absl::StrCat("oneDNN cannot re-order weights [", rows, ", ", cols, "]: ", error.what()));
  }
}

}  // namespace kvasir
