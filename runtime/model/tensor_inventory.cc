#include "runtime/model/tensor_inventory.h"

#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace kvasir {
namespace {

// What config.json says about the K/V of a layer, for messages.
std::string OwnerClaim(const ModelSpec& spec, int layer) {
  const std::string rule =
      spec.sharing_claim.empty() ? "no sharing between layers" : spec.sharing_claim;
  if (spec.owner[layer] == layer) {
    return absl::StrCat("config.json (", rule, ") says that layer ", layer, " has its own K/V");
  }
  return absl::StrCat("config.json (", rule, ") says that layer ", layer,
                      " reads the K/V of layer ", spec.owner[layer]);
}

// The owner table against the layers that have K and V projections.
absl::Status CheckOwners(const Checkpoint& checkpoint, const ModelSpec& spec) {
  for (int layer = 0; layer < spec.num_layers; ++layer) {
    for (const char* part : {"self_attn.k_proj.weight", "self_attn.v_proj.weight"}) {
      const std::string name = LayerTensorName(layer, part);
      const bool is_owner = spec.owner[layer] == layer;
      if (checkpoint.Has(name) == is_owner) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          OwnerClaim(spec, layer), ", but the checkpoint ", is_owner ? "lacks " : "has ", name,
          "; correct the sharing keys of config.json or use the checkpoint they belong to"));
    }
  }
  return absl::OkStatus();
}

// Tensors that some writers store and that hold nothing to load.
bool MayBeIgnored(absl::string_view name, const ModelSpec& spec) {
  return absl::StrContains(name, ".rotary_emb.") ||
         (spec.tied_embeddings && name == "lm_head.weight");
}

}  // namespace

std::string LayerTensorName(int layer, absl::string_view part) {
  return absl::StrCat("model.layers.", layer, ".", part);
}

std::vector<TensorShape> ExpectedTensors(const ModelSpec& spec) {
  std::vector<TensorShape> tensors;
  const int64_t hidden = spec.hidden_size;
  const int64_t query_size = int64_t{spec.num_query_heads} * spec.head_dim;
  tensors.push_back({"model.embed_tokens.weight", spec.vocab_size, hidden});
  for (int layer = 0; layer < spec.num_layers; ++layer) {
    const auto add = [&](absl::string_view part, int64_t rows, int64_t cols) {
      tensors.push_back({LayerTensorName(layer, part), rows, cols});
    };
    const auto add_linear = [&](absl::string_view part, int64_t out, int64_t in, bool bias) {
      add(absl::StrCat(part, ".weight"), out, in);
      if (bias) add(absl::StrCat(part, ".bias"), out, 1);
    };
    const int64_t kv_size = int64_t{spec.kv_heads[layer]} * spec.head_dim;
    add("input_layernorm.weight", hidden, 1);
    add_linear("self_attn.q_proj", query_size, hidden, spec.attention_bias);
    if (spec.owner[layer] == layer) {
      add_linear("self_attn.k_proj", kv_size, hidden, spec.attention_bias);
      add_linear("self_attn.v_proj", kv_size, hidden, spec.attention_bias);
    }
    add_linear("self_attn.o_proj", hidden, query_size, spec.attention_output_bias);
    add("post_attention_layernorm.weight", hidden, 1);
    add_linear("mlp.gate_proj", spec.intermediate_size, hidden, spec.mlp_bias);
    add_linear("mlp.up_proj", spec.intermediate_size, hidden, spec.mlp_bias);
    add_linear("mlp.down_proj", hidden, spec.intermediate_size, spec.mlp_bias);
  }
  tensors.push_back({"model.norm.weight", hidden, 1});
  if (!spec.tied_embeddings) tensors.push_back({"lm_head.weight", spec.vocab_size, hidden});
  return tensors;
}

void AdoptBiases(const Checkpoint& checkpoint, ModelSpec* spec) {
  const auto has = [&checkpoint](absl::string_view part) {
    return checkpoint.Has(LayerTensorName(0, part));
  };
  spec->attention_bias = spec->attention_bias || has("self_attn.q_proj.bias");
  spec->attention_output_bias = spec->attention_output_bias || has("self_attn.o_proj.bias");
  spec->mlp_bias = spec->mlp_bias || has("mlp.gate_proj.bias");
}

absl::Status CheckTensors(const Checkpoint& checkpoint, const ModelSpec& spec) {
  KVASIR_RETURN_IF_ERROR(CheckOwners(checkpoint, spec));
  std::set<std::string> expected;
  for (const TensorShape& tensor : ExpectedTensors(spec)) {
    KVASIR_RETURN_IF_ERROR(checkpoint.Check(tensor.name, tensor.rows, tensor.cols));
    expected.insert(tensor.name);
  }
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    if (expected.count(name) > 0 || MayBeIgnored(name, spec)) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "the checkpoint has tensor ", name, ", which has no place in a ", spec.architecture, " of ",
        spec.num_layers, " layers as config.json describes it"));
  }
  return absl::OkStatus();
}

}  // namespace kvasir
