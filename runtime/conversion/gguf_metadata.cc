#include "runtime/conversion/gguf_metadata.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "runtime/model/rope_table.h"

namespace kvasir {
namespace {

using Scaling = RopeSpec::Scaling;

struct Name {
  const char* architecture;  // the class that config.json names
  const char* gguf;
};
constexpr Name kNames[] = {{"LlamaForCausalLM", "llama"},
                           {"MistralForCausalLM", "llama"},
                           {"Qwen2ForCausalLM", "qwen2"},
                           {"Qwen3ForCausalLM", "qwen3"}};

absl::Status Refuse(const ModelSpec& spec, absl::string_view reason) {
  return absl::UnimplementedError(absl::StrCat("this ", spec.architecture,
                                               " cannot be written as GGUF: ", reason,
                                               "; name a folder as the output"));
}

bool IsWritable(Scaling scaling) {
  return scaling == Scaling::kNone || scaling == Scaling::kLinear || scaling == Scaling::kYarn ||
         scaling == Scaling::kLlama3;
}

bool Near(float a, float b) { return std::abs(a - b) <= 1e-5f * std::abs(a); }

bool SameRope(const RopeSpec& a, const RopeSpec& b) {
  const std::vector<float> x = RopeInverseFrequencies(a), y = RopeInverseFrequencies(b);
  return x.size() == y.size() && std::equal(x.begin(), x.end(), y.begin(), Near) &&
         Near(a.attention_factor, b.attention_factor);
}

const char* AttentionDifference(const AttentionSpec& a, const AttentionSpec& b) {
  if (a.query_heads != b.query_heads || a.kv_heads != b.kv_heads) return "its heads";
  if (a.head_dim != b.head_dim || a.v_head_dim != b.v_head_dim) return "the size of heads";
  if (a.kv_owner != b.kv_owner || a.window != b.window) return "what layers attend to";
  if (a.qk_norm.span != b.qk_norm.span) return "the norms of q and k";
  if (!Near(a.scale, b.scale)) return "the scale of scores";
  return nullptr;
}

}  // namespace

absl::StatusOr<std::string> GgufArchitectureOf(const ModelSpec& spec) {
  const auto* const name = std::find_if(std::begin(kNames), std::end(kNames), [&](const Name& n) {
    return spec.architecture == n.architecture;
  });
  if (name == std::end(kNames)) {
    return Refuse(spec, "of the architectures, Llama, Mistral, Qwen 2 and Qwen 3 are written");
  }
  if (spec.sharing_rule != LayerSharingRule::kNone) {
    return Refuse(spec, "the format has no layers that share K/V");
  }
  for (int layer = 0; layer < spec.num_layers(); ++layer) {
    if (spec.attention(layer).window > 0) return Refuse(spec, "it has layers with windows");
    if (spec.attention(layer).kv_heads != spec.attention(0).kv_heads) {
      return Refuse(spec, "its layers have different numbers of K/V heads");
    }
  }
  if (!IsWritable(spec.ropes[0].scaling)) {
    return Refuse(spec, "of the kinds of RoPE scaling, linear, yarn and llama3 are written");
  }
  return name->gguf;
}

void AddGgufMetadata(const ModelSpec& spec, const std::string& architecture,
                     GgufHeaderWriter* header) {
  const AttentionSpec& attention = spec.attention(0);
  const RopeSpec& rope = spec.ropes[0];
  const auto key = [&](absl::string_view name) { return absl::StrCat(architecture, ".", name); };
  const auto number = [&](absl::string_view name, int64_t value) {
    header->AddU32(key(name), static_cast<uint32_t>(value));
  };
  header->AddString("general.architecture", architecture);
  header->AddString("general.type", "model");
  header->AddU32("general.quantization_version", 2);
  number("block_count", spec.num_layers());
  number("context_length", spec.max_positions);
  number("embedding_length", spec.hidden_size);
  number("feed_forward_length", spec.layers[0].feed_forward.dense.width);
  number("attention.head_count", attention.query_heads);
  number("attention.head_count_kv", attention.kv_heads);
  number("attention.key_length", attention.head_dim);
  number("attention.value_length", attention.v_head_dim);
  number("rope.dimension_count", rope.rotary_dim);
  number("vocab_size", spec.vocab_size);
  header->AddF32(key("attention.layer_norm_rms_epsilon"), spec.head.norm.eps);
  header->AddF32(key("rope.freq_base"), rope.theta);
  if (rope.scaling == Scaling::kLinear || rope.scaling == Scaling::kYarn) {
    const bool yarn = rope.scaling == Scaling::kYarn;
    header->AddString(key("rope.scaling.type"), yarn ? "yarn" : "linear");
    header->AddF32(key("rope.scaling.factor"), rope.factor);
    if (yarn) {
      number("rope.scaling.original_context_length", rope.original_max_positions);
      header->AddF32(key("rope.scaling.yarn_beta_fast"), rope.beta_fast);
      header->AddF32(key("rope.scaling.yarn_beta_slow"), rope.beta_slow);
    }
  }
}

std::vector<float> GgufRopeDivisors(const ModelSpec& spec) {
  const RopeSpec& rope = spec.ropes[0];
  if (rope.scaling != Scaling::kLlama3) return {};
  RopeSpec plain = rope;
  plain.scaling = Scaling::kNone;
  std::vector<float> divisors = RopeInverseFrequencies(plain);
  const std::vector<float> scaled = RopeInverseFrequencies(rope);
  for (size_t i = 0; i < divisors.size(); ++i) divisors[i] /= scaled[i];
  return divisors;
}

absl::Status CheckSameModel(const ModelSpec& meant, const ModelSpec& read) {
  const auto differs = [&](absl::string_view what) {
    return Refuse(meant, absl::StrCat("the file would lose ", what));
  };
  if (meant.num_layers() != read.num_layers() || meant.hidden_size != read.hidden_size ||
      meant.vocab_size != read.vocab_size || meant.max_positions != read.max_positions) {
    return differs("its sizes");
  }
  if (meant.head.tied != read.head.tied ||
      meant.embedding.multiplier != read.embedding.multiplier ||
      meant.head.multiplier != read.head.multiplier || meant.head.softcap != read.head.softcap ||
      !Near(meant.head.norm.eps, read.head.norm.eps)) {
    return differs("what its embeddings and head do");
  }
  for (int layer = 0; layer < meant.num_layers(); ++layer) {
    const LayerSpec& a = meant.layers[layer];
    const LayerSpec& b = read.layers[layer];
    if (const char* what = AttentionDifference(*a.attention(), *b.attention())) {
      return differs(what);
    }
    const DenseMlpSpec& mlp = a.feed_forward.dense;
    if (a.placement != b.placement || a.residual_multiplier != b.residual_multiplier ||
        mlp.width != b.feed_forward.dense.width ||
        mlp.activation != b.feed_forward.dense.activation) {
      return differs("its feed-forward");
    }
  }
  if (!SameRope(meant.ropes[0], read.ropes[0])) return differs("the scaling of its RoPE");
  return absl::OkStatus();
}

}  // namespace kvasir
