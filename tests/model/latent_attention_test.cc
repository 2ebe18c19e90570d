#include "runtime/model/layers/latent_attention.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <vector>

#include "gtest/gtest.h"
#include "kvcache/kv_layout.h"
#include "runtime/model/rope_table.h"
#include "runtime/ops/input_rows.h"
#include "tests/ops/tensor_matrix.h"
#include "tests/reference/naive_ops.h"

namespace kvasir {
namespace {

using reference::Matrix;
using reference::RandomMatrix;

constexpr int kHidden = 48, kBlockTokens = 16;

StoredMatrix Stored(const Matrix& m) { return {m.data.data(), WeightFormat::kF32, m.rows, m.cols}; }

std::unique_ptr<Linear> Pack(const Matrix& m) {
  return *Linear::Create({Stored(m)}, {}, ComputeType::kF32);
}

// Some rows and columns as a matrix of their own.
Matrix Part(const Matrix& m, int64_t first_row, int64_t rows, int64_t first_col, int64_t cols) {
  Matrix part(rows, cols);
  for (int64_t r = 0; r < rows; ++r) {
    std::copy_n(m.row(first_row + r) + first_col, cols, part.row(r));
  }
  return part;
}

Matrix RmsNormed(const Matrix& x, const Matrix& weight) {
  return reference::RmsNorm(x, {}, weight.data, 1e-6);
}

struct Layer {
  Layer(int q_rank, int heads, int kv_rank, int nope, int rope, int v_dim)
      : q_a(RandomMatrix(std::max(q_rank, 1), kHidden, 1, 0.2f)),
        q_a_norm(RandomMatrix(1, std::max(q_rank, 1), 2)),
        q(RandomMatrix(heads * (nope + rope), q_rank > 0 ? q_rank : kHidden, 3, 0.2f)),
        kv_a(RandomMatrix(kv_rank + rope, kHidden, 4, 0.2f)),
        kv_a_norm(RandomMatrix(1, kv_rank, 5)),
        kv_b(RandomMatrix(heads * (nope + v_dim), kv_rank, 6, 0.2f)),
        o(RandomMatrix(kHidden, heads * v_dim, 7, 0.2f)) {
    LatentSpec latent;
    latent.q_rank = q_rank;
    latent.kv_rank = kv_rank;
    latent.nope_dim = nope;
    latent.rope_dim = rope;
    latent.v_dim = v_dim;
    spec.query_heads = heads;
    spec.scale = 1.0f / std::sqrt(static_cast<float>(nope + rope));
    spec.latent = latent;
    rope_spec.rotary_dim = rope;

    const auto norm = [](const Matrix& m) {
      NormWeights weights;
      weights.weight.Resize(m.data.size());
      std::copy(m.data.begin(), m.data.end(), weights.weight.data());
      return weights;
    };
    if (q_rank > 0) {
      weights.q_a = Pack(q_a);
      weights.q_a_norm = norm(q_a_norm);
    }
    weights.q = Pack(q);
    weights.kv_a = Pack(kv_a);
    weights.kv_a_norm = norm(kv_a_norm);
    for (int h = 0; h < heads; ++h) {
      const int64_t first = h * (nope + v_dim);
      const Matrix up = Part(kv_b, first, nope, 0, kv_rank);
      Matrix transposed(kv_rank, nope);
      for (int64_t r = 0; r < nope; ++r) {
        for (int64_t c = 0; c < kv_rank; ++c) transposed.at(c, r) = up.at(r, c);
      }
      weights.k_up.push_back(Pack(transposed));
      weights.v_up.push_back(Pack(Part(kv_b, first + nope, v_dim, 0, kv_rank)));
    }
    weights.o = Pack(o);
  }

  // The published form: keys and values expanded for every head.
  Matrix Naive(const Matrix& x) const {
    const LatentSpec& latent = *spec.latent;
    const int heads = spec.query_heads, nope = latent.nope_dim, rope = latent.rope_dim;
    std::vector<int32_t> positions(x.rows);
    std::iota(positions.begin(), positions.end(), 0);
    Matrix queries =
        latent.q_rank > 0
            ? reference::Multiply(RmsNormed(reference::Multiply(x, q_a, {}), q_a_norm), q, {})
            : reference::Multiply(x, q, {});
    const Matrix rows = reference::Multiply(x, kv_a, {});
    const Matrix latents = RmsNormed(Part(rows, 0, x.rows, 0, latent.kv_rank), kv_a_norm);
    Matrix k_pe = Part(rows, 0, x.rows, latent.kv_rank, rope);
    reference::Rope(&k_pe, 1, rope, rope, positions, rope_spec.theta);
    const Matrix expanded = reference::Multiply(latents, kv_b, {});
    Matrix mixed(x.rows, heads * latent.v_dim);
    for (int h = 0; h < heads; ++h) {
      Matrix q_head = Part(queries, 0, x.rows, h * (nope + rope), nope + rope);
      Matrix q_pe = Part(q_head, 0, x.rows, nope, rope);
      reference::Rope(&q_pe, 1, rope, rope, positions, rope_spec.theta);
      Matrix k_head(x.rows, nope + rope);
      for (int64_t r = 0; r < x.rows; ++r) {
        std::copy_n(q_pe.row(r), rope, q_head.row(r) + nope);
        std::copy_n(expanded.row(r) + h * (nope + latent.v_dim), nope, k_head.row(r));
        std::copy_n(k_pe.row(r), rope, k_head.row(r) + nope);
      }
      const Matrix v_head =
          Part(expanded, 0, x.rows, h * (nope + latent.v_dim) + nope, latent.v_dim);
      const Matrix out = reference::Attend(q_head, k_head, v_head, 1, 1, 0, spec.scale);
      for (int64_t r = 0; r < x.rows; ++r) {
        std::copy_n(out.row(r), latent.v_dim, mixed.row(r) + h * latent.v_dim);
      }
    }
    return reference::Multiply(mixed, o, {});
  }

  AttentionSpec spec;
  RopeSpec rope_spec;
  Matrix q_a, q_a_norm, q, kv_a, kv_a_norm, kv_b, o;
  AttentionWeights weights;
};

// The rows of one sequence in a pool whose unwritten memory is NaN.
class Sequence {
 public:
  Sequence(const Layer& layer, int positions)
      : layer_(layer), rope_(layer.rope_spec, positions), attention_(ComputeType::kF32) {
    const LatentSpec& latent = *layer.spec.latent;
    KvLayoutSpec spec;
    spec.layers.resize(1);
    spec.layers[0].kv_heads = 1;
    spec.layers[0].k_dim = latent.kv_rank + latent.rope_dim;
    spec.layers[0].v_dim = latent.kv_rank;
    spec.layers[0].latent = true;
    spec.element_type = KvElementType::kF32;
    spec.block_tokens = kBlockTokens;
    const KvLayout layout = *KvLayout::Create(spec);
    const int blocks = (positions + kBlockTokens - 1) / kBlockTokens;
    memory_.Resize(layout.block_bytes() * blocks);
    std::fill_n(memory_.data(), memory_.size(), uint8_t{0xff});
    view_.base = memory_.data();
    view_.block_bytes = layout.block_bytes();
    view_.slice = layout.slice(0);
    view_.element_type = spec.element_type;
    view_.block_tokens = kBlockTokens;
    view_.k_dim = view_.v_stride = spec.layers[0].k_dim;
    view_.v_dim = spec.layers[0].v_dim;
    for (int b = blocks; b > 0; --b) blocks_.push_back(b - 1);
  }

  // The next rows of x.
  Matrix Run(const Matrix& x, int first, int count) {
    Matrix rows = Part(x, first, count, 0, kHidden), out(RoundUpRows(count), kHidden);
    MatmulInput input(ComputeType::kF32);
    SetRows(View(rows), &input);
    std::vector<int32_t> positions(count);
    std::iota(positions.begin(), positions.end(), first);
    std::vector<BlockId> slots;
    for (const int32_t p : positions) slots.push_back(blocks_[p / kBlockTokens]);
    attention_.StoreKv(layer_.spec, layer_.weights, rope_.view(), input, positions, slots, view_);
    attention_.Attend(layer_.spec, layer_.weights, rope_.view(), input, positions,
                      {AttentionSequence{0, count, first, blocks_}}, view_,
                      MatrixView{out.data.data(), count, kHidden, kHidden}, /*accumulate=*/false);
    return Part(out, 0, count, 0, kHidden);
  }

 private:
  const Layer& layer_;
  RopeTable rope_;
  LatentAttention attention_;
  AlignedBuffer<uint8_t> memory_;
  KvView view_;
  std::vector<BlockId> blocks_;
};

TEST(LatentAttention, AbsorbedFormEqualsExpandedHeads) {
  const Layer layers[] = {Layer(0, 2, 16, 8, 8, 8), Layer(24, 3, 40, 12, 6, 10),
                          Layer(0, 16, 64, 16, 16, 16)};
  for (const Layer& layer : layers) {
    const Matrix x = RandomMatrix(45, kHidden, 9);
    const Matrix expected = layer.Naive(x);
    Sequence sequence(layer, 45);
    EXPECT_LE(reference::MaxDifference(sequence.Run(x, 0, 45), expected), 2e-4)
        << layer.spec.query_heads << " heads";
  }
}

TEST(LatentAttention, AnyChunksGiveTheSame) {
  const Layer layer(24, 3, 40, 12, 6, 10);
  const Matrix x = RandomMatrix(37, kHidden, 9);
  const Matrix expected = layer.Naive(x);
  for (const int chunk : {1, 5, 16, 36}) {
    Sequence sequence(layer, 37);
    for (int first = 0; first < 37; first += chunk) {
      const int count = std::min(chunk, 37 - first);
      EXPECT_LE(reference::MaxDifference(sequence.Run(x, first, count),
                                         Part(expected, first, count, 0, kHidden)),
                2e-4)
          << "chunks of " << chunk;
    }
  }
}

}  // namespace
}  // namespace kvasir
