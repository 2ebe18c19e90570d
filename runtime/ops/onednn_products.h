// oneDNN's matmul primitives by shape, shared by all weights of that shape: 128 experts times 48
// layers have two shapes, so they need two families of primitives and not twelve thousand.
//
// A primitive knows no weights; each execution is given them. The cache belongs to the calling
// thread (an engine has one), so that the step loop takes no lock and two engines never write into
// the same operands. It holds what the loaded models' shapes need, at most some forty row counts
// for each, and is freed when its thread ends. For runtime/ops only.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "dnnl.hpp"
#include "runtime/ops/product_choice.h"
#include "runtime/ops/tensor.h"

namespace kvasir {

// The engine of all products.
const dnnl::engine& CpuEngine();

// Which weights may share primitives.
struct ProductKind {
  ComputeType compute_type = ComputeType::kF32;
  int64_t in = 0;
  int64_t out = 0;
  bool bias = false;  // fused; never with int8
  int threads = 0;    // that primitives are planned for

  auto operator<=>(const ProductKind&) const = default;
};

// Which primitive of a kind: for so many rows (rounded up) and columns.
struct ProductShape {
  int64_t rows = 0;
  int64_t columns = 0;
  bool accumulate = false;
  bool strip = false;  // on one thread, over a part of the columns

  auto operator<=>(const ProductShape&) const = default;
};

// What one execution works on; the data pointers are set before each.
struct ProductOperands {
  dnnl::memory source, weights, bias, target, scratch;
};

// One primitive. Executions at the same time need operands of their own: a strip's has them for
// every thread; the others run on the whole team and have one.
struct Product {
  dnnl::matmul primitive;
  std::vector<ProductOperands> operands;  // [threads]
  size_t scratch_bytes = 0;

  // x: [rows, in], y: [rows, columns], weights in the family's layout from the first column on.
  // bias: of those columns, or null. Aborts when oneDNN refuses: shapes were accepted when the
  // primitive was made.
  void Execute(int thread, const void* x, const void* weights, const float* bias, void* y) const;
};

// All products of one kind. Members throw dnnl::error where oneDNN refuses.
class ProductFamily {
 public:
  explicit ProductFamily(const ProductKind& kind);

  // Of the packed weights, logically [in, out]; every product of the kind is made for it.
  const dnnl::memory::desc& layout() const { return layout_; }

  // Columns of every strip but the last; 0 where strips are no use or not possible.
  int64_t strip_columns() const { return strip_columns_; }
  int64_t num_strips() const { return (kind_.out + strip_columns_ - 1) / strip_columns_; }
  int64_t last_strip_columns() const { return kind_.out - (num_strips() - 1) * strip_columns_; }
  // Of packed weights; set where there are strips.
  size_t column_bytes() const { return column_bytes_; }

  // Whether kernels of our own (packed_products.h) can read the packed weights. Compared with
  // layouts made for it, for oneDNN promises none: 2.6 and 3.7 choose this one wherever the shape
  // fits.
  bool IsColumnLayout() const;

  // With operands for `threads` executions at a time. Stays valid as long as the family.
  const Product& Get(const ProductShape& shape, size_t threads);

  // Which way multiplies how many rows; of the thread's engine, like the primitives. Absent until
  // it is set.
  const std::optional<ProductChoice>& choice() const { return choice_; }
  void SetChoice(const ProductChoice& choice) { choice_ = choice; }

  // How many inputs oneDNN adds up before it adds them to those before, in bf16; 0 where that is
  // not known, in which case columns of ours would give other bits.
  int64_t piece() const { return piece_; }
  void SetPiece(int64_t piece) { piece_ = piece; }

  size_t num_products() const { return products_.size(); }

 private:
  // layout: absent = let oneDNN choose.
  dnnl::matmul::primitive_desc Describe(const ProductShape& shape,
                                        std::optional<dnnl::memory::desc> layout) const;
  dnnl::memory::desc StripLayout(int64_t columns) const;
  void ChooseStrips();

  const ProductKind kind_;
  dnnl::memory::desc layout_;
  int64_t strip_columns_ = 0;
  size_t column_bytes_ = 0;
  std::map<ProductShape, Product> products_;
  std::optional<ProductChoice> choice_;
  int64_t piece_ = 0;
};

// The calling thread's family of that kind, made when it is first asked for.
ProductFamily& ProductsOf(const ProductKind& kind);

}  // namespace kvasir
