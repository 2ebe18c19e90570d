#include "runtime/model/layers/expert_feed_forward.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/ops/input_rows.h"
#include "tests/ops/tensor_matrix.h"
#include "tests/reference/naive_ops.h"

namespace kvasir {
namespace {

using reference::Matrix;
using reference::RandomMatrix;

constexpr int kHidden = 40, kWidth = 24;

StoredMatrix Stored(const Matrix& m) { return {m.data.data(), WeightFormat::kF32, m.rows, m.cols}; }

// A layer whose weights are kept in plain form too.
struct Layer {
  struct Expert {
    Matrix gate_up, down;
  };

  Layer(const MoeSpec& spec, ComputeType type) : spec(spec), type(type), feed_forward(type) {
    router = RandomMatrix(spec.experts, kHidden, 1, 0.3f);
    weights.router = *Linear::Create({Stored(router)}, {}, ComputeType::kF32);
    for (int e = 0; e < spec.experts; ++e) {
      plain.push_back(Make(2 + e, spec.width));
      weights.experts.push_back(Pack(plain.back(), type));
    }
    if (spec.shared_width > 0) {
      shared = Make(1000, spec.shared_width);
      weights.shared = Pack(shared, type);
      shared_gate = RandomMatrix(1, kHidden, 1001, 0.3f);
      weights.shared_gate = *Linear::Create({Stored(shared_gate)}, {}, type);
    }
  }

  static Expert Make(uint32_t seed, int width) {
    return {RandomMatrix(2 * width, kHidden, seed, 0.2f),
            RandomMatrix(kHidden, width, seed + 500, 0.2f)};
  }
  static MlpWeights Pack(const Expert& expert, ComputeType type) {
    return {*Linear::Create({Stored(expert.gate_up)}, {}, type),
            *Linear::Create({Stored(expert.down)}, {}, type)};
  }

  Matrix Run(const Matrix& x) {
    Matrix rows = x, out(RoundUpRows(x.rows), kHidden);
    std::fill(out.data.begin(), out.data.end(), NAN);
    MatmulInput router_x(ComputeType::kF32), input(type);
    SetRows(View(rows), &router_x);
    SetRows(View(rows), &input);
    feed_forward.Run(spec, weights, router_x, input,
                     MatrixView{out.data.data(), x.rows, kHidden, kHidden});
    out.rows = x.rows;
    out.data.resize(x.rows * kHidden);
    return out;
  }

  Matrix Mlp(const Expert& expert, const Matrix& x) const {
    Matrix gate_up = reference::Multiply(x, expert.gate_up, {});
    const int64_t width = gate_up.cols / 2;
    Matrix gated(x.rows, width);
    for (int64_t r = 0; r < x.rows; ++r) {
      for (int64_t c = 0; c < width; ++c) {
        double g = gate_up.at(r, c), u = gate_up.at(r, width + c);
        if (spec.clamp > 0) {
          g = std::min<double>(g, spec.clamp);
          u = std::clamp<double>(u, -spec.clamp, spec.clamp) + 1;
        }
        const double alpha = spec.clamp > 0 ? spec.clamp_alpha : 1;
        gated.at(r, c) = static_cast<float>(u * g / (1 + std::exp(-alpha * g)));
      }
    }
    return reference::Multiply(gated, expert.down, {});
  }

  // Softmax, best `chosen`, no renormalising: the router's kinds have their own test.
  Matrix Naive(const Matrix& x, std::set<int>* used) const {
    const Matrix logits = reference::Multiply(x, router, {});
    Matrix out(x.rows, kHidden);
    std::vector<Matrix> all;
    for (const Expert& expert : plain) all.push_back(Mlp(expert, x));
    for (int64_t r = 0; r < x.rows; ++r) {
      double sum = 0;
      std::vector<std::pair<double, int>> order;
      for (int e = 0; e < spec.experts; ++e) {
        sum += std::exp(logits.at(r, e));
        order.push_back({-logits.at(r, e), e});
      }
      std::sort(order.begin(), order.end());
      for (int i = 0; i < spec.chosen; ++i) {
        const int e = order[i].second;
        used->insert(e);
        const double weight = std::exp(logits.at(r, e)) / sum;
        for (int64_t c = 0; c < kHidden; ++c) {
          out.at(r, c) += static_cast<float>(weight * all[e].at(r, c));
        }
      }
    }
    if (spec.shared_width > 0) {
      const Matrix every = Mlp(shared, x), gate = reference::Multiply(x, shared_gate, {});
      for (int64_t r = 0; r < x.rows; ++r) {
        const double weight = spec.shared_gate ? 1 / (1 + std::exp(-gate.at(r, 0))) : 1;
        for (int64_t c = 0; c < kHidden; ++c) {
          out.at(r, c) += static_cast<float>(weight * every.at(r, c));
        }
      }
    }
    return out;
  }

  MoeSpec spec;
  ComputeType type;
  Matrix router, shared_gate;
  std::vector<Expert> plain;
  Expert shared;
  MoeWeights weights;
  ExpertFeedForward feed_forward;
};

MoeSpec Spec(int experts, int chosen) {
  MoeSpec spec;
  spec.experts = experts;
  spec.chosen = chosen;
  spec.width = kWidth;
  return spec;
}

std::vector<MoeSpec> Specs() {
  std::vector<MoeSpec> specs = {Spec(1, 1), Spec(8, 2), Spec(30, 6)};
  specs.push_back(Spec(8, 2));
  specs.back().shared_width = 17;
  specs.push_back(Spec(8, 2));
  specs.back().shared_width = 17;
  specs.back().shared_gate = true;
  specs.push_back(Spec(4, 2));
  specs.back().clamp = 0.5f;
  return specs;
}

TEST(ExpertFeedForward, AgreesWithNaive) {
  for (const MoeSpec& spec : Specs()) {
    Layer layer(spec, ComputeType::kF32);
    for (const int64_t rows : {1, 2, 33, 150}) {
      const Matrix x = RandomMatrix(rows, kHidden, 7);
      std::set<int> used;
      const Matrix expected = layer.Naive(x, &used);
      ASSERT_LE(reference::MaxDifference(layer.Run(x), expected), 2e-5)
          << spec.experts << " experts, " << rows << " rows";
    }
  }
}

// What a step reads: the weights of experts that a row chose, once each, and no others.
TEST(ExpertFeedForward, ReadsTheChosenExpertsOnly) {
  for (const MoeSpec& spec : Specs()) {
    Layer layer(spec, ComputeType::kF32);
    for (const int64_t rows : {1, 3, 40}) {
      const Matrix x = RandomMatrix(rows, kHidden, 7 + rows);
      std::set<int> used;
      layer.Naive(x, &used);
      int64_t expected = 0;
      const auto bytes = [](const MlpWeights& expert) {
        return static_cast<int64_t>(expert.gate_up->packed_bytes() + expert.down->packed_bytes());
      };
      for (const int e : used) expected += bytes(layer.weights.experts[e]);
      if (spec.shared_width > 0) expected += bytes(layer.weights.shared);
      const int64_t before = layer.feed_forward.weight_bytes_read();
      layer.Run(x);
      EXPECT_EQ(layer.feed_forward.weight_bytes_read() - before, expected) << rows;
    }
  }
}

}  // namespace
}  // namespace kvasir
