// What a decoder-only model is, in numbers: the parsed, checked form of a checkpoint's config.json.
// Everything behind the loader depends on this and not on any family's key names. Plain values;
// immutable after parsing.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kvcache/kv_layout.h"
#include "runtime/model/layer_spec.h"

namespace kvasir {

struct ModelSpec {
  // The class that config.json names: it decides how the weights' tensors are
  // called (architectures/registry.h), and nothing else behind the loader.
  std::string architecture;
  int hidden_size = 0;
  int vocab_size = 0;
  int max_positions = 0;  // the context the model was made for, tokens
  EmbeddingSpec embedding;
  std::vector<RopeSpec> ropes;    // what AttentionSpec::rope points into
  std::vector<LayerSpec> layers;  // [num_layers]
  HeadSpec head;
  PerLayerEmbeddingSpec per_layer_embedding;
  AltUpSpec altup;

  LayerSharingRule sharing_rule = LayerSharingRule::kNone;
  std::string sharing_claim;  // the config's keys behind kv_owner, for messages; empty = no sharing
                              // between layers

  std::vector<int> eos_token_ids;  // config.json and generation_config.json together
  std::optional<int> bos_token_id;

  // Sampling defaults of generation_config.json; absent = not given there.
  std::optional<float> default_temperature;
  std::optional<float> default_top_p;
  std::optional<int> default_top_k;
  std::optional<float> default_min_p;
  std::optional<float> default_repetition_penalty;

  // What of the folder's files is not done, in words for the log.
  std::vector<std::string> notes;

  int num_layers() const { return static_cast<int>(layers.size()); }
  // The attention of a layer that has one.
  const AttentionSpec& attention(int layer) const { return *layers[layer].attention(); }
  // Whether the layer writes K/V or a state of its own, so that every position must pass it.
  bool stores(int layer) const {
    return layers[layer].attention() == nullptr || attention(layer).kv_owner == layer;
  }
  // The largest of those.
  int last_storing_layer() const;
  // The largest of all layers, 0 without attention: for descriptions and bounds of requests.
  int query_heads() const;
  int head_dim() const;
  // [layers]: those of layers whose attention has plain scores, 0 for the others
  // (AttentionMethod::Resolve).
  std::vector<int32_t> PlainQueryHeads() const;
  // Sequences of more positions rotate with longrope's long divisors (BatchSequence::long_context),
  // in all of their positions; INT_MAX: there is no such rule.
  int short_context_tokens() const;

  // Weights of the checkpoint; tied embeddings count once.
  int64_t num_parameters() const;
  // Makes full attention of each window that no sequence of this many tokens leaves; 0 = as many as
  // the model has positions. Such layers then join the groups, the picks and the prefixes of those
  // without a window.
  void OpenWindows(int32_t context_tokens);
  // The pool's layout for this model. InvalidArgument if the sharing table contradicts itself.
  absl::StatusOr<KvLayout> MakeKvLayout(KvElementType element_type, int block_tokens,
                                        KvColumns k_columns = KvColumns::kOff) const;
  // "gqa", "mqa+cla", ...
  std::string SharingName() const;
};

}  // namespace kvasir
