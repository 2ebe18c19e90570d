#include "runtime/conversion/gguf_metadata.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "runtime/conversion/same_layers.h"
#include "runtime/model/gguf/gguf_keys.h"
#include "runtime/model/rope_table.h"

namespace kvasir {
namespace {

using Scaling = RopeSpec::Scaling;

absl::Status Refuse(const ModelSpec& spec, absl::string_view reason) {
  return absl::UnimplementedError(absl::StrCat("this ", spec.architecture,
                                               " cannot be written as GGUF: ", reason,
                                               "; name a folder as the output"));
}

bool Near(float a, float b) { return std::abs(a - b) <= 1e-5f * std::abs(a); }

bool SameFrequencies(const RopeSpec& a, const RopeSpec& b, bool long_context) {
  const std::vector<float> x = RopeInverseFrequencies(a, long_context);
  const std::vector<float> y = RopeInverseFrequencies(b, long_context);
  return x.size() == y.size() && std::equal(x.begin(), x.end(), y.begin(), Near);
}

// Where contexts change from one set of frequencies to another; 0: they do not.
int LongContextFrom(const RopeSpec& rope) {
  return rope.scaling == Scaling::kLongRope && rope.short_divisors != rope.long_divisors
             ? rope.original_max_positions
             : 0;
}

bool SameRope(const RopeSpec& a, const RopeSpec& b) {
  return SameFrequencies(a, b, false) && SameFrequencies(a, b, true) &&
         LongContextFrom(a) == LongContextFrom(b) && Near(a.attention_factor, b.attention_factor);
}

// What differs in a layer's attention, or null.
const char* AttentionDifference(const ModelSpec& meant, const AttentionSpec& a,
                                const ModelSpec& read, const AttentionSpec& b) {
  if (a.query_heads != b.query_heads || a.kv_heads != b.kv_heads) return "its heads";
  if (a.head_dim != b.head_dim || a.v_head_dim != b.v_head_dim) return "the size of heads";
  if (a.kv_owner != b.kv_owner) return "which layers share K/V";
  if (a.window != b.window) return "its windows";
  if (!Same(a.qk_norm, b.qk_norm)) return "the norms of q and k";
  if (!Near(a.scale, b.scale)) return "the scale of scores";
  if (a.softcap != b.softcap) return "the cap of scores";
  if ((a.rope < 0) != (b.rope < 0)) return "which layers are rotated";
  if (a.rope >= 0 && !SameRope(meant.ropes[a.rope], read.ropes[b.rope])) {
    return "the scaling of its RoPE";
  }
  AttentionSpec rest = b;
  rest.scale = a.scale;
  rest.rope = a.rope;
  // Without a temperature the number of positions says nothing.
  if (a.query_temperature_beta == 0)
    rest.query_temperature_positions = a.query_temperature_positions;
  return Same(a, rest) ? nullptr : "what its attention does";
}

const char* LayerDifference(const ModelSpec& meant, const ModelSpec& read, int layer) {
  const LayerSpec& a = meant.layers[layer];
  const LayerSpec& b = read.layers[layer];
  if ((a.attention() == nullptr) != (b.attention() == nullptr))
    return "which layers have attention";
  if (a.attention() != nullptr) {
    const char* what = AttentionDifference(meant, *a.attention(), read, *b.attention());
    if (what != nullptr) return what;
  } else if (!Same(a.mixer, b.mixer)) {
    return "what its layers do";
  }
  if (!Same(a.feed_forward.moe, b.feed_forward.moe)) return "its experts";
  if (!Same(a.feed_forward.dense, b.feed_forward.dense)) return "its feed-forward";
  LayerSpec rest = b;
  rest.mixer = a.mixer;
  return Same(a, rest) ? nullptr : "its norms or residual branches";
}

const char* EndsDifference(const ModelSpec& meant, ModelSpec read) {
  if (!Near(meant.head.multiplier, read.head.multiplier)) return "the scale of its logits";
  read.head.multiplier = meant.head.multiplier;
  if (meant.head.softcap != read.head.softcap) return "the cap of its logits";
  return Same(meant.head, read.head) && Same(meant.embedding, read.embedding)
             ? nullptr
             : "what its embeddings and head do";
}

void AddSizes(const ModelSpec& spec, const nlohmann::ordered_json& config, GgufKeys* keys) {
  keys->Integer("block_count", spec.num_layers());
  keys->Integer("context_length", spec.max_positions);
  keys->Integer("embedding_length", spec.hidden_size);
  keys->Integer("vocab_size", spec.vocab_size);
  int width = 0;
  const MoeSpec* experts = nullptr;
  for (const LayerSpec& layer : spec.layers) {
    width = std::max(width, layer.feed_forward.dense.width);
    if (layer.feed_forward.moe) experts = &*layer.feed_forward.moe;
  }
  if (width == 0 && experts != nullptr) {
    // Where every layer has experts, the config's own word, as other writers have it.
    const auto stated = config.find("intermediate_size");
    width = stated != config.end() && stated->is_number_unsigned() ? stated->get<int>()
                                                                   : experts->width;
  }
  keys->Integer("feed_forward_length", width);
  if (experts != nullptr) {
    keys->Integer("expert_count", experts->experts);
    keys->Integer("expert_used_count", experts->chosen);
  }
  const NormSpec& norm = spec.head.norm;
  keys->Number(norm.kind == NormKind::kRms ? "attention.layer_norm_rms_epsilon"
                                           : "attention.layer_norm_epsilon",
               norm.eps);
}

void AddAttention(const ModelSpec& spec, GgufKeys* keys) {
  std::vector<int32_t> kv_heads;
  const AttentionSpec* first = nullptr;
  for (const LayerSpec& layer : spec.layers) {
    const AttentionSpec* attention = layer.attention();
    if (first == nullptr) first = attention;
    kv_heads.push_back(attention == nullptr ? 0 : attention->kv_heads);
  }
  if (first == nullptr) return;
  keys->Integer("attention.head_count", first->query_heads);
  const bool alike = std::set<int32_t>(kv_heads.begin(), kv_heads.end()).size() == 1;
  if (alike) {
    keys->Integer("attention.head_count_kv", first->kv_heads);
  } else {
    keys->Integers("attention.head_count_kv", kv_heads);
  }
  keys->Integer("attention.key_length", first->head_dim);
  keys->Integer("attention.value_length", first->v_head_dim);
}

void AddRope(const RopeSpec& rope, GgufKeys* keys) {
  keys->Integer("rope.dimension_count", rope.rotary_dim);
  float theta = rope.theta;
  if (rope.scaling == Scaling::kDynamic) {
    // Raised once for all, and the format has no other place for it.
    theta *= std::pow(
        rope.alpha, static_cast<float>(rope.rotary_dim) / static_cast<float>(rope.rotary_dim - 2));
  }
  keys->Number("rope.freq_base", theta);
  if (rope.scaling == Scaling::kLinear) {
    keys->Text("rope.scaling.type", "linear");
    keys->Number("rope.scaling.factor", rope.factor);
  } else if (rope.scaling == Scaling::kYarn) {
    keys->Text("rope.scaling.type", "yarn");
    keys->Number("rope.scaling.factor", rope.factor);
    keys->Integer("rope.scaling.original_context_length", rope.original_max_positions);
    keys->Number("rope.scaling.yarn_beta_fast", rope.beta_fast);
    keys->Number("rope.scaling.yarn_beta_slow", rope.beta_slow);
  } else if (rope.scaling == Scaling::kLongRope) {
    keys->Text("rope.scaling.type", "longrope");
    keys->Integer("rope.scaling.original_context_length", rope.original_max_positions);
    keys->Number("rope.scaling.attn_factor", rope.attention_factor);
  }
}

}  // namespace

absl::StatusOr<Architecture> GgufArchitectureOf(const ModelSpec& spec) {
  std::set<absl::string_view> written;
  const char* name = nullptr;
  for (const Architecture& architecture : Architectures()) {
    if (architecture.gguf.name == nullptr) continue;
    written.insert(architecture.name);
    if (spec.architecture == architecture.name) name = architecture.gguf.name;
  }
  if (name == nullptr) {
    return Refuse(
        spec, absl::StrCat("of the architectures, ", absl::StrJoin(written, ", "), " are written"));
  }
  if (spec.sharing_rule != LayerSharingRule::kNone) {
    return Refuse(spec, "the format has no layers that share K/V");
  }
  return FindGgufArchitecture(name);
}

void AddGgufMetadata(const ModelSpec& spec, const nlohmann::ordered_json& config,
                     const Architecture& architecture, GgufHeaderWriter* header) {
  header->AddString("general.architecture", architecture.gguf.name);
  header->AddString("general.type", "model");
  header->AddU32("general.quantization_version", 2);
  GgufKeys keys(architecture.gguf.name, header);
  AddSizes(spec, config, &keys);
  AddAttention(spec, &keys);
  if (!spec.ropes.empty()) AddRope(spec.ropes[0], &keys);
  if (architecture.gguf.describe != nullptr) architecture.gguf.describe(spec, &keys);
}

std::vector<std::pair<std::string, std::vector<float>>> GgufRopeTensors(const ModelSpec& spec) {
  if (spec.ropes.empty()) return {};
  const RopeSpec& rope = spec.ropes[0];
  if (rope.scaling == Scaling::kLongRope) {
    return {{"rope_factors_long.weight", rope.long_divisors},
            {"rope_factors_short.weight", rope.short_divisors}};
  }
  if (rope.scaling != Scaling::kLlama3) return {};
  RopeSpec plain = rope;
  plain.scaling = Scaling::kNone;
  std::vector<float> divisors = RopeInverseFrequencies(plain);
  const std::vector<float> scaled = RopeInverseFrequencies(rope);
  for (size_t i = 0; i < divisors.size(); ++i) divisors[i] /= scaled[i];
  return {{"rope_freqs.weight", divisors}};
}

absl::Status CheckSameModel(const ModelSpec& meant, const ModelSpec& read) {
  const auto differs = [&](absl::string_view what) {
    return Refuse(meant, absl::StrCat("the file would lose ", what));
  };
  if (meant.num_layers() != read.num_layers() || meant.hidden_size != read.hidden_size ||
      meant.vocab_size != read.vocab_size || meant.max_positions != read.max_positions) {
    return differs("its sizes");
  }
  if (const char* what = EndsDifference(meant, read)) return differs(what);
  for (int layer = 0; layer < meant.num_layers(); ++layer) {
    if (const char* what = LayerDifference(meant, read, layer)) {
      return differs(absl::StrCat(what, " (layer ", layer, ")"));
    }
  }
  if (!Same(meant.per_layer_embedding, read.per_layer_embedding) ||
      !Same(meant.altup, read.altup)) {
    return differs("its side streams");
  }
  return absl::OkStatus();
}

}  // namespace kvasir
