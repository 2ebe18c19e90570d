#include "tests/model/reference_decoder.h"

#include <cmath>
#include <string>

#include "runtime/model/rope_table.h"

namespace kvasir::testing {
namespace {

using Row = std::vector<double>;
using Rows = std::vector<Row>;

class Reference {
 public:
  Reference(const ModelSpec& spec, const FloatTensors& tensors)
      : spec_(spec), tensors_(tensors), frequencies_(RopeInverseFrequencies(spec.ropes[0])) {}

  Rows Logits(absl::Span<const TokenId> tokens) const {
    const size_t n = tokens.size();
    const FloatTensor& embedding = tensors_.at("model.embed_tokens.weight");
    Rows residual(n);
    for (size_t t = 0; t < n; ++t) {
      for (int i = 0; i < spec_.hidden_size; ++i) {
        residual[t].push_back(embedding.values[tokens[t] * spec_.hidden_size + i]);
      }
    }
    std::vector<Rows> keys(spec_.num_layers()), values(spec_.num_layers());  // of owner layers
    for (int layer = 0; layer < spec_.num_layers(); ++layer) {
      const std::string prefix = "model.layers." + std::to_string(layer) + ".";
      Rows queries(n);
      for (size_t t = 0; t < n; ++t) {
        const Row x = Norm(residual[t], prefix + "input_layernorm");
        queries[t] = Rotate(Product(x, prefix + "self_attn.q_proj"), t);
        if (spec_.attention(layer).kv_owner == layer) {
          keys[layer].push_back(Rotate(Product(x, prefix + "self_attn.k_proj"), t));
          values[layer].push_back(Product(x, prefix + "self_attn.v_proj"));
        }
      }
      const int owner = spec_.attention(layer).kv_owner;
      for (size_t t = 0; t < n; ++t) {
        Add(Product(
                Attend(queries[t], keys[owner], values[owner], t, spec_.attention(layer).kv_heads),
                prefix + "self_attn.o_proj"),
            &residual[t]);
        const Row x = Norm(residual[t], prefix + "post_attention_layernorm");
        Row gate = Product(x, prefix + "mlp.gate_proj");
        const Row up = Product(x, prefix + "mlp.up_proj");
        for (size_t i = 0; i < gate.size(); ++i) gate[i] *= up[i] / (1 + std::exp(-gate[i]));
        Add(Product(gate, prefix + "mlp.down_proj"), &residual[t]);
      }
    }
    Rows logits;
    for (const Row& row : residual) {
      logits.push_back(
          Product(Norm(row, "model.norm"), spec_.head.tied ? "model.embed_tokens" : "lm_head"));
    }
    return logits;
  }

 private:
  static void Add(const Row& x, Row* to) {
    for (size_t i = 0; i < x.size(); ++i) (*to)[i] += x[i];
  }

  Row Product(const Row& x, const std::string& name) const {
    const FloatTensor& weight = tensors_.at(name + ".weight");
    const auto bias = tensors_.find(name + ".bias");
    Row y;
    for (int64_t row = 0; row < weight.rows(); ++row) {
      double sum = bias == tensors_.end() ? 0.0 : bias->second.values[row];
      for (int64_t i = 0; i < weight.cols(); ++i)
        sum += weight.values[row * weight.cols() + i] * x[i];
      y.push_back(sum);
    }
    return y;
  }

  Row Norm(const Row& x, const std::string& name) const {
    const FloatTensor& weight = tensors_.at(name + ".weight");
    double squares = 0;
    for (const double value : x) squares += value * value;
    const double scale = 1 / std::sqrt(squares / x.size() + spec_.head.norm.eps);
    Row y;
    for (size_t i = 0; i < x.size(); ++i) y.push_back(x[i] * scale * weight.values[i]);
    return y;
  }

  // Pairs (i, i + head_dim / 2) of each head.
  Row Rotate(const Row& x, size_t position) const {
    const int half = spec_.head_dim() / 2;
    Row y(x.size());
    for (size_t head = 0; head < x.size(); head += spec_.head_dim()) {
      for (int i = 0; i < half; ++i) {
        const double angle = static_cast<double>(position) * frequencies_[i];
        const double a = x[head + i], b = x[head + half + i];
        y[head + i] = a * std::cos(angle) - b * std::sin(angle);
        y[head + half + i] = b * std::cos(angle) + a * std::sin(angle);
      }
    }
    return y;
  }

  Row Attend(const Row& query, const Rows& keys, const Rows& values, size_t position,
             int kv_heads) const {
    const int d = spec_.head_dim();
    const int group = spec_.query_heads() / kv_heads;
    Row out(query.size(), 0.0);
    for (int head = 0; head < spec_.query_heads(); ++head) {
      const int kv = head / group * d;
      Row weights;
      double sum = 0;
      for (size_t t = 0; t <= position; ++t) {
        double score = 0;
        for (int i = 0; i < d; ++i) score += query[head * d + i] * keys[t][kv + i];
        weights.push_back(std::exp(score / std::sqrt(static_cast<double>(d))));
        sum += weights.back();
      }
      for (size_t t = 0; t <= position; ++t) {
        for (int i = 0; i < d; ++i) out[head * d + i] += weights[t] / sum * values[t][kv + i];
      }
    }
    return out;
  }

  const ModelSpec& spec_;
  const FloatTensors& tensors_;
  const std::vector<float> frequencies_;
};

}  // namespace

std::vector<std::vector<double>> ReferenceLogits(const ModelSpec& spec, const FloatTensors& tensors,
                                                 absl::Span<const TokenId> tokens) {
  return Reference(spec, tensors).Logits(tokens);
}

}  // namespace kvasir::testing
