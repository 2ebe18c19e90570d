// Products with weights, y = x W^T + b, on oneDNN. Weights are re-ordered once at load into the
// layout that oneDNN asks for; primitives are cached by shape and (rounded-up) number of rows,
// shared by all products of a shape, so that the step loop neither re-orders nor builds primitives
// after warm-up.
//
// A Linear is immutable after Create. The primitives belong to the thread that runs it (the engine
// thread), which is the one that should call Warm.
#pragma once

#include <cstdint>
#include <map>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/aligned_buffer.h"
#include "runtime/kernels/activation_kernels.h"
#include "runtime/ops/tensor.h"

namespace kvasir {

// The compute type that this CPU really uses for `wanted`: bf16 becomes f32 where the CPU has no
// AVX-512 BF16 (oneDNN would emulate it, slower than f32 and no more exact); everything else stays.
// Linear and MatmulInput apply it themselves, so callers may pass the wanted type throughout.
ComputeType EffectiveComputeType(ComputeType wanted);

// The left operand of a product in the compute type's own form: f32, bf16, or u8 with a scale per
// row. Written by the elementwise operation before the product (RmsNorm, SiluMul, attention's
// output), so that quantising costs no pass of its own. Reused over layers and steps; grows, never
// shrinks. Not thread safe (disjoint rows may be written in parallel).
class MatmulInput {
 public:
  explicit MatmulInput(ComputeType compute_type)
      : compute_type_(EffectiveComputeType(compute_type)) {}

  // Makes room for rows x cols; old contents are lost. Rows beyond `rows` may be read (never used):
  // the capacity covers ReadableRows(rows).
  void Resize(int64_t rows, int64_t cols);

  // Converts one row of f32 values [cols] into the compute type's form. Rows may be set in
  // parallel.
  void SetRow(int64_t row, const float* values);

  ComputeType compute_type() const { return compute_type_; }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  const void* data() const { return data_.data(); }
  // [rows] f32, int8 only: x = (u8 - 128) * scale.
  const float* row_scales() const { return row_scales_.data(); }
  float* mutable_row_scales() { return row_scales_.data(); }
  void* mutable_data() { return data_.data(); }

 private:
  ComputeType compute_type_;
  int64_t rows_ = 0;
  int64_t cols_ = 0;
  AlignedBuffer<uint8_t> data_;
  AlignedBuffer<float> row_scales_;
};

// Row counts are rounded up to these so that few primitives exist: 1, 2, 4, 8, then multiples of 8
// to 64, of 16 to 128, of 32 to 512, of 128 beyond. The rows between are computed too: at most a
// quarter more, for a chunk of a prompt and the streams beside it are seldom a round number.
int64_t RoundUpRows(int64_t rows);

// The rows of x that a product of `rows` may read: RoundUpRows, and the next multiple of 16, for
// kernels that load whole tiles. What lies beyond `rows` never reaches a result.
int64_t ReadableRows(int64_t rows);

// Bytes by the name of the format that weights are stored in: WeightFormatInfo::name, or "int8"
// with a scale per output channel.
using WeightBytes = std::map<absl::string_view, size_t>;

class Linear {
 public:
  // One or several stored matrices [out_i, in] with equal `in`, stacked over their rows into one
  // product (fused QKV, gate+up); biases are empty, or one per part ([out_i, 1]; data == nullptr =
  // no bias for that part). InvalidArgument when shapes disagree; Internal with oneDNN's message
  // when it refuses.
  static absl::StatusOr<std::unique_ptr<Linear>> Create(absl::Span<const StoredMatrix> parts,
                                                        absl::Span<const StoredMatrix> biases,
                                                        ComputeType compute_type);
  virtual ~Linear() = default;

  // y[0:x.rows(), 0:out_features()] = x W^T + b, or += when `accumulate` (the residual stream).
  // y.stride >= out_features(), and y must have room for RoundUpRows(x.rows()) rows: rows beyond
  // x.rows() get unspecified values (with accumulate too). x's compute type must be this one's.
  virtual void Run(const MatmulInput& x, MatrixView y, bool accumulate) = 0;

  // out = activation(y's first half) * its second half, y = x W^T + b: the first product of a
  // feed-forward layer and what the second one reads, the same as Run and Activate (activation.h)
  // give. out is resized; scratch is a view of y that Run could write, with contents unspecified
  // afterwards. out_features() is even.
  virtual void RunGated(const MatmulInput& x, Activation activation, MatrixView scratch,
                        MatmulInput* out);

  // Builds the calling thread's primitives for every rounded row count up to max_rows, so that no
  // step pays for it. Little to do when a product of the same shape was warmed.
  virtual void Warm(int64_t max_rows) = 0;

  virtual int64_t in_features() const = 0;
  virtual int64_t out_features() const = 0;
  virtual size_t packed_bytes() const = 0;
  // Adds the packed bytes to those of the formats that they are stored in.
  virtual void CountBytes(WeightBytes* bytes) const = 0;

  // Whether ReadRow gives a weight row's values: of quantised weights, which then need no other
  // copy to be looked up in (tied embeddings).
  virtual bool has_rows() const { return false; }
  // Output row `row` in f32, [in_features()]. Thread safe.
  virtual void ReadRow(int64_t row, float* out) const;
};

}  // namespace kvasir
