// What a decoder-only model is, in numbers: the parsed, checked form of a checkpoint's config.json.
// Everything behind the loader depends on this and not on any family's key names. Plain values;
// immutable after parsing.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kvcache/kv_layout.h"

namespace kvasir {

// Rotary embedding and its context extension.
struct RopeSpec {
  enum class Scaling { kNone, kLinear, kLlama3 };
  float theta = 10000.0f;
  Scaling scaling = Scaling::kNone;
  float factor = 1.0f;                // linear and llama3
  float low_freq_factor = 1.0f;       // llama3
  float high_freq_factor = 4.0f;      // llama3
  int original_max_positions = 8192;  // llama3
};

struct ModelSpec {
  std::string architecture;  // "LlamaForCausalLM"
  int hidden_size = 0;
  int num_layers = 0;
  int num_query_heads = 0;
  int head_dim = 0;
  int intermediate_size = 0;
  int vocab_size = 0;
  int max_positions = 0;  // the context the model was made for, tokens
  float rms_norm_eps = 1e-5f;
  bool tied_embeddings = false;
  bool attention_bias = false;         // of q, k and v
  bool attention_output_bias = false;  // of o
  bool mlp_bias = false;
  RopeSpec rope;

  // K/V sharing: see kv_layout.h.
  std::vector<int> owner;     // [num_layers]
  std::vector<int> kv_heads;  // [num_layers]
  LayerSharingRule sharing_rule = LayerSharingRule::kNone;
  std::string sharing_claim;  // the config's keys behind `owner`, for messages; empty = no sharing
                              // between layers

  std::vector<int> eos_token_ids;  // config.json and generation_config.json together
  std::optional<int> bos_token_id;

  // Sampling defaults of generation_config.json; absent = not given there.
  std::optional<float> default_temperature;
  std::optional<float> default_top_p;
  std::optional<int> default_top_k;

  // Weights of the checkpoint; tied embeddings count once.
  int64_t num_parameters() const;
  // The pool's layout for this model. InvalidArgument if the sharing table contradicts itself.
  absl::StatusOr<KvLayout> MakeKvLayout(KvElementType element_type, int block_tokens,
                                        SparqKeys sparq_keys = SparqKeys::kOff) const;
  // "gqa", "mqa+cla", ...
  std::string SharingName() const;
};

}  // namespace kvasir
